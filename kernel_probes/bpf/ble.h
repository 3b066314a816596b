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

static __always_inline struct mamplus_shape *ble_shape(__u64 word)
{
	__u32 side = word & 1;

	return word ? bpf_map_lookup_elem(&shape, &side) : NULL;
}

/* One of a table's MAMPLUS_PARTS; NULL: there is none. */
static __always_inline void *part_of(__u64 word, __u64 which, __u32 part)
{
	part += ((word & 1) * MAMPLUS_T_MAX + which) * MAMPLUS_PARTS;
	return bpf_map_lookup_elem(&ble, &part);
}

_Static_assert(!(MAMPLUS_T_MAX & (MAMPLUS_T_MAX - 1)), "ble_probe() bounds a table's number by a mask");

/* A cache line of a table (below MAMPLUS_T_MAX) whose `rest` is what lies behind the cut. */
static __always_inline struct mamplus_bucket *line_at(const struct mamplus_shape *now, __u64 word, __u64 which, void *rest, __u32 index)
{
	__u32 cut = now->cut[which];
	void *first;

	if (index >= cut) {
		index -= cut;
		return bpf_map_lookup_elem(rest, &index);
	}
	first = part_of(word, which, 0);
	return first ? bpf_map_lookup_elem(first, &index) : NULL;
}

/* Whether filter `number` has all of these bits. */
static __always_inline bool has_bits(const struct mamplus_shape *now, __u64 word, __u64 which, void *rest, __u32 number, __u32 bits)
{
	__u32 buckets = now->blocks[which] * now->block_buckets[which];
	struct mamplus_bucket *line = line_at(now, word, which, rest, buckets + 1 + number / 2 / MAMPLUS_BUCKET_WORDS);

	return line && !(bits & ~((__u32 *)line->word)[number & (2 * MAMPLUS_BUCKET_WORDS - 1)]);
}

/* Whether a key may have the bucket `first` of `buckets` for its first one. */
static __always_inline bool may_hold(const struct mamplus_shape *now, __u64 word, __u64 which, void *rest, __u32 first, __u64 spread)
{
	return has_bits(now, word, which, rest, first, mamplus_near(spread)) &&
	       has_bits(now, word, which, rest, now->blocks[which] * now->block_buckets[which] + first, mamplus_far(spread));
}

static __always_inline __u64 match_at(const struct mamplus_shape *now, __u64 word, __u64 which, void *rest, __u32 index, __u64 identity)
{
	struct mamplus_bucket *bucket = line_at(now, word, which, rest, index);

	if (!bucket)
		return 0;
#pragma unroll
	for (__u32 i = 0; i < MAMPLUS_BUCKET_WORDS; i++) {
		__u64 stored = bucket->word[i];

		if (stored >> MAMPLUS_VERDICT_BITS == identity)
			return ((__u64)index * MAMPLUS_BUCKET_WORDS + i) << MAMPLUS_VERDICT_BITS | (stored & MAMPLUS_VERDICT_MASK);
	}
	return 0;
}

/*
 * Ask one table. A function of its own (and global: verified once, whoever calls it how often),
 * so it takes and returns numbers only.
 */
__noinline __u64 ble_probe(__u64 which, __u64 word, __u64 identity)
{
	struct mamplus_shape *now = ble_shape(word);
	__u32 blocks, buckets, first, begin;
	__u64 spread, hit;
	void *rest;

	if (!now || which >= MAMPLUS_T_MAX)
		return 0;
	asm volatile("" : "+r"(which));
	which &= MAMPLUS_T_MAX - 1;	/* again: of a copy on the stack, Linux 6.1 forgets what a comparison told */
	blocks = now->blocks[which];
	buckets = now->block_buckets[which];
	if (!blocks)
		return 0;
	rest = part_of(word, which, 1);
	if (!rest)
		return 0;
	spread = mamplus_spread(now->salt, identity);
	begin = mamplus_block(spread, blocks) * buckets;
	first = begin + mamplus_first(spread, buckets);
	if (!may_hold(now, word, which, rest, first, spread))
		return 0;
	hit = match_at(now, word, which, rest, first, identity);
	if (!hit)
		hit = match_at(now, word, which, rest, begin + mamplus_second(spread, buckets), identity);
	if (!hit && now->stashed[which])
		hit = match_at(now, word, which, rest, blocks * buckets, identity);
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
