/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who is ours and what is ours, and what is answered to others: for the hooks of lsm_guard.bpf.c. */
#ifndef MAMPLUS_GUARD_LOGIC_H
#define MAMPLUS_GUARD_LOGIC_H

#include "ble.h"
#include "record.h"
#include "mamplus_guard.h"

#define EPERM 1
#define MAX_ANCESTORS 8		/* agent, helper, shell of a helper, ... */

MAMPLUS_KEYED(own, HASH, MAMPLUS_OWN_MAX, __u32, struct mamplus_own, 0);

MAMPLUS_KEYED(own_objects, HASH, MAMPLUS_OWN_OBJECTS_MAX, struct mamplus_object_key, __u32, 0);

MAMPLUS_SINGLE(guard_state, struct mamplus_guard_state, 0);

/* --- who -------------------------------------------------------------------------------------- */

static __always_inline struct mamplus_guard_state *state_now(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&guard_state, &zero);
}

static __always_inline bool is_own_process(struct task_struct *leader)
{
	__u32 tgid = BPF_CORE_READ(leader, tgid);
	struct mamplus_own *entry = bpf_map_lookup_elem(&own, &tgid);

	return entry && entry->start_ticks == BPF_CORE_READ(leader, start_boottime) / MAMPLUS_TICK_NS;
}

/* The current process or one that it descends from is in `own`. */
static __always_inline bool is_ours(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	for (int i = 0; i < MAX_ANCESTORS; i++) {
		task = BPF_CORE_READ(task, group_leader);
		if (is_own_process(task))
			return true;
		if (BPF_CORE_READ(task, tgid) <= 1)
			return false;
		task = BPF_CORE_READ(task, real_parent);
	}
	return false;
}

static __always_inline bool may(void)
{
	struct mamplus_guard_state *state = state_now();

	if (!state || !state->own_map)
		return true;	/* the guard is being set up */
	return (bpf_get_current_pid_tgid() >> 32) == 1 || bpf_ktime_get_boot_ns() < state->window_until_ns || is_ours();
}

static __always_inline __u32 *own_object(__u32 object, __u32 dev, __u64 id)
{
	struct mamplus_object_key key = { .object = object, .dev = dev, .id = id };

	return bpf_map_lookup_elem(&own_objects, &key);
}

static __always_inline bool is_target(__u32 tgid)
{
	return bpf_map_lookup_elem(&own, &tgid) != NULL;
}

static __always_inline void tell(__u32 op, __u32 target, __u64 argument, __u32 flags)
{
	struct mamplus_tamper event;

	fill_head(&event.head, MAMPLUS_KIND_TAMPER, sizeof(event));
	event.head.flags = flags;
	event.op = op;
	event.target_tgid = target;
	event.argument = argument;
	emit(&event, sizeof(event), true);
}

/* Somebody else reached for what is ours. */
static __always_inline int refuse(__u32 op, __u32 target, __u64 argument)
{
	bool lets = is_monitor();

	tell(op, target, argument, lets ? MAMPLUS_F_MONITOR : MAMPLUS_F_REFUSED);
	if (lets)
		return 0;
	count(MAMPLUS_C_REFUSED);
	return -EPERM;
}

#endif
