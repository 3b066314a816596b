/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One lookup a run, of an address that nobody asked about just before; the same but for the table.
 *
 * Hook:    none; run by BPF_PROG_TEST_RUN with `repeat`.
 * Emits:   nothing; counts what it found.
 */
#include "ble_address.h"
#include "lookup.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lookup);
} lookups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} peer_hash SEC(".maps");

struct trie_key {
	__u32 prefix;
	__u32 addr_be;
};

struct trie_key6 {
	__u32 prefix;
	__u32 addr_be[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct trie_key);
	__type(value, __u32);
} peer_trie SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct trie_key6);
	__type(value, __u32);
} peer_trie6 SEC(".maps");

static __always_inline struct lookup *begin(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&lookups, &zero);
}

static __always_inline __u32 address(struct lookup *lookup)
{
	return lookup_address(lookup_next(lookup), lookup->count) + lookup->offset;
}

SEC("socket")
int ask_nothing(struct __sk_buff *skb)
{
	struct lookup *lookup = begin();

	if (lookup)
		lookup->found += address(lookup) == 0;
	return 0;
}

SEC("socket")
int ask_ours(struct __sk_buff *skb)
{
	struct lookup *lookup = begin();

	if (lookup && ble_probe(MAMPLUS_T_ADDR, ble_word(), mamplus_identity4(address(lookup), 32, 0, 0)))
		lookup->found++;
	return 0;
}

SEC("socket")
int ask_networks(struct __sk_buff *skb)
{
	struct lookup *lookup = begin();

	if (lookup && ble_address4(ble_word(), address(lookup), 6, 443))
		lookup->found++;
	return 0;
}

static __always_inline __u64 high6(struct lookup *lookup)
{
	lookup_next(lookup);
	return lookup_high6(mamplus_mix(lookup->state));
}

SEC("socket")
int ask_networks6(struct __sk_buff *skb)
{
	struct lookup *lookup = begin();

	if (lookup && ble_address6(ble_word(), high6(lookup), 1, 6U << 24 | 443))
		lookup->found++;
	return 0;
}

SEC("socket")
int ask_trie6(struct __sk_buff *skb)
{
	struct lookup *lookup = begin();
	struct trie_key6 key = { .prefix = 128, .addr_be = { 0, 0, 0, bpf_htonl(1) } };
	__u64 high;

	if (!lookup)
		return 0;
	high = high6(lookup);
	key.addr_be[0] = bpf_htonl(high >> 32);
	key.addr_be[1] = bpf_htonl(high);
	if (bpf_map_lookup_elem(&peer_trie6, &key))
		lookup->found++;
	return 0;
}

SEC("socket")
int ask_hash(struct __sk_buff *skb)
{
	struct lookup *lookup = begin();
	__u32 key;

	if (!lookup)
		return 0;
	key = address(lookup);
	if (bpf_map_lookup_elem(&peer_hash, &key))
		lookup->found++;
	return 0;
}

SEC("socket")
int ask_trie(struct __sk_buff *skb)
{
	struct lookup *lookup = begin();
	struct trie_key key = { .prefix = 32 };

	if (!lookup)
		return 0;
	key.addr_be = bpf_htonl(address(lookup));
	if (bpf_map_lookup_elem(&peer_trie, &key))
		lookup->found++;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
