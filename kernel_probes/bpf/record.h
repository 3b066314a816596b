/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The head of a record, the counters, and the one way into the events ring.
 *
 * A wake-up for every record costs a quarter of a program start (docs: kernel.md), so one is
 * sent only for what is urgent, for each quarter of the ring that fills up, and when the agent
 * says in `waiting` that it sleeps without a timer. mamplus_native.c has the other half.
 */
#ifndef MAMPLUS_RECORD_H
#define MAMPLUS_RECORD_H

#include "maps.h"

#define MAMPLUS_RING_QUARTER (MAMPLUS_EVENTS_BYTES / 4)

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		__sync_fetch_and_add(value, 1);	/* cgroup hooks can be preempted on their CPU */
}

/* In a packet's path there is no task to name, and no helper that would. */
static __always_inline void fill_head_no_task(struct mamplus_head *head, __u16 kind, __u32 size)
{
	__builtin_memset(head, 0, sizeof(*head));
	head->boot_ns = bpf_ktime_get_boot_ns();
	head->size = size;
	head->slot = MAMPLUS_NO_SLOT;
	head->kind = kind;
}

#ifdef MAMPLUS_NO_STRUCTS

/*
 * For kernels without BTF, where nobody knows the offsets in a task: what helpers tell. They do not
 * tell the parent (0), and in a packet's path nothing of the task.
 */
static __always_inline void fill_head_of(struct mamplus_head *head, __u16 kind, __u32 size, __u64 cgroup_id)
{
	fill_head_no_task(head, kind, size);
	head->cgroup_id = cgroup_id;
}

/* Who sends a packet. */
static __always_inline void fill_comm(char (*comm)[MAMPLUS_COMM_LEN])
{
	(*comm)[0] = 0;
}

static __always_inline __u32 parent_tgid(void)
{
	return 0;
}

#else

static __always_inline __u32 parent_tgid(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, real_parent, tgid);
}

/* Who sends a packet. */
static __always_inline void fill_comm(char (*comm)[MAMPLUS_COMM_LEN])
{
	struct task_struct *task = (void *)bpf_get_current_task();

	BPF_CORE_READ_STR_INTO(comm, task, comm);
}

/* In a packet's path: no helper names the task there. */
static __always_inline void fill_head_of(struct mamplus_head *head, __u16 kind, __u32 size, __u64 cgroup_id)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	fill_head_no_task(head, kind, size);
	head->cgroup_id = cgroup_id;
	head->tgid = BPF_CORE_READ(task, tgid);
	head->ppid = parent_tgid();
	head->uid = BPF_CORE_READ(task, cred, uid.val);
	fill_comm(&head->comm);
}

#endif

static __always_inline void fill_head(struct mamplus_head *head, __u16 kind, __u32 size)
{
	fill_head_no_task(head, kind, size);
	head->cgroup_id = bpf_get_current_cgroup_id();
	head->tgid = bpf_get_current_pid_tgid() >> 32;
	head->ppid = parent_tgid();
	head->uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(head->comm, sizeof(head->comm));
}

static __always_inline __u64 wake_flag(__u32 size, bool urgent)
{
	__u32 zero = 0;
	struct mamplus_waiting *agent = bpf_map_lookup_elem(&waiting, &zero);
	__u64 fill = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);

	if (agent && agent->agent_waits) {
		agent->agent_waits = 0;
		return BPF_RB_FORCE_WAKEUP;
	}
	if (urgent || fill / MAMPLUS_RING_QUARTER != (fill + size) / MAMPLUS_RING_QUARTER)
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

/* Copy a record into the events ring; without room it is counted as lost, never waited for. */
static __always_inline void emit(void *record, __u32 size, bool urgent)
{
	/* 8: the ring's own header of each record. */
	long error = bpf_ringbuf_output(&events, record, size, wake_flag(size + 8, urgent));

	count(error ? MAMPLUS_C_LOST : MAMPLUS_C_PRODUCED);
}

/*
 * As emit(), for a record that is too large for the stack: fill what reserve() returns and submit() it, or
 * count it as lost. Compare it with NULL once: Linux 6.1 does not remember that such a pointer is none,
 * and takes a second comparison for a way on which the record is not given back.
 */
#define reserve(size) bpf_ringbuf_reserve(&events, size, 0)

static __always_inline void submit(void *record, __u32 size, bool urgent)
{
	count(MAMPLUS_C_PRODUCED);
	bpf_ringbuf_submit(record, wake_flag(size + 8, urgent));
}

#endif
