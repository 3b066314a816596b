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

/* Of the words that follow the stash, filters first, then masks, the cache line with word `number`. NULL: no such table. */
static __always_inline struct mamplus_bucket *line_after(void *table, __u32 buckets, __u32 number)
{
	__u32 index = buckets + 1 + number / MAMPLUS_BUCKET_WORDS;

	return bpf_map_lookup_elem(table, &index);
}

/* Whether filter `number` has all of these bits. */
static __always_inline bool has_bits(void *table, __u32 buckets, __u32 number, __u32 bits)
{
	struct mamplus_bucket *line = line_after(table, buckets, number / 2);

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

/* What a port or protocol is worth under a qualifier: 0 stands for every one. */
static __always_inline __u32 if_port(__u8 qualifier, __u32 port)
{
	return qualifier & MAMPLUS_Q_PORT ? port : 0;
}

static __always_inline __u32 if_protocol(__u8 qualifier, __u32 protocol)
{
	return qualifier & MAMPLUS_Q_PROTOCOL ? protocol : 0;
}

static __always_inline __u64 identity6(const struct mamplus_shape *now, __u64 high, __u64 low, __u32 prefix, __u32 protocol, __u32 port)
{
	__u64 key[3] = { high, low, mamplus_qualified6(prefix, protocol, port) };

	return mamplus_identity(now->salt, key, 3);
}

/* Entries that name a port only, port and protocol before the port alone. */
static __always_inline __u64 ask_port(const struct mamplus_shape *now, __u64 word, __u32 protocol, __u32 port)
{
	__u64 hit = 0;

	if (now->ports & 1 << (MAMPLUS_Q_PORT | MAMPLUS_Q_PROTOCOL))
		hit = ble_probe(MAMPLUS_T_NET, word, identity6(now, 0, 0, 0, protocol, port));
	if (!is_decided(hit) && now->ports & 1 << MAMPLUS_Q_PORT)
		hit = greater(hit, ble_probe(MAMPLUS_T_NET, word, identity6(now, 0, 0, 0, 0, port)));
	return hit;
}

/* Bit n: a network of length n may cover the address. */
static __always_inline __u64 lengths4(const struct mamplus_shape *now, __u64 word, __u32 addr)
{
	__u32 table_index = (word & 1) * MAMPLUS_T_MAX + MAMPLUS_T_NET, first = addr >> (32 - now->mask_bits & 31);
	__u32 buckets = now->blocks[MAMPLUS_T_NET] * now->block_buckets[MAMPLUS_T_NET];
	void *table = bpf_map_lookup_elem(&ble, &table_index);
	struct mamplus_bucket *line = table ? line_after(table, buckets, buckets + first) : NULL;

	return line ? line->word[(buckets + first) & (MAMPLUS_BUCKET_WORDS - 1)] : 0;
}

/*
 * One turn of the searches below is a function of its own: inside their loops the verifier would follow every
 * way through it again for each of MAMPLUS_PROBES*_MAX turns (507,000 steps for an IPv6 address; now 20,000).
 * `turn` is which probe, and for hosts and for networks whether a hit has ended the search.
 */
#define MAMPLUS_HIT_IS_HOST (1ULL << 63)	/* of an answer: the probe was about one host */
#define MAMPLUS_TURN_BITS 16
#define MAMPLUS_DECIDED_BIT 1	/* of a hit: BLOCK and ALLOW have it, SUSPECT has not */

static __always_inline __u32 turn_of(__u32 probe, __u64 host, __u64 network)
{
	return probe | (host >> MAMPLUS_DECIDED_BIT & 1) << MAMPLUS_TURN_BITS |
	       (network >> MAMPLUS_DECIDED_BIT & 1) << (MAMPLUS_TURN_BITS + 1);
}

static __always_inline bool is_ended(__u32 turn, bool is_host)
{
	return turn >> (is_host ? MAMPLUS_TURN_BITS : MAMPLUS_TURN_BITS + 1) & 1;
}

static __always_inline __u64 about(bool is_host, __u64 hit)
{
	return is_host ? hit | MAMPLUS_HIT_IS_HOST : hit;
}

static __always_inline void take_turn(__u64 *host, __u64 *network, __u64 hit)
{
	if (hit & MAMPLUS_HIT_IS_HOST)
		*host = greater(*host, hit & ~MAMPLUS_HIT_IS_HOST);
	else
		*network = greater(*network, hit);
}

__noinline __u64 ble_turn4(__u64 word, __u32 addr, __u32 protocol, __u32 port, __u32 turn)
{
	__u32 probe = turn & ((1U << MAMPLUS_TURN_BITS) - 1);
	struct mamplus_shape *now = ble_shape(word);
	__u8 prefix, qualifier;
	bool is_host;

	if (!now || probe >= MAMPLUS_PROBES4_MAX)
		return 0;
	prefix = now->probe4[probe].prefix;
	qualifier = now->probe4[probe].qualifier;
	is_host = prefix == 32 && qualifier;
	if (is_ended(turn, is_host))
		return 0;
	return about(is_host, ble_probe(MAMPLUS_T_NET, word,
					mamplus_identity4(prefix ? addr & ~0U << ((32 - prefix) & 31) : 0, prefix,
							  if_protocol(qualifier, protocol), if_port(qualifier, port))));
}

/*
 * Judge an IPv4 address (host order): of the entries about hosts the most qualified, of those
 * about networks the most specific, of those about ports; then the greatest verdict of the three.
 * A suspicion stands where nothing less specific of its sort blocks or allows.
 */
__noinline __u64 ble_address4(__u64 word, __u32 addr, __u32 protocol, __u32 port)
{
	struct mamplus_shape *now = ble_shape(word);
	__u64 host = 0, network = 0, lengths;

	if (!now)
		return 0;
	lengths = now->probes4 ? lengths4(now, word, addr) : 0;
	for (__u32 i = 0; i < MAMPLUS_PROBES4_MAX; i++) {
		if (i >= now->probes4)
			break;
		if (lengths >> (now->probe4[i].prefix & 63) & 1)
			take_turn(&host, &network, ble_turn4(word, addr, protocol, port, turn_of(i, host, network)));
	}
	if (!is_decided(host))
		host = greater(host, ble_probe(MAMPLUS_T_ADDR, word, mamplus_identity4(addr, 32, 0, 0)));
	return greater(greater(host, network), ask_port(now, word, protocol, port));
}

static __always_inline __u64 high_bits(__u64 value, __u32 bits)
{
	return bits ? value & ~0ULL << ((64 - bits) & 63) : 0;
}

__noinline __u64 ble_turn6(__u64 word, __u64 high, __u64 low, __u32 protocol_port, __u32 turn)
{
	__u32 probe = turn & ((1U << MAMPLUS_TURN_BITS) - 1), protocol = protocol_port >> 24, port = protocol_port & 0xffffff;
	struct mamplus_shape *now = ble_shape(word);
	__u8 prefix, qualifier;
	bool is_host;

	if (!now || probe >= MAMPLUS_PROBES6_MAX)
		return 0;
	prefix = now->probe6[probe].prefix;
	qualifier = now->probe6[probe].qualifier;
	is_host = prefix == 128 && qualifier;
	if (is_ended(turn, is_host))
		return 0;
	return about(is_host, ble_probe(MAMPLUS_T_NET, word,
					identity6(now, high_bits(high, prefix < 64 ? prefix : 64),
						  high_bits(low, prefix > 64 ? prefix - 64 : 0), prefix,
						  if_protocol(qualifier, protocol), if_port(qualifier, port))));
}

/* The same for IPv6: the two halves of an address, host order. protocol_port: protocol << 24 | port. */
__noinline __u64 ble_address6(__u64 word, __u64 high, __u64 low, __u32 protocol_port)
{
	struct mamplus_shape *now = ble_shape(word);
	__u32 protocol = protocol_port >> 24, port = protocol_port & 0xffffff;
	__u64 host = 0, network = 0;

	if (!now)
		return 0;
	for (__u32 i = 0; i < MAMPLUS_PROBES6_MAX; i++) {
		if (i >= now->probes6)
			break;
		take_turn(&host, &network, ble_turn6(word, high, low, protocol_port, turn_of(i, host, network)));
	}
	if (!is_decided(host))
		host = greater(host, ble_probe(MAMPLUS_T_ADDR, word, identity6(now, high, low, 128, 0, 0)));
	return greater(greater(host, network), ask_port(now, word, protocol, port));
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

/* Judge an address: the guard first, then the tables. */
static __always_inline void ble_address(struct mamplus_head *head, const unsigned char *addr, __u16 port_be, __u8 protocol)
{
	__u32 part[4], port = port_be ? bpf_ntohs(port_be) : MAMPLUS_NO_PORT;
	__u64 word = ble_word();

	head->generation = ble_generation(word);
	if (is_guarded(addr, port_be)) {
		head->verdict = MAMPLUS_GUARD;
		return;
	}
	__builtin_memcpy(part, addr, sizeof(part));
	if (!part[0] && !part[1] && part[2] == bpf_htonl(0xffff))
		take_hit(head, ble_address4(word, bpf_ntohl(part[3]), protocol, port));
	else
		take_hit(head, ble_address6(word, (__u64)bpf_ntohl(part[0]) << 32 | bpf_ntohl(part[1]),
					    (__u64)bpf_ntohl(part[2]) << 32 | bpf_ntohl(part[3]),
					    (__u32)protocol << 24 | port));
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
