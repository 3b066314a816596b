/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the list says of an address: hosts, networks and ports, and the guard set above them.
 */
#ifndef MAMPLUS_BLE_ADDRESS_H
#define MAMPLUS_BLE_ADDRESS_H

#include "ble.h"

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

/* Which lengths of networks need a lookup: what two masks of one cache line say both. */
static __always_inline __u64 lengths_at(const struct mamplus_shape *now, __u64 word, __u32 one, __u32 two)
{
	__u32 begin = MAMPLUS_LINES_BEFORE_MASKS(now->blocks[MAMPLUS_T_NET] * now->block_buckets[MAMPLUS_T_NET]);
	void *rest = part_of(word, MAMPLUS_T_NET, 1);
	struct mamplus_bucket *line = rest ? line_at(now, word, MAMPLUS_T_NET, rest, begin + one / MAMPLUS_BUCKET_WORDS) : NULL;

	if (!line)
		return 0;
	return line->word[one & (MAMPLUS_BUCKET_WORDS - 1)] & line->word[two & (MAMPLUS_BUCKET_WORDS - 1)];
}

static __always_inline __u64 lengths4(const struct mamplus_shape *now, __u64 word, __u32 addr)
{
	__u32 number = addr >> (32 - now->mask_bits & 31);

	return now->probes4 ? lengths_at(now, word, number, number) : 0;
}

static __always_inline __u64 lengths6(const struct mamplus_shape *now, __u64 word, __u64 high)
{
	__u64 hash = mamplus_mask6_hash(high >> 32);

	if (!now->probes6)
		return 0;
	return lengths_at(now, word, mamplus_mask6_one(hash, now->mask_bits), mamplus_mask6_two(hash, now->mask_bits));
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
	lengths = lengths4(now, word, addr);
	for (__u32 i = 0; lengths && i < MAMPLUS_PROBES4_MAX; i++) {
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
	__u64 host = 0, network = 0, lengths;

	if (!now)
		return 0;
	lengths = lengths6(now, word, high);
	for (__u32 i = 0; lengths && i < MAMPLUS_PROBES6_MAX; i++) {
		if (i >= now->probes6)
			break;
		if (lengths >> mamplus_mask6_bit(now->probe6[i].prefix) & 1)
			take_turn(&host, &network, ble_turn6(word, high, low, protocol_port, turn_of(i, host, network)));
	}
	if (now->blocks[MAMPLUS_T_ADDR] && !is_decided(host))
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

#endif
