/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * For bcc, on a kernel without BTF: what bpf/kernel_types.h, maps.h, scratch.h and ctime.h are for
 * clang and libbpf. It comes first, and those are then left out.
 *
 * Structs come from the headers of the running kernel, which bcc compiles with, so their offsets
 * are right. Maps are those that mamplus-loader made: bcc_loader.py hands a descriptor of each as
 * MAMPLUS_FD_<name>, and how bcc changes source text (map.lookup()) is not made use of.
 */
#ifndef MAMPLUS_BCC_KERNEL_H
#define MAMPLUS_BCC_KERNEL_H

#define MAMPLUS_KERNEL_TYPES_H
#define MAMPLUS_MAPS_H
#define MAMPLUS_SCRATCH_H
#define MAMPLUS_CTIME_H

#ifdef MAMPLUS_KERNEL_STRUCTS
#include MAMPLUS_KERNEL_STRUCTS	/* in place of the headers; tests make it from the kernel's BTF */
#else
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/binfmts.h>
#include <linux/cred.h>
#include <linux/fs.h>
#endif

#include "mamplus_tables.h"

/* Names of ours that the headers have, too. */
#undef guard
#define finish_wait mamplus_finish_wait

/* --- programs: raw tracepoints, whose context is what tp_btf's is ---------------------------- */

#undef SEC
#define SEC(name)
#undef BPF_PROG
#define BPF_PROG(name, ...)                                                      \
	name(struct bpf_raw_tracepoint_args *raw);                               \
	static __always_inline int name##_of(__VA_ARGS__);                       \
	int name(struct bpf_raw_tracepoint_args *raw)                            \
	{                                                                        \
		unsigned long long *from = (void *)raw;                          \
		return name##_of(MAMPLUS_ARGUMENTS(__VA_ARGS__));                \
	}                                                                        \
	static __always_inline int name##_of(__VA_ARGS__)
#define MAMPLUS_ARGUMENTS(...) MAMPLUS_THIRD(__VA_ARGS__, MAMPLUS_FROM3, MAMPLUS_FROM2, MAMPLUS_FROM1)
#define MAMPLUS_THIRD(_1, _2, _3, which, ...) which
#define MAMPLUS_FROM1 (void *)from[0]
#define MAMPLUS_FROM2 MAMPLUS_FROM1, (void *)from[1]
#define MAMPLUS_FROM3 (void *)from[0], from[1], (void *)from[2]

/* bcc joins no functions of a program: each is part of its caller. */
#undef __noinline
#define __noinline static __always_inline

/* --- reading, as libbpf's macros of these names --------------------------------------------- */

#define MAMPLUS_READ1(from, a)                                               \
	({                                                                   \
		typeof((from)->a) read_;                                     \
		bpf_probe_read_kernel((void *)&read_, sizeof(read_), &(from)->a); \
		read_;                                                       \
	})
#define MAMPLUS_READ2(from, a, b) MAMPLUS_READ1(MAMPLUS_READ1(from, a), b)
#define MAMPLUS_READ3(from, a, b, c) MAMPLUS_READ1(MAMPLUS_READ2(from, a, b), c)
#define MAMPLUS_READ4(from, a, b, c, d) MAMPLUS_READ1(MAMPLUS_READ3(from, a, b, c), d)
#define MAMPLUS_FIFTH(_1, _2, _3, _4, which, ...) which
#define BPF_CORE_READ(from, ...)                                                                           \
	MAMPLUS_FIFTH(__VA_ARGS__, MAMPLUS_READ4, MAMPLUS_READ3, MAMPLUS_READ2, MAMPLUS_READ1)(from, __VA_ARGS__)
#define SEE BPF_CORE_READ
#define BPF_CORE_READ_STR_INTO(to, from, a) bpf_probe_read_kernel_str(to, sizeof(*(to)), &(from)->a)

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define bpf_ntohs(value) __builtin_bswap16(value)
#define bpf_ntohl(value) __builtin_bswap32(value)
#else
#define bpf_ntohs(value) (value)
#define bpf_ntohl(value) (value)
#endif
#define bpf_htons bpf_ntohs
#define bpf_htonl bpf_ntohl

/* --- maps ---------------------------------------------------------------------------------- */

struct mamplus_map;
#define MAMPLUS_MAP(fd) (*(struct mamplus_map *)bpf_pseudo_fd(1, fd))	/* 1: BPF_PSEUDO_MAP_FD */
#define active MAMPLUS_MAP(MAMPLUS_FD_active)
#define births MAMPLUS_MAP(MAMPLUS_FD_births)
#define ble MAMPLUS_MAP(MAMPLUS_FD_ble)
#define counters MAMPLUS_MAP(MAMPLUS_FD_counters)
#define events MAMPLUS_MAP(MAMPLUS_FD_events)
#define guard MAMPLUS_MAP(MAMPLUS_FD_guard)
#define heartbeat MAMPLUS_MAP(MAMPLUS_FD_heartbeat)
#define held MAMPLUS_MAP(MAMPLUS_FD_held)
#define holds MAMPLUS_MAP(MAMPLUS_FD_holds)
#define known MAMPLUS_MAP(MAMPLUS_FD_known)
#define loaders MAMPLUS_MAP(MAMPLUS_FD_loaders)
#define waits MAMPLUS_MAP(MAMPLUS_FD_waits)
#define posture MAMPLUS_MAP(MAMPLUS_FD_posture)
#define scope MAMPLUS_MAP(MAMPLUS_FD_scope)
#define scratch MAMPLUS_MAP(MAMPLUS_FD_scratch)
#define shape MAMPLUS_MAP(MAMPLUS_FD_shape)
#define waiting MAMPLUS_MAP(MAMPLUS_FD_waiting)

static __always_inline struct mamplus_held *scratch_slot(__u32 slot)
{
	return bpf_map_lookup_elem(&scratch, &slot);
}

/* --- the change time, whose name the loader found in the headers ----------------------------- */

static __always_inline void fill_ctime(struct mamplus_file *file, struct inode *inode)
{
#if defined(MAMPLUS_CTIME_IS_DISCRETE)
	file->ctime_s = BPF_CORE_READ(inode, i_ctime_sec);
	file->ctime_ns = BPF_CORE_READ(inode, i_ctime_nsec);
#elif defined(MAMPLUS_CTIME_IS_RENAMED)
	file->ctime_s = BPF_CORE_READ(inode, __i_ctime.tv_sec);
	file->ctime_ns = BPF_CORE_READ(inode, __i_ctime.tv_nsec);
#else
	file->ctime_s = BPF_CORE_READ(inode, i_ctime.tv_sec);
	file->ctime_ns = BPF_CORE_READ(inode, i_ctime.tv_nsec);
#endif
	file->ctime_ns &= 0x3fffffff;	/* since 6.13 the top bit says that the time was asked for */
}
#define see_ctime fill_ctime

#endif
