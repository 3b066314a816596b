/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What bpf/kernel_types.h and bpf/maps.h are to clang and libbpf, for bcc and a kernel without BTF.
 *
 * Structs come from the headers of the running kernel, which bcc compiles with, so an offset is
 * right because the headers are. Maps are those that mamplus-loader pinned: the loader of this
 * file hands a descriptor of each as MAMPLUS_FD_<name>, and bcc rewrites nothing.
 */
#ifndef MAMPLUS_BCC_KERNEL_H
#define MAMPLUS_BCC_KERNEL_H

/* Whoever includes these gets this file. */
#define MAMPLUS_KERNEL_TYPES_H
#define MAMPLUS_MAPS_H

#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/binfmts.h>
#include <linux/cred.h>
#include <linux/fs.h>

#include "mamplus_tables.h"

#undef SEC
#define SEC(name)

/* --- reading: as libbpf's macros of these names, with offsets of the headers ---------------- */

#define MAMPLUS_READ(to, from) bpf_probe_read_kernel(to, sizeof(*(to)), from)
#define MAMPLUS_STEP(from, member)                                \
	({                                                        \
		typeof((from)->member) value_;                    \
		MAMPLUS_READ(&value_, &(from)->member);           \
		value_;                                           \
	})
#define MAMPLUS_READ1(a, b) MAMPLUS_STEP(a, b)
#define MAMPLUS_READ2(a, b, c) MAMPLUS_READ1(MAMPLUS_STEP(a, b), c)
#define MAMPLUS_READ3(a, b, c, d) MAMPLUS_READ2(MAMPLUS_STEP(a, b), c, d)
#define MAMPLUS_READ4(a, b, c, d, e) MAMPLUS_READ3(MAMPLUS_STEP(a, b), c, d, e)
#define MAMPLUS_READ5(a, b, c, d, e, f) MAMPLUS_READ4(MAMPLUS_STEP(a, b), c, d, e, f)
#define MAMPLUS_PICK(_1, _2, _3, _4, _5, name, ...) name

