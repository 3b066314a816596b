/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Packets of connections that stand already, and DNS questions.
 *
 * Hooks:   mamplus_packet_in and _out: socket filters that an iptables rule runs by their pin
 *          (`-m bpf --object-pinned`). mamplus_dns: cgroup_skb/egress.
 * Emits:   struct mamplus_packet, struct mamplus_dns for what the list refuses. What an action refuses
 *          (refused.h) is counted: refuse.bpf.c sees it again, and the socket hooks told who began it.
 *          What is asked for and not refused is remembered in `names`.
 * Returns: packet: 1 matches, and the rule drops; 0 does not. dns: 0 drops (sendto fails with
 *          EPERM), 1 lets go on.
 * Missing: what cannot be parsed is let go on: the socket hooks judged its address before. No ring
 *          space means a counted loss, and the same verdict.
 */
#include <linux/udp.h>

#include "ble_address.h"
#include "packet.h"
#include "record.h"
#include "refused_packet.h"

#define MAMPLUS_ETH_P_IP 0x0800
#define MAMPLUS_DNS_PORT 53
#define MAMPLUS_DNS_HEADER 12
#define MAMPLUS_DNS_QR 0x80	/* third byte of the header: an answer */
#define MAMPLUS_LABEL_MAX 63

static __always_inline int match(struct __sk_buff *skb, bool is_inwards)
{
	struct mamplus_packet event = {};
	struct packet packet = {};

	if (!parse(skb, &packet))
		return 0;
	if (is_packet_refused(skb, &packet, is_inwards)) {
		count(MAMPLUS_C_REFUSED);
		count(MAMPLUS_C_ACTED);
		return 1;
	}
	fill_head_no_task(&event.head, MAMPLUS_KIND_PACKET, sizeof(event));
	ble_address(&event.head, is_inwards ? packet.saddr : packet.daddr, is_inwards ? packet.sport_be : packet.dport_be,
		    packet.protocol);
	if (!is_refusing(event.head.verdict))
		return 0;
	if (is_inwards)
		event.head.flags |= MAMPLUS_F_INGRESS;
	__builtin_memcpy(event.saddr, packet.saddr, MAMPLUS_ADDR_LEN);
	__builtin_memcpy(event.daddr, packet.daddr, MAMPLUS_ADDR_LEN);
	event.sport_be = packet.sport_be;
	event.dport_be = packet.dport_be;
	event.protocol = packet.protocol;
	if (refuse_blocked(&event.head))
		count(MAMPLUS_C_REFUSED);
	emit(&event, sizeof(event), false);	/* a flood of packets must not be one of wake-ups */
	return event.head.flags & MAMPLUS_F_REFUSED ? 1 : 0;
}

SEC("socket")
int mamplus_packet_in(struct __sk_buff *skb)
{
	return match(skb, true);
}

SEC("socket")
int mamplus_packet_out(struct __sk_buff *skb)
{
	return match(skb, false);
}

/*
 * One byte of a name, of which `labels` says what came before: how much of the label is left, and whether
 * the name has ended, or cannot be one. Returns the same for the next byte << 8 | this one as text.
 * A function of its own: inside the loop the verifier would walk all its ways at each of 256 bytes.
 */
#define MAMPLUS_LABEL_LEFT 0xff
#define MAMPLUS_NAME_ENDED 0x100
#define MAMPLUS_NAME_BAD 0x200

__noinline __u32 dns_byte(__u32 labels, __u32 byte)
{
	if (labels & (MAMPLUS_NAME_ENDED | MAMPLUS_NAME_BAD))
		return labels << 8;
	if (labels & MAMPLUS_LABEL_LEFT)
		return (labels - 1) << 8 | (byte >= 'A' && byte <= 'Z' ? byte | 0x20 : byte);
	if (byte == 0)
		return MAMPLUS_NAME_ENDED << 8;
	if (byte > MAMPLUS_LABEL_MAX)
		return MAMPLUS_NAME_BAD << 8;	/* a compression pointer: never in a question */
	return byte << 8 | '.';
}

/*
 * Turn length-prefixed labels into dotted lower case, in place: name[0] becomes a dot, and all
 * that follows the name becomes zero. No early end and no length: with either, the verifier
 * would walk the next loop once for each length.
 */
static __always_inline bool to_text(unsigned char *name)
{
	__u32 labels = 0;

	for (__u32 i = 0; i < MAMPLUS_NAME_LEN; i++) {
		__u32 next = dns_byte(labels, name[i]);

		name[i] = next;
		labels = next >> 8;
	}
	return labels == MAMPLUS_NAME_ENDED;
}

/* What a more specific hit leaves of a wider one. */
static __always_inline __u64 overrule(__u64 wider, __u64 hit)
{
	return hit && (is_decided(hit) || !is_decided(wider)) ? hit : wider;
}

/* Ask for one suffix, that `wider` was found before. A function of its own: verified once, not at every byte of a name. */
__noinline __u64 ble_suffix(__u64 word, __u64 wider, __u64 identity)
{
	return overrule(wider, ble_probe(MAMPLUS_T_DOMAIN, word, identity));
}

