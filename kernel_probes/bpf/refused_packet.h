/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What actions refuse of packets: all that refused.h says, and what belongs to no socket. */
#ifndef MAMPLUS_REFUSED_PACKET_H
#define MAMPLUS_REFUSED_PACKET_H

#include "packet.h"
#include "refused.h"

#define MAMPLUS_ICMP_UNREACHABLE 3
#define MAMPLUS_ICMP_EXCEEDED 11
#define MAMPLUS_ICMP_PARAMETER 12
#define MAMPLUS_ICMP6_ERRORS 4		/* 1 to 4: unreachable, too big, time exceeded, parameter */
#define MAMPLUS_ICMP6_MLD 130		/* to 132: listeners of multicast groups */
#define MAMPLUS_ICMP6_NEIGHBOURS 133	/* to 137: routers and neighbours; without them there is no IPv6 */
#define MAMPLUS_ICMP6_REDIRECT 137

/* What keeps a network alive and carries nobody's data: errors, and IPv6's neighbours. An echo may carry data. */
static __always_inline bool is_upkeep(struct __sk_buff *skb, const struct packet *packet)
{
	__u8 type = 0;

	if (packet->protocol == MAMPLUS_PROTO_HOPOPTS)	/* reports of multicast groups, which stay on the link */
		return packet->daddr[0] == 0xff && packet->daddr[1] == 0x02;
	if (packet->is_later || !load(skb, packet->payload, &type, 1))
		return false;
	if (packet->protocol == MAMPLUS_PROTO_ICMP)
		return type == MAMPLUS_ICMP_UNREACHABLE || type == MAMPLUS_ICMP_EXCEEDED || type == MAMPLUS_ICMP_PARAMETER;
	return packet->protocol == MAMPLUS_PROTO_ICMP6 &&
	       ((type && type <= MAMPLUS_ICMP6_ERRORS) || (type >= MAMPLUS_ICMP6_MLD && type <= MAMPLUS_ICMP6_REDIRECT));
}

static __always_inline bool is_packet_refused(struct __sk_buff *skb, const struct packet *packet, bool is_inwards)
{
	struct mamplus_refusing *now = refusing_now();
	struct talk talk = {
		.addr = is_inwards ? packet->saddr : packet->daddr,
		.port_be = is_inwards ? packet->sport_be : packet->dport_be,
		.protocol = packet->protocol,
	};

	if (!now || is_loopback(talk.addr) || is_guarded(talk.addr, talk.port_be))
		return false;
	if (!is_inwards)
		talk.uid = bpf_get_socket_uid(skb);
	return is_refused(now, &talk, bpf_ktime_get_boot_ns()) && !is_upkeep(skb, packet) && !is_monitor();
}

#endif
