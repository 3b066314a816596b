/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What actions refuse: isolation, an app, a host. Asked of every connection, datagram and packet, below the guard.
 *
 * While nothing is refused that costs one lookup in an array. A time that has come ends a refusal here, whether
 * or not an agent is there to take it away.
 */
#ifndef MAMPLUS_REFUSED_H
#define MAMPLUS_REFUSED_H

#include "ble.h"

#define MAMPLUS_LEVELS 16	/* cgroups above a task that are asked about, from the root down */
#define MAMPLUS_PROTO_HOPOPTS 0
#define MAMPLUS_PROTO_ICMP 1
#define MAMPLUS_PROTO_TCP 6
#define MAMPLUS_PROTO_UDP 17
#define MAMPLUS_PROTO_ICMP6 58
#define MAMPLUS_PORT_DNS 53
#define MAMPLUS_PORT_DHCP 67	/* the server's: answers come from there */
#define MAMPLUS_PORT_NTP 123
#define MAMPLUS_PORT_DHCP6 547

/* One way to talk, as far as a hook knows it: the other side, its port, and the user who has the socket. */
struct talk {
	const unsigned char *addr;
	__u16 port_be;
	__u8 protocol;
	__u32 uid;	/* 0 where nobody can be named: packets that come in */
};

static __always_inline bool is_loopback(const unsigned char *addr)
{
	__u32 part[4];

	__builtin_memcpy(part, addr, sizeof(part));
	if (part[0] || part[1])
		return false;
	return part[2] ? part[2] == bpf_htonl(0xffff) && addr[12] == 127 : part[3] == bpf_htonl(1);
}

/* What is refused now, NULL: nothing is. */
static __always_inline struct mamplus_refusing *refusing_now(void)
{
	__u32 zero = 0;
	struct mamplus_refusing *now = bpf_map_lookup_elem(&refusing, &zero);

	if (!now || !(now->isolated_until_ns || now->alone_until_ns || now->apps || now->hosts))
		return NULL;
	return now;
}

/* Whether one of the services in `open` is spoken to. */
static __always_inline bool is_lifeline(const struct mamplus_refusing *now, const struct talk *talk, __u32 open)
{
	bool is_udp = talk->protocol == MAMPLUS_PROTO_UDP;
	__u16 port = bpf_ntohs(talk->port_be);

	if (talk->uid >= now->system_uids)
		return false;
	if (port == MAMPLUS_PORT_DNS && (is_udp || talk->protocol == MAMPLUS_PROTO_TCP))
		return open & MAMPLUS_LIFELINE_DNS;
	if (is_udp && (port == MAMPLUS_PORT_DHCP || port == MAMPLUS_PORT_DHCP6))
		return open & MAMPLUS_LIFELINE_DHCP;
	return is_udp && port == MAMPLUS_PORT_NTP && open & MAMPLUS_LIFELINE_NTP;
}

static __always_inline bool is_refused_key(const struct mamplus_refused_key *key, __u64 at_ns)
{
	__u64 *until_ns = bpf_map_lookup_elem(&refused, key);

	return until_ns && at_ns < *until_ns;
}

static __always_inline bool is_refused_host(const unsigned char *addr, __u64 at_ns)
{
	struct mamplus_refused_key key = { .kind = MAMPLUS_REFUSED_HOST };

	__builtin_memcpy(key.what, addr, sizeof(key.what));
	return is_refused_key(&key, at_ns);
}

static __always_inline bool is_refused_app(__u64 cgroup_id, __u64 at_ns)
{
	struct mamplus_refused_key key = { .kind = MAMPLUS_REFUSED_APP };

	__builtin_memcpy(key.what, &cgroup_id, sizeof(cgroup_id));
	return is_refused_key(&key, at_ns);
}

/* Whatever is refused but apps, which each hook names in its own way. Loopback and the guarded are none of it. */
static __always_inline bool is_refused(const struct mamplus_refusing *now, const struct talk *talk, __u64 at_ns)
{
	if (at_ns < now->alone_until_ns && !is_lifeline(now, talk, MAMPLUS_LIFELINE_DHCP))
		return true;	/* without an address there is no way to the enterprise, either */
	if (at_ns < now->isolated_until_ns && !is_lifeline(now, talk, now->lifeline))
		return true;
	return now->hosts && is_refused_host(talk->addr, at_ns);
}

#endif
