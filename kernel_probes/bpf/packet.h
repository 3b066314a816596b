/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the hooks of packets read of one: addresses, protocol and ports, both families in one spelling. */
#ifndef MAMPLUS_PACKET_H
#define MAMPLUS_PACKET_H

#include <linux/ip.h>
#include <linux/ipv6.h>

#include "maps.h"

#define MAMPLUS_TCP 6
#define MAMPLUS_UDP 17
#define MAMPLUS_FRAGMENT_OFFSET 0x1fff

struct packet {
	unsigned char saddr[MAMPLUS_ADDR_LEN];
	unsigned char daddr[MAMPLUS_ADDR_LEN];
	__u32 payload;		/* offset of the transport header from the network header */
	__u16 sport_be;
	__u16 dport_be;
	__u8 protocol;
	bool is_later;		/* a fragment after the first: what follows its header are no ports */
};

/* In netfilter offset 0 of a socket filter is the network header, in cgroup_skb too; say so, rather than know it. */
static __always_inline bool load(struct __sk_buff *skb, __u32 at, void *to, __u32 size)
{
	return bpf_skb_load_bytes_relative(skb, at, to, size, BPF_HDR_START_NET) == 0;
}

static __always_inline bool parse4(struct __sk_buff *skb, struct packet *out)
{
	struct iphdr ip;
	__u32 mapped[4] = { 0, 0, bpf_htonl(0xffff), 0 };

	if (!load(skb, 0, &ip, sizeof(ip)))
		return false;
	mapped[3] = ip.saddr;
	__builtin_memcpy(out->saddr, mapped, sizeof(mapped));
	mapped[3] = ip.daddr;
	__builtin_memcpy(out->daddr, mapped, sizeof(mapped));
	out->protocol = ip.protocol;
	out->payload = ip.ihl * 4;
	out->is_later = ip.frag_off & bpf_htons(MAMPLUS_FRAGMENT_OFFSET);
	return true;
}

/* Extension headers are not walked: the ports stay 0 then, the addresses are judged all the same. */
static __always_inline bool parse6(struct __sk_buff *skb, struct packet *out)
{
	struct ipv6hdr ip;

	if (!load(skb, 0, &ip, sizeof(ip)))
		return false;
	__builtin_memcpy(out->saddr, &ip.saddr, MAMPLUS_ADDR_LEN);
	__builtin_memcpy(out->daddr, &ip.daddr, MAMPLUS_ADDR_LEN);
	out->protocol = ip.nexthdr;
	out->payload = sizeof(ip);
	return true;
}

static __always_inline bool parse(struct __sk_buff *skb, struct packet *out)
{
	__u16 ports[2] = { 0, 0 };
	__u8 version = 0;

	if (!load(skb, 0, &version, sizeof(version)))
		return false;
	if (!(version >> 4 == 4 ? parse4(skb, out) : parse6(skb, out)))
		return false;
	if (!out->is_later && (out->protocol == MAMPLUS_TCP || out->protocol == MAMPLUS_UDP))
		load(skb, out->payload, ports, sizeof(ports));
	out->sport_be = ports[0];
	out->dport_be = ports[1];
	return true;
}

#endif
