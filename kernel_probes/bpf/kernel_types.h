/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The few kernel types and fields that the probes read.
 *
 * libbpf finds each field in the running kernel's BTF when it loads a program (CO-RE), so only
 * names and types count here, not offsets. A name after ___ is a flavor: the same kernel type
 * as other releases spell it; ask bpf_core_field_exists() before reading one.
 */
#ifndef MAMPLUS_KERNEL_TYPES_H
#define MAMPLUS_KERNEL_TYPES_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

/*
 * As BPF_CORE_READ, from what the verifier knows as a kernel struct (what tp_btf and LSM hooks are given): loads, where
 * that calls a helper for every step.
 */
#define SEE(from, ...) SEE_FIFTH(__VA_ARGS__, SEE4, SEE3, SEE2, SEE1)(from, __VA_ARGS__)
#define SEE_FIFTH(_1, _2, _3, _4, which, ...) which
#define SEE1(from, a) ((from)->a)
#define SEE2(from, a, b) ((from)->a->b)
#define SEE3(from, a, b, c) ((from)->a->b->c)
#define SEE4(from, a, b, c, d) ((from)->a->b->c->d)

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef unsigned short umode_t;

struct timespec64 {
	long long tv_sec;
	long tv_nsec;
};

struct dentry;

struct super_block {
	unsigned int s_dev;
	unsigned long s_flags;
	unsigned long s_magic;
	struct dentry *s_root;
};

struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

/* Up to 6.5: i_ctime. */
struct inode {
	umode_t i_mode;
	unsigned long i_ino;
	unsigned int i_nlink;
	long long i_size;
	unsigned int i_generation;
	struct super_block *i_sb;
	struct hlist_head i_dentry;
	struct {
		int counter;
	} i_writecount;
	struct timespec64 i_ctime;
};

/* 6.6 to 6.10: renamed by 13bc24457850 ("fs: rename i_ctime field to __i_ctime"). */
struct inode___renamed {
	struct timespec64 __i_ctime;
};

/* Since 6.11: 3aa63a569c64 ("fs: switch timespec64 fields in inode to discrete integers"). */
struct inode___discrete {
	long long i_ctime_sec;
	unsigned int i_ctime_nsec;
};

struct qstr {
	const unsigned char *name;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
	union {
		struct hlist_node d_alias;
	} d_u;
};

struct vfsmount {
	struct dentry *mnt_root;
	int mnt_flags;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	void *mnt_ns;
};

struct mount___since_6_17 {
	int mnt_t_flags;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	unsigned int f_mode;
	unsigned int f_flags;
	struct path f_path;
	struct inode *f_inode;
};

struct linux_binprm {
	struct file *file;
	const char *filename;
	char buf[256];
};

/* What the processor held when the kernel was entered, as each architecture has it. */
struct pt_regs___x86 {
	unsigned long orig_ax;
};

struct pt_regs___arm64 {
	int syscallno;
};

struct mm_struct {
	struct file *exe_file;
};

struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	unsigned long vm_flags;
	struct file *vm_file;
};

struct iattr {
	unsigned int ia_valid;
};

struct ns_common {
	unsigned int inum;
};

struct mnt_namespace {
	struct ns_common ns;
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
};

struct kuid {
	unsigned int val;
};

struct cred {
	struct kuid uid;
};

struct signal_struct {
	int group_exit_code;
	struct {
		int counter;
	} live;
};

struct task_struct {
	unsigned int flags;
	unsigned int ptrace;
	unsigned in_execve:1;
	struct mm_struct *mm;
	int pid;
	int tgid;
	int exit_code;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	unsigned long long start_boottime;
	const struct cred *cred;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	char comm[16];
};

#pragma clang attribute pop

#endif
