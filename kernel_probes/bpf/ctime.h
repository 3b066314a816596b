/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* When an inode changed last: kernels have spelled it in three ways, see kernel_types.h. */
#ifndef MAMPLUS_CTIME_H
#define MAMPLUS_CTIME_H

#include "kernel_types.h"
#include "mamplus_events.h"

#define MAMPLUS_CTIME_NS_MASK 0x3fffffff	/* since 6.13 the top bit says that the time was asked for */

static __always_inline void fill_ctime(struct mamplus_file *file, struct inode *inode)
{
	struct inode___renamed *renamed = (void *)inode;
	struct inode___discrete *discrete = (void *)inode;

	if (bpf_core_field_exists(discrete->i_ctime_sec)) {
		file->ctime_s = BPF_CORE_READ(discrete, i_ctime_sec);
		file->ctime_ns = BPF_CORE_READ(discrete, i_ctime_nsec);
	} else if (bpf_core_field_exists(renamed->__i_ctime)) {
		file->ctime_s = BPF_CORE_READ(renamed, __i_ctime.tv_sec);
		file->ctime_ns = BPF_CORE_READ(renamed, __i_ctime.tv_nsec);
	} else {
		file->ctime_s = BPF_CORE_READ(inode, i_ctime.tv_sec);
		file->ctime_ns = BPF_CORE_READ(inode, i_ctime.tv_nsec);
	}
	file->ctime_ns &= MAMPLUS_CTIME_NS_MASK;
}

/* The same of an inode that the verifier knows, see SEE(). */
static __always_inline void see_ctime(struct mamplus_file *out, struct inode *inode)
{
	struct inode___renamed *renamed = (void *)inode;
	struct inode___discrete *discrete = (void *)inode;

	if (bpf_core_field_exists(discrete->i_ctime_sec)) {
		out->ctime_s = discrete->i_ctime_sec;
		out->ctime_ns = discrete->i_ctime_nsec;
	} else if (bpf_core_field_exists(renamed->__i_ctime)) {
		out->ctime_s = renamed->__i_ctime.tv_sec;
		out->ctime_ns = renamed->__i_ctime.tv_nsec;
	} else {
		out->ctime_s = inode->i_ctime.tv_sec;
		out->ctime_ns = inode->i_ctime.tv_nsec;
	}
	out->ctime_ns &= MAMPLUS_CTIME_NS_MASK;
}

#endif
