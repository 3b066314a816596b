/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which rules the current task may break: as the agent, as a command beside it, or by its program. */
#ifndef MAMPLUS_FILES_WHO_H
#define MAMPLUS_FILES_WHO_H

#include "ctime.h"
#include "known.h"
#include "files_place.h"

#define MAMPLUS_LINEAGE 8	/* parents that are asked whether they pass a right on */
#define MAMPLUS_NS_PER_S 1000000000ULL

static __always_inline bool is_agent(const struct mamplus_file_rules *now, struct task_struct *task)
{
	__u64 start = BPF_CORE_READ(task, group_leader, start_boottime) / MAMPLUS_START_TICK_NS;
	__u32 tgid = BPF_CORE_READ(task, tgid), zero = 0;
	struct mamplus_heartbeat *beat = bpf_map_lookup_elem(&heartbeat, &zero);

	if (tgid == now->agent_tgid && start == now->agent_start)
		return true;
	return beat && beat->responder_tgid == tgid;
}

/* A command of ours beside the agent: it writes our state, and is nobody's writer otherwise. */
static __always_inline bool is_guest(const struct mamplus_file_rules *now, struct task_struct *task)
{
	return (__u32)BPF_CORE_READ(task, tgid) == now->guest_tgid &&
	       BPF_CORE_READ(task, group_leader, start_boottime) / MAMPLUS_START_TICK_NS == now->guest_start;
}

static __always_inline bool agent_lives(const struct mamplus_file_rules *now)
{
	__u32 zero = 0;
	struct mamplus_heartbeat *beat = bpf_map_lookup_elem(&heartbeat, &zero);

	if (!beat || !now->agent_tgid)
		return false;
	return (__s64)(bpf_ktime_get_boot_ns() - beat->agent_ns) < (__s64)(MAMPLUS_AGENT_STALE_S * MAMPLUS_NS_PER_S);
}

/* What the program of `task` may, by the hash of its file; NULL: it is not named, or not known. */
static __always_inline struct mamplus_writer *writer_of(struct task_struct *task)
{
	struct inode *inode = BPF_CORE_READ(task, mm, exe_file, f_inode);
	struct mamplus_file file = { 0 };
	struct mamplus_known *entry;

	if (!inode)
		return NULL;
	file.dev = BPF_CORE_READ(inode, i_sb, s_dev);
	if (repeats_numbers(BPF_CORE_READ(inode, i_sb, s_magic)))
		file.dev = device_with(file.dev, (__u64)inode);
	entry = known_of(file.dev, BPF_CORE_READ(inode, i_ino));
	fill_ctime(&file, inode);
	if (!entry || entry->flags & MAMPLUS_KNOWN_ONCE || entry->size != (__u64)BPF_CORE_READ(inode, i_size) ||
	    entry->ctime_s != file.ctime_s || entry->ctime_ns != file.ctime_ns)
		return NULL;
	return bpf_map_lookup_elem(&guard_writers, entry->sha256);
}

/* One step from the task to its ancestors: what each may, and passes on. */
struct asking {
	struct task_struct *task;
	__u64 rules;	/* that nobody so far may break */
};

static long ask_one(__u32 index, void *context)
{
	struct asking *asking = context;
	struct mamplus_file_rules *now = rules_now();
	struct task_struct *task = asking->task;
	struct mamplus_writer *writer;

	if (!now || BPF_CORE_READ(task, tgid) <= 1)
		return 1;
	if (is_agent(now, task)) {
		asking->rules = 0;
		return 1;
	}
	if (is_guest(now, task))
		asking->rules &= ~now->own;
	writer = writer_of(task);
	if (writer)
		asking->rules &= ~(index ? writer->children : writer->rules | writer->children);
	asking->task = BPF_CORE_READ(task, real_parent);
	return !asking->rules;
}

/* Of `rules`, those that the current task may not break. Loops are bpf_loop(): a plain one is verified at each turn. */
static __always_inline __u64 not_permitted(const struct mamplus_file_rules *now, __u64 rules)
{
	struct asking asking = { .task = (void *)bpf_get_current_task(), .rules = rules };

	if (bpf_get_current_pid_tgid() >> 32 == 1)
		return 0;
	if (rules & now->own && !agent_lives(now))
		asking.rules &= ~now->own;
	bpf_loop(MAMPLUS_LINEAGE, ask_one, &asking, 0);
	return asking.rules;
}

#endif
