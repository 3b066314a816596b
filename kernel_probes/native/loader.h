/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The two halves of mamplus-loader. */
#ifndef MAMPLUS_LOADER_H
#define MAMPLUS_LOADER_H

int probe_all(void);	/* exit code: 0 unless nothing could be written */

#endif
