/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections, and datagrams sent without one.
 *
 * Hooks:   cgroup/connect4, connect6, sendmsg4, sendmsg6, in the caller's context, before any packet.
 * Emits:   struct mamplus_connect for what is refused or suspected; for the rest only when the
 *          posture asks for it, and what is refused because there is no agent (standing.h).
 * Returns: 1 lets the call go on; 0 makes it fail with EPERM.
 * Missing: no entry means allow. No ring space means a counted loss, and the same verdict.
 *
 * IPv4 has one spelling here, ::ffff:a.b.c.d, from whichever socket it comes.
 */
#include "ble.h"
#include "record.h"
#include "standing.h"

#define MAMPLUS_AF_INET 2
#define MAMPLUS_AF_INET6 10

static __always_inline bool is_noteworthy(const struct mamplus_head *judged)
{
	return judged->verdict == MAMPLUS_SUSPECT || judged->verdict == MAMPLUS_BLOCK;
}

static __always_inline bool is_loopback(const unsigned char *addr)
{
	__u32 part[4];

	__builtin_memcpy(part, addr, sizeof(part));
	if (part[0] || part[1])
		return false;
	return part[2] ? part[2] == bpf_htonl(0xffff) && addr[12] == 127 : part[3] == bpf_htonl(1);
}

/* The agent has been gone for so long that the policy leaves only the way to the enterprise. */
static __always_inline bool is_cut_off(const struct mamplus_posture *now, const struct mamplus_head *judged,
				       const unsigned char *addr)
{
	return now && judged->verdict != MAMPLUS_GUARD && agent_is_down(now->down_connect_s) && !is_loopback(addr);
}

static __always_inline bool refuse_declared(struct mamplus_head *judged)
{
	judged->flags |= MAMPLUS_F_DECLARED | (is_monitor() ? MAMPLUS_F_MONITOR : MAMPLUS_F_REFUSED);
	count(MAMPLUS_C_DECLARED);
	return judged->flags & MAMPLUS_F_REFUSED;
}

/* Most connections are nobody's business: the record's head, the dearest part, is made only when there is one. */
static __always_inline int judge(struct bpf_sock_addr *ctx, struct mamplus_connect *event, __u16 kind, __u8 family)
{
	struct mamplus_head judged = { .slot = MAMPLUS_NO_SLOT };
	struct mamplus_posture *now = posture_now();
	bool refused, cut_off;

	ble_address(&judged, event->addr, ctx->user_port, ctx->protocol);
	cut_off = is_cut_off(now, &judged, event->addr);
	if (!is_noteworthy(&judged) && !cut_off && !(now && now->report_allowed))
		return 1;
	refused = refuse_blocked(&judged);
	if (!refused && cut_off)
		refused = refuse_declared(&judged);
	if (refused)
		count(MAMPLUS_C_REFUSED);
	fill_head(&event->head, kind, sizeof(*event));
	take_judgement(&event->head, &judged);
	event->port_be = ctx->user_port;
	event->protocol = ctx->protocol;
	event->family = family;
	event->pad = 0;
	emit(event, sizeof(*event), is_noteworthy(&judged));
	return refused ? 0 : 1;
}

static __always_inline int judge4(struct bpf_sock_addr *ctx, __u16 kind)
{
	struct mamplus_connect event;
	__u32 addr[4] = { 0, 0, bpf_htonl(0xffff), ctx->user_ip4 };

	__builtin_memcpy(event.addr, addr, sizeof(addr));
	return judge(ctx, &event, kind, MAMPLUS_AF_INET);
}

static __always_inline int judge6(struct bpf_sock_addr *ctx, __u16 kind)
{
	struct mamplus_connect event;
	__u32 addr[4] = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] };

	__builtin_memcpy(event.addr, addr, sizeof(addr));
	return judge(ctx, &event, kind, MAMPLUS_AF_INET6);
}

SEC("cgroup/connect4")
int mamplus_connect4(struct bpf_sock_addr *ctx)
{
	return judge4(ctx, MAMPLUS_KIND_CONNECT);
}

SEC("cgroup/connect6")
int mamplus_connect6(struct bpf_sock_addr *ctx)
{
	return judge6(ctx, MAMPLUS_KIND_CONNECT);
}

SEC("cgroup/sendmsg4")
int mamplus_sendmsg4(struct bpf_sock_addr *ctx)
{
	return judge4(ctx, MAMPLUS_KIND_SENDMSG);
}

SEC("cgroup/sendmsg6")
int mamplus_sendmsg6(struct bpf_sock_addr *ctx)
{
	return judge6(ctx, MAMPLUS_KIND_SENDMSG);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