/*
 * Ask for every suffix that starts a label, from the shortest to the longest: the most specific
 * entry wins, and an entry that means the whole name alone above all; but no suspicion wins over
 * a wider block or allow. name[0] is a dot.
 */
static __always_inline void ble_name(struct mamplus_head *head, const unsigned char *name)
{
	struct mamplus_name suffix = {};
	__u64 word = ble_word(), best = 0;
	struct mamplus_shape *now = ble_shape(word);

	head->generation = ble_generation(word);
	if (!now)
		return;
	for (__u32 i = MAMPLUS_NAME_LEN - 1; i > 0; i--) {
		if (!name[i])
			continue;
		mamplus_name_add(now->salt, &suffix, name[i]);
		if (name[i - 1] != '.')
			continue;
		best = ble_suffix(word, best, mamplus_identity_name(now->salt, &suffix, 0));
	}
	take_hit(head, ble_suffix(word, best, mamplus_identity_name(now->salt, &suffix, 1)));
}

/* The question's name as it lies in the packet, and zeros after it. */
static __always_inline bool load_name(struct __sk_buff *skb, __u32 at, unsigned char *name)
{
	__u32 room = skb->len > at ? skb->len - at : 0;

	if (room > MAMPLUS_NAME_LEN)
		room = MAMPLUS_NAME_LEN;
	__builtin_memset(name, 0, MAMPLUS_NAME_LEN);
	return room >= 3 && load(skb, at, name, room);
}

static __always_inline bool is_question(struct __sk_buff *skb, struct packet *packet)
{
	__u8 flags = MAMPLUS_DNS_QR;

	return parse(skb, packet) && packet->protocol == MAMPLUS_UDP && packet->dport_be == bpf_htons(MAMPLUS_DNS_PORT) &&
	       load(skb, packet->payload + sizeof(struct udphdr) + 2, &flags, 1) && !(flags & MAMPLUS_DNS_QR);
}

/*
 * Remember what may be asked for: what a new list is tried on. Nobody is woken, and no record is made. A function
 * with a frame of its own: the caller's is nearly full.
 */
static __noinline int remember_name(const unsigned char *name)
{
	struct mamplus_asker *known = bpf_map_lookup_elem(&names, name), asker = {};

	if (known) {
		known->boot_ns = bpf_ktime_get_boot_ns();
		return 0;
	}
	asker.boot_ns = bpf_ktime_get_boot_ns();
	fill_comm(&asker.comm);
	return bpf_map_update_elem(&names, name, &asker, BPF_ANY);
}

/* Returns 1 to let the question go on. */
static __always_inline int judge_name(struct __sk_buff *skb, struct packet *packet, const unsigned char *name)
{
	struct mamplus_head head;
	struct mamplus_dns *event;
	bool refused;

	fill_head_no_task(&head, MAMPLUS_KIND_DNS, sizeof(*event));
	ble_name(&head, name);
	if (head.verdict != MAMPLUS_BLOCK && head.verdict != MAMPLUS_SUSPECT) {
		remember_name(name);
		return 1;
	}
	bpf_map_delete_elem(&names, name);
	refused = refuse_blocked(&head);
	if (refused)
		count(MAMPLUS_C_REFUSED);
	event = reserve(sizeof(*event));
	if (!event) {
		count(MAMPLUS_C_LOST);
		return refused ? 0 : 1;
	}
	fill_head_of(&event->head, MAMPLUS_KIND_DNS, sizeof(*event), bpf_skb_cgroup_id(skb));
	take_judgement(&event->head, &head);
	__builtin_memcpy(event->server, packet->daddr, MAMPLUS_ADDR_LEN);
	__builtin_memcpy(event->name, name + 1, MAMPLUS_NAME_LEN - 1);
	event->name[MAMPLUS_NAME_LEN - 1] = 0;
	submit(event, sizeof(*event), true);
	return refused ? 0 : 1;
}

/* Every packet of the scope passes here, and few are UDP: one byte tells. */
static __always_inline bool is_udp(struct __sk_buff *skb)
{
	bool is_v4 = skb->protocol == bpf_htons(MAMPLUS_ETH_P_IP);
	__u8 protocol = 0;

	load(skb, is_v4 ? offsetof(struct iphdr, protocol) : offsetof(struct ipv6hdr, nexthdr), &protocol, 1);
	return protocol == MAMPLUS_UDP;
}

SEC("cgroup_skb/egress")
int mamplus_dns(struct __sk_buff *skb)
{
	struct packet packet = {};
	unsigned char name[MAMPLUS_NAME_LEN];

	if (!is_udp(skb) || !is_question(skb, &packet) ||
	    !load_name(skb, packet.payload + sizeof(struct udphdr) + MAMPLUS_DNS_HEADER, name) ||
	    !to_text(name))
		return 1;
	return judge_name(skb, &packet, name);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
