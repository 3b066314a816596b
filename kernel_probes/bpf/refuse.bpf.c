/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Packets of the scope's sockets, while an action refuses some: those of connections that stood before, and
 * those that come in.
 *
 * Hooks:   cgroup_skb/egress, cgroup_skb/ingress: with a socket, after netfilter on the way in and before the
 *          device on the way out. Who flushes iptables' rules opens nothing here.
 * Emits:   nothing; counted. connect.bpf.c tells who begins something.
 * Returns: 1 lets the packet go on; 0 drops it, and a send fails with EPERM.
 * Missing: what cannot be parsed is let go on, but not while the device is isolated.
 */
#include "ble_address.h"
#include "record.h"
#include "refused_packet.h"

/* The socket's cgroup, or one above it, is an app that may not use the network. */
static __always_inline bool is_app_refused(struct __sk_buff *skb)
{
	__u64 at_ns = bpf_ktime_get_boot_ns();

	for (int level = 1; level <= MAMPLUS_LEVELS; level++) {
		__u64 id = bpf_skb_ancestor_cgroup_id(skb, level);

		if (!id)
			return false;
		if (is_refused_app(id, at_ns))
			return true;
	}
	return false;
}

static __always_inline bool is_app_packet_refused(struct __sk_buff *skb, const struct packet *packet, bool is_inwards)
{
	const unsigned char *addr = is_inwards ? packet->saddr : packet->daddr;

	if (is_loopback(addr) || is_guarded(addr, is_inwards ? packet->sport_be : packet->dport_be))
		return false;
	return is_app_refused(skb) && !is_monitor();
}

static __always_inline bool is_unread_refused(const struct mamplus_refusing *now)
{
	__u64 at_ns = bpf_ktime_get_boot_ns();

	return (at_ns < now->isolated_until_ns || at_ns < now->alone_until_ns) && !is_monitor();
}

static __always_inline int judge_packet(struct __sk_buff *skb, bool is_inwards)
{
	struct mamplus_refusing *now = refusing_now();
	struct packet packet = {};
	bool is_over;

	if (!now)
		return 1;
	if (!parse(skb, &packet))
		is_over = is_unread_refused(now);
	else
		is_over = is_packet_refused(skb, &packet, is_inwards) ||
			  (now->apps && is_app_packet_refused(skb, &packet, is_inwards));
	if (!is_over)
		return 1;
	count(MAMPLUS_C_REFUSED);
	count(MAMPLUS_C_ACTED);
	return 0;
}

SEC("cgroup_skb/egress")
int mamplus_egress(struct __sk_buff *skb)
{
	return judge_packet(skb, false);
}

SEC("cgroup_skb/ingress")
int mamplus_ingress(struct __sk_buff *skb)
{
	return judge_packet(skb, true);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
