/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the policy declares for the time when there is no agent: told by the heartbeat that it leaves in a map.
 */
#ifndef MAMPLUS_STANDING_H
#define MAMPLUS_STANDING_H

#include "maps.h"

#define MAMPLUS_NS_PER_S 1000000000ULL

/* The agent has not lived for `after_s` seconds. 0: nothing is declared. Time asleep is no silence. */
static __always_inline bool agent_is_down(__u32 after_s)
{
	__u32 zero = 0;
	struct mamplus_heartbeat *beat;

	if (!after_s)
		return false;
	beat = bpf_map_lookup_elem(&heartbeat, &zero);
	if (!beat || !beat->agent_awake_ns)
		return false;
	/* Signed: it may have beaten since the clock was read. */
	return (__s64)(bpf_ktime_get_ns() - beat->agent_awake_ns) > (__s64)(after_s * MAMPLUS_NS_PER_S);
}

#endif
