/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Records too large for the 512 bytes of stack, of each object its own. */
#ifndef MAMPLUS_SCRATCH_H
#define MAMPLUS_SCRATCH_H

#include "maps.h"

/* Slot 0: hooks; slot 1: the answer program, run by one thread only. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct mamplus_held);
} scratch SEC(".maps");

static __always_inline struct mamplus_held *scratch_slot(__u32 slot)
{
	return bpf_map_lookup_elem(&scratch, &slot);
}

#endif
