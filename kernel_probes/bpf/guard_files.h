/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which files of cgroups and of /proc nobody else writes to. */
#ifndef MAMPLUS_GUARD_FILES_H
#define MAMPLUS_GUARD_FILES_H

#include "guard_logic.h"
#include "guard_types.h"

#define RLIMIT_OOM_SCORE 0x100	/* argument of LIMITS beyond the kernel's own numbers */

static __always_inline bool begins(const char *name, const char *with, __u32 length)
{
	for (__u32 i = 0; i < length; i++)
		if (name[i] != with[i])
			return false;
	return true;
}

/* cgroup.freeze, cgroup.kill, and what takes memory or the CPU away. */
static __always_inline bool is_harmful(const char *name)
{
	return begins(name, "cgroup.f", 8) || begins(name, "cgroup.k", 8) || begins(name, "memory.", 7) ||
	       begins(name, "cpu", 3) || begins(name, "pids.", 5);
}

static __always_inline int cgroup_file(struct file___guard *file, const char *name)
{
	__u64 id = BPF_CORE_READ(file, f_path.dentry, d_parent, d_inode, i_ino);

	if (!is_harmful(name) || !own_object(MAMPLUS_OBJECT_CGROUP, 0, id) || may())
		return 0;
	return refuse(MAMPLUS_TAMPER_CGROUP, 0, id);
}

/* The process whose directory of /proc a file lies in: any thread of it. */
static __always_inline __u32 tgid_of_proc(struct inode___guard *inode)
{
	struct proc_inode *proc = (void *)inode - bpf_core_field_offset(struct proc_inode, vfs_inode);
	struct hlist_node___guard *node = BPF_CORE_READ(proc, pid, tasks[0].first);
	struct task_struct *task;

	if (!node)
		return 0;
	task = (void *)node - bpf_core_field_offset(struct task_struct___guard, pid_links);
	return BPF_CORE_READ(task, tgid);
}

static __always_inline int proc_file(struct file___guard *file, const char *name)
{
	__u32 target;

	if (begins(name, "ftrace_ena", 10))	/* a sysctl: 0 takes every program of the LSM's away, with no bpf(2) */
		return may() ? 0 : refuse(MAMPLUS_TAMPER_TRACING, 0, 0);
	if (!begins(name, "oom_", 4))
		return 0;
	target = tgid_of_proc(BPF_CORE_READ(file, f_inode));
	if (!is_target(target) || may())
		return 0;
	return refuse(MAMPLUS_TAMPER_LIMITS, target, RLIMIT_OOM_SCORE);
}

#endif
