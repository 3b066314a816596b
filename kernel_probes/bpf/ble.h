/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Questions to the active BLE generation, the guard set and the posture.
 *
 * One read of `active` names generation and side; a program asks it once and uses that side for
 * all its lookups, so a swap in between never mixes two generations. No generation, no inner map
 * and no entry all mean "nothing".
 */
#ifndef MAMPLUS_BLE_H
#define MAMPLUS_BLE_H

#include "maps.h"

static __always_inline __u64 ble_word(void)
{
	__u32 zero = 0;
	struct mamplus_active *now = bpf_map_lookup_elem(&active, &zero);

	return now ? now->word : 0;
}

static __always_inline __u64 ble_generation(__u64 word)
{
	return word >> 1;
}

static __always_inline struct mamplus_posture *posture_now(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&posture, &zero);
}

static __always_inline bool is_monitor(void)
{
	struct mamplus_posture *now = posture_now();

	return now && now->mode == MAMPLUS_MODE_MONITOR;
}

static __always_inline struct mamplus_hit *ble_ask(void *table, __u64 word, const void *key)
{
	__u32 side = word & 1;
	void *inner = word ? bpf_map_lookup_elem(table, &side) : NULL;

	return inner ? bpf_map_lookup_elem(inner, key) : NULL;
}

/* Put the answer into the head: the greater verdict wins. */
static __always_inline void take_hit(struct mamplus_head *head, const struct mamplus_hit *hit)
{
	if (hit && hit->verdict > head->verdict) {
		head->verdict = hit->verdict;
		head->slot = hit->slot;
	}
}

static __always_inline bool is_guarded(const unsigned char *addr, __u16 port_be)
{
	struct mamplus_guard_key key = { .port_be = port_be };

	__builtin_memcpy(key.addr, addr, MAMPLUS_ADDR_LEN);
	if (bpf_map_lookup_elem(&guard, &key))
		return true;
	key.port_be = 0;
	return bpf_map_lookup_elem(&guard, &key) != NULL;
}

/* Judge an address: the guard, then the address itself, then the most specific network it lies in. */
static __always_inline void ble_address(struct mamplus_head *head, const unsigned char *addr, __u16 port_be)
{
	struct mamplus_cidr_key cidr = { .prefixlen = 128 };
	__u64 word = ble_word();

	head->generation = ble_generation(word);
	if (is_guarded(addr, port_be)) {
		head->verdict = MAMPLUS_GUARD;
		return;
	}
	__builtin_memcpy(cidr.addr, addr, MAMPLUS_ADDR_LEN);
	take_hit(head, ble_ask(&ble_addr, word, addr));
	take_hit(head, ble_ask(&ble_cidr, word, &cidr));
}

/* What was judged before a record was made, put into the record's head. */
static __always_inline void take_judgement(struct mamplus_head *head, const struct mamplus_head *judged)
{
	head->generation = judged->generation;
	head->verdict = judged->verdict;
	head->slot = judged->slot;
	head->flags = judged->flags;
}

/* A BLOCK, as the mode has it: mark the head, count it, and say whether to refuse. */
static __always_inline bool refuse_blocked(struct mamplus_head *head)
{
	if (head->verdict != MAMPLUS_BLOCK)
		return false;
	if (is_monitor()) {
		head->flags |= MAMPLUS_F_MONITOR;
		return false;
	}
	head->flags |= MAMPLUS_F_REFUSED;
	return true;
}

#endif
