/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The two halves of mamplus-loader. */
#ifndef MAMPLUS_LOADER_H
#define MAMPLUS_LOADER_H

#define LSM_NOT_CALLED "the kernel takes LSM programs and does not call them; boot it with bpf among lsm=..."

struct bpf_object;

int probe_all(void);	/* exit code: 0 unless nothing could be written */
int lsm_is_called(void);	/* 1; 0: as LSM_NOT_CALLED says; or -errno */

int choose_programs(struct bpf_object *object);	/* before it is loaded; 0 or -errno */

#endif
