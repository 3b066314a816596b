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

#include "mamplus_identity.h"
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

/* Answers of the tables: position << MAMPLUS_VERDICT_BITS | verdict, in one register; 0: nothing. */
static __always_inline __u32 hit_verdict(__u64 hit)
{
	return hit & MAMPLUS_VERDICT_MASK;
}

static __always_inline __u64 greater(__u64 one, __u64 two)
{
	return hit_verdict(two) > hit_verdict(one) ? two : one;
}

/* Whether a hit ends a search: a suspicion does not, or a layer that may not allow would take back a block. */
static __always_inline bool is_decided(__u64 hit)
{
	return hit_verdict(hit) > MAMPLUS_SUSPECT;
}

/* Whether filter `number` has all of these bits. */
static __always_inline bool has_bits(void *table, __u32 buckets, __u32 number, __u32 bits)
{
	__u32 index = buckets + 1 + number / 2 / MAMPLUS_BUCKET_WORDS;
	struct mamplus_bucket *line = bpf_map_lookup_elem(table, &index);

	return line && !(bits & ~((__u32 *)line->word)[number & (2 * MAMPLUS_BUCKET_WORDS - 1)]);
}

/* Whether a key may have the bucket `first` of `buckets` for its first one. */
static __always_inline bool may_hold(void *table, __u32 buckets, __u32 first, __u64 spread)
{
	return has_bits(table, buckets, first, mamplus_near(spread)) &&
	       has_bits(table, buckets, buckets + first, mamplus_far(spread));
}

static __always_inline __u64 match_at(void *table, __u32 index, __u64 identity)
{
	struct mamplus_bucket *bucket = bpf_map_lookup_elem(table, &index);

	if (!bucket)
		return 0;
#pragma unroll
	for (__u32 i = 0; i < MAMPLUS_BUCKET_WORDS; i++) {
		__u64 word = bucket->word[i];

		if (word >> MAMPLUS_VERDICT_BITS == identity)
			return ((__u64)index * MAMPLUS_BUCKET_WORDS + i) << MAMPLUS_VERDICT_BITS | (word & MAMPLUS_VERDICT_MASK);
	}
	return 0;
}

static __always_inline struct mamplus_shape *ble_shape(__u64 word)
{
	__u32 side = word & 1;

	return word ? bpf_map_lookup_elem(&shape, &side) : NULL;
}

/*
 * Ask one table. A function of its own (and global: verified once, whoever calls it how often),
 * so it takes and returns numbers only.
 */
__noinline __u64 ble_probe(__u32 which, __u64 word, __u64 identity)
{
	struct mamplus_shape *now = ble_shape(word);
	__u32 table_index = (word & 1) * MAMPLUS_T_MAX + which, blocks, buckets, first, begin;
	__u64 spread, hit;
	void *table;

	if (!now || which >= MAMPLUS_T_MAX)
		return 0;
	blocks = now->blocks[which];
	buckets = now->block_buckets[which];
	if (!blocks)
		return 0;
	table = bpf_map_lookup_elem(&ble, &table_index);
	if (!table)
		return 0;
	spread = mamplus_spread(now->salt, identity);
	begin = mamplus_block(spread, blocks) * buckets;
	first = begin + mamplus_first(spread, buckets);
	if (!may_hold(table, blocks * buckets, first, spread))
		return 0;
	hit = match_at(table, first, identity);
	if (!hit)
		hit = match_at(table, begin + mamplus_second(spread, buckets), identity);
	if (!hit && now->stashed[which])
		hit = match_at(table, blocks * buckets, identity);
	return hit;
}

/* Put the answer into the head: the greater verdict wins. */
static __always_inline void take_hit(struct mamplus_head *head, __u64 hit)
{
	if (hit_verdict(hit) > head->verdict) {
		head->verdict = hit_verdict(hit);
		head->slot = hit >> MAMPLUS_VERDICT_BITS;
	}
}

static __always_inline __u64 ble_content(__u64 word, const unsigned char *sha256)
{
	struct mamplus_shape *now = ble_shape(word);
	__u64 key[4];

	if (!now)
		return 0;
	__builtin_memcpy(key, sha256, sizeof(key));
	return ble_probe(MAMPLUS_T_SHA256, word, mamplus_identity(now->salt, key, 4));
}

/* What was judged before a record was made, put into the record's head. */
static __always_inline void take_judgement(struct mamplus_head *head, const struct mamplus_head *judged)
{
	head->generation = judged->generation;
	head->verdict = judged->verdict;
	head->slot = judged->slot;
	head->flags = judged->flags;
}

/* Whether a verdict refuses: BLOCK, and SUSPECT while the policy has an old list's suspicions refused. */
static __always_inline bool is_refusing(__u32 verdict)
{
	struct mamplus_posture *now;

	if (verdict != MAMPLUS_SUSPECT)
		return verdict == MAMPLUS_BLOCK;
	now = posture_now();
	return now && now->suspect_as_block;
}

/* A verdict that refuses, as the mode has it: mark the head, and say whether to refuse. It stays the list's verdict. */
static __always_inline bool refuse_blocked(struct mamplus_head *head)
{
	if (!is_refusing(head->verdict))
		return false;
	if (is_monitor()) {
		head->flags |= MAMPLUS_F_MONITOR;
		return false;
	}
	head->flags |= MAMPLUS_F_REFUSED;
	return true;
}

#endif
