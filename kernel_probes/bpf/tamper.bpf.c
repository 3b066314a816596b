/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Signals to the agent, its responder or keeper that end or stop a process: noticed, on every kernel.
 *
 * Hook:    tp_btf/signal_generate.
 * Emits:   struct mamplus_tamper. The ring outlives the agent, so who killed it is told by the next one.
 * Refuses: nothing; lsm_guard.bpf.c does, where there is BPF LSM. A signal refused there never comes here.
 * Missing: without a heartbeat there is nobody to look after.
 */
#include "record.h"

#define MAMPLUS_SIGPIPE 13
#define MAMPLUS_SIGCHLD 17
#define MAMPLUS_SIGCONT 18
#define MAMPLUS_SIGSTOP 19
#define MAMPLUS_SIGTTOU 22
#define MAMPLUS_SIGURG 23
#define MAMPLUS_SIGWINCH 28
#define MAMPLUS_SEND_SIG_PRIV 1	/* values of `info` that are no pointers: the kernel itself sends */

static __always_inline bool is_harmless(int sig)
{
	return sig == 0 || sig == MAMPLUS_SIGPIPE || sig == MAMPLUS_SIGCHLD || sig == MAMPLUS_SIGCONT ||
	       sig == MAMPLUS_SIGURG || sig == MAMPLUS_SIGWINCH;
}

SEC("tp_btf/signal_generate")
int BPF_PROG(mamplus_tamper, int sig, void *info, struct task_struct *task)
{
	__u32 zero = 0, target, sender = bpf_get_current_pid_tgid() >> 32;
	struct mamplus_heartbeat *beat;
	struct mamplus_tamper event;

	if (is_harmless(sig))
		return 0;
	beat = bpf_map_lookup_elem(&heartbeat, &zero);
	target = BPF_CORE_READ(task, tgid);
	if (!beat || (target != beat->agent_tgid && target != beat->responder_tgid && target != beat->keeper_tgid))
		return 0;
	if (target == beat->agent_tgid && sig >= MAMPLUS_SIGSTOP && sig <= MAMPLUS_SIGTTOU)
		beat->agent_stopped = 1;
	if (sender == beat->agent_tgid || sender == beat->responder_tgid || sender == beat->keeper_tgid)
		return 0;
	fill_head(&event.head, MAMPLUS_KIND_TAMPER, sizeof(event));
	event.op = MAMPLUS_TAMPER_SIGNAL;
	event.target_tgid = target;
	event.argument = sig | ((unsigned long)info <= MAMPLUS_SEND_SIG_PRIV ? MAMPLUS_TAMPER_BY_KERNEL : 0);
	emit(&event, sizeof(event), true);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
