/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections, and datagrams sent without one.
 *
 * Hooks:   cgroup/connect4, connect6, sendmsg4, sendmsg6, in the caller's context, before any packet.
 * Emits:   struct mamplus_connect for what is refused or suspected; for the rest only when the
 *          posture asks for it, and what is refused because there is no agent (standing.h), or because
 *          an action is in force (refused.h).
 * Returns: 1 lets the call go on; 0 makes it fail with EPERM.
 * Missing: no entry means allow. No ring space means a counted loss, and the same verdict.
 *
 * IPv4 has one spelling here, ::ffff:a.b.c.d, from whichever socket it comes.
 */
#include "ble_address.h"
#include "record.h"
#include "refused.h"
#include "standing.h"

#define MAMPLUS_AF_INET 2
#define MAMPLUS_AF_INET6 10

static __always_inline bool is_noteworthy(const struct mamplus_head *judged)
{
	return judged->verdict == MAMPLUS_SUSPECT || judged->verdict == MAMPLUS_BLOCK;
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

/* The task's cgroup, or one above it, is an app that may not use the network. */
static __always_inline bool is_app_refused(__u64 at_ns)
{
	for (int level = 1; level <= MAMPLUS_LEVELS; level++) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(level);

		if (!id)
			return false;
		if (is_refused_app(id, at_ns))
			return true;
	}
	return false;
}

/* A function of its own: verified once, not behind every answer of the list. */
__noinline int is_acted_on(struct bpf_sock_addr *ctx, __u32 first, __u32 second, __u32 third, __u32 fourth)
{
	__u32 addr[4] = { first, second, third, fourth };
	struct mamplus_refusing *now = refusing_now();
	struct talk talk = { .port_be = ctx->user_port, .protocol = ctx->protocol, .uid = bpf_get_current_uid_gid() };
	__u64 at_ns;

	talk.addr = (const unsigned char *)addr;
	if (!now || is_loopback(talk.addr))
		return 0;
	at_ns = bpf_ktime_get_boot_ns();
	return is_refused(now, &talk, at_ns) || (now->apps && is_app_refused(at_ns));
}

static __always_inline bool refuse_acted(struct mamplus_head *judged)
{
	judged->flags |= MAMPLUS_F_ACTED | (is_monitor() ? MAMPLUS_F_MONITOR : MAMPLUS_F_REFUSED);
	if (!(judged->flags & MAMPLUS_F_REFUSED))
		return false;
	count(MAMPLUS_C_ACTED);
	return true;
}

/* Most connections are nobody's business: the record's head, the dearest part, is made only when there is one. */
static __always_inline int judge(struct bpf_sock_addr *ctx, struct mamplus_connect *event, __u16 kind, __u8 family)
{
	struct mamplus_head judged = { .slot = MAMPLUS_NO_SLOT };
	struct mamplus_posture *now = posture_now();
	bool refused, cut_off, acted;
	__u32 addr[4];

	ble_address(&judged, event->addr, ctx->user_port, ctx->protocol);
	cut_off = is_cut_off(now, &judged, event->addr);
	__builtin_memcpy(addr, event->addr, sizeof(addr));
	acted = judged.verdict != MAMPLUS_GUARD && is_acted_on(ctx, addr[0], addr[1], addr[2], addr[3]);
	if (!is_noteworthy(&judged) && !cut_off && !acted && !(now && now->report_allowed))
		return 1;
	refused = refuse_blocked(&judged);
	if (!refused && acted)
		refused = refuse_acted(&judged);
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
