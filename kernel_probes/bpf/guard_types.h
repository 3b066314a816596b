/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What of the kernel lsm_guard.bpf.c reads beside kernel_types.h: flavors (___guard) of the same types, with the fields
 * that lead from a descriptor, a pin or a file of /proc to what it stands for.
 */
#ifndef MAMPLUS_GUARD_TYPES_H
#define MAMPLUS_GUARD_TYPES_H

#include "kernel_types.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct qstr___guard {
	const unsigned char *name;
};

struct super_block___guard {
	unsigned int s_dev;
	unsigned long s_magic;
};

struct inode___guard {
	unsigned long i_ino;
	struct super_block___guard *i_sb;
};

struct dentry___guard {
	struct dentry___guard *d_parent;
	struct qstr___guard d_name;
	struct inode___guard *d_inode;
};

struct path___guard {
	struct dentry___guard *dentry;
};

struct file___guard {
	unsigned int f_mode;
	struct path___guard f_path;
	struct inode___guard *f_inode;
	void *private_data;
};

struct vfsmount___guard {
	struct super_block___guard *mnt_sb;
};

struct mm_struct___guard {
	struct file___guard *exe_file;
};

struct fdtable___guard {
	unsigned int max_fds;
	struct file___guard **fd;
};

struct files_struct___guard {
	struct {
		int counter;
	} count;
	struct fdtable___guard *fdt;
};

struct hlist_node___guard {
	struct hlist_node___guard *next;
};

struct hlist_head___guard {
	struct hlist_node___guard *first;
};

struct pid___guard {
	struct hlist_head___guard tasks[4];
};

struct proc_inode {
	struct pid___guard *pid;
	struct inode vfs_inode;
};

struct task_struct___guard {
	struct mm_struct___guard *mm;
	struct files_struct___guard *files;
	struct hlist_node___guard pid_links[4];
};

struct bpf_prog_aux___guard {
	unsigned int id;
};

struct bpf_prog___guard {
	struct bpf_prog_aux___guard *aux;
};

struct bpf_map___guard {
	unsigned int id;
	char name[16];
};

struct bpf_link___guard {
	unsigned int id;
	struct bpf_prog___guard *prog;
};

#pragma clang attribute pop

#endif
