/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Report program starts, forks, exits and connects on kernels without BTF; refuse nothing.
 *
 * Hooks:   tracepoints sched_process_exec, task_newtask, sched_process_exit; for connects the
 *          cgroup connect4/6 hooks, or where these cannot be had the tracepoint inet_sock_set_state.
 * Emits:   the records of mamplus_events.h, into a perf buffer: these kernels may have no ring.
 * Returns: 1 from the connect hooks, always: whatever is missing, the connection goes on.
 * Missing: no room in the perf buffer means a drop, which the loader is told of and counts.
 *
 * The headers that bcc compiles with may be another kernel's, so no kernel struct is read: all
 * comes from the tracepoints' own format and from helpers. What they do not tell is left out:
 * the file's identity (zero, MAMPLUS_F_UNKNOWN), the exit code (-1), and the parent of a task
 * that was there before us (0). boot_ns holds CLOCK_MONOTONIC; the loader adds the time spent
 * suspended, since bpf_ktime_get_boot_ns came with Linux 5.8.
 */
#include "mamplus_events.h"

#define CLONE_THREAD_FLAG 0x00010000ULL	/* linux/sched.h */
#define INET_FAMILY 2			/* AF_INET */
#define SYN_SENT 2			/* TCP_SYN_SENT */
#define PARENTS_MAX 16384		/* least recently used out first */

BPF_PERF_OUTPUT(events);
BPF_CGROUP_ARRAY(scope, 1);
BPF_TABLE("lru_hash", u32, u32, parents, PARENTS_MAX);	/* tgid -> tgid of its parent */
BPF_PERCPU_ARRAY(scratch, struct mamplus_exec, 1);	/* too large for the stack */

static inline void fill_head(struct mamplus_head *head, u16 kind, u32 size)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	u32 *parent = parents.lookup(&tgid);

	head->boot_ns = bpf_ktime_get_ns();
	head->cgroup_id = bpf_get_current_cgroup_id();
	head->size = size;
	head->tgid = tgid;
	head->ppid = parent ? *parent : 0;
	head->uid = (u32)bpf_get_current_uid_gid();
	head->slot = MAMPLUS_NO_SLOT;
	head->kind = kind;
	bpf_get_current_comm(&head->comm, sizeof(head->comm));
}

TRACEPOINT_PROBE(task, task_newtask)
{
	struct mamplus_fork event = {};
	u32 child = args->pid;
	u32 tgid = bpf_get_current_pid_tgid() >> 32;

	if (args->clone_flags & CLONE_THREAD_FLAG || scope.check_current_task(0) <= 0)
		return 0;
	parents.update(&child, &tgid);
	fill_head(&event.head, MAMPLUS_KIND_FORK, sizeof(event));
	event.child_tgid = child;
	events.perf_submit(args, &event, sizeof(event));
	return 0;
}

TRACEPOINT_PROBE(sched, sched_process_exec)
{
	int zero = 0;
	struct mamplus_exec *event = scratch.lookup(&zero);

	if (!event || scope.check_current_task(0) <= 0)
		return 0;
	__builtin_memset(event, 0, sizeof(*event));
	fill_head(&event->head, MAMPLUS_KIND_EXEC, sizeof(*event));
	event->head.flags = MAMPLUS_F_UNKNOWN;
	TP_DATA_LOC_READ_STR(&event->path, filename, sizeof(event->path));
	events.perf_submit(args, event, sizeof(*event));
	return 0;
}

TRACEPOINT_PROBE(sched, sched_process_exit)
{
	struct mamplus_exit event = {};
	u64 id = bpf_get_current_pid_tgid();
	u32 tgid = id >> 32;

	if (tgid != (u32)id || scope.check_current_task(0) <= 0)
		return 0;
	fill_head(&event.head, MAMPLUS_KIND_EXIT, sizeof(event));
	event.exit_code = -1;
	parents.delete(&tgid);
	events.perf_submit(args, &event, sizeof(event));
	return 0;
}

static inline void map_ipv4(unsigned char *addr, u32 ipv4_be)
{
	addr[10] = addr[11] = 0xff;
	__builtin_memcpy(addr + 12, &ipv4_be, sizeof(ipv4_be));
}

/* Attached by the loader to the scope's cgroup: CGROUP_INET4_CONNECT. */
int on_connect4(struct bpf_sock_addr *ctx)
{
	struct mamplus_connect event = {};

	fill_head(&event.head, MAMPLUS_KIND_CONNECT, sizeof(event));
	map_ipv4(event.addr, ctx->user_ip4);
	event.port_be = ctx->user_port;
	event.protocol = ctx->protocol;
	event.family = ctx->family;
	events.perf_submit(ctx, &event, sizeof(event));
	return 1;
}

/* CGROUP_INET6_CONNECT. */
int on_connect6(struct bpf_sock_addr *ctx)
{
	struct mamplus_connect event = {};
	u32 words[4] = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] };

	fill_head(&event.head, MAMPLUS_KIND_CONNECT, sizeof(event));
	__builtin_memcpy(event.addr, words, sizeof(event.addr));
	event.port_be = ctx->user_port;
	event.protocol = ctx->protocol;
	event.family = ctx->family;
	events.perf_submit(ctx, &event, sizeof(event));
	return 1;
}

/* In their place where those are refused: TCP alone, and only in the task that called connect(2). */
int on_sock_state(struct tracepoint__sock__inet_sock_set_state *args)
{
	struct mamplus_connect event = {};

	if (args->newstate != SYN_SENT || scope.check_current_task(0) <= 0)
		return 0;
	fill_head(&event.head, MAMPLUS_KIND_CONNECT, sizeof(event));
	if (args->family == INET_FAMILY) {
		u32 daddr_be;

		bpf_probe_read(&daddr_be, sizeof(daddr_be), args->daddr);
		map_ipv4(event.addr, daddr_be);
	} else {
		bpf_probe_read(&event.addr, sizeof(event.addr), args->daddr_v6);
	}
	event.port_be = __builtin_bswap16(args->dport);
	event.protocol = args->protocol;
	event.family = args->family;
	events.perf_submit(args, &event, sizeof(event));
	return 0;
}
