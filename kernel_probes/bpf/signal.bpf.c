/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A program that waits for its hash is stopped, and whoever may signal it could let it go on.
 *
 * Hook:    tp_btf/signal_generate: every signal, but it looks at SIGCONT and SIGSTOP alone.
 * Emits:   struct mamplus_exec (HELD, with F_DECLARED and F_REFUSED).
 * Refuses: by SIGKILL to the held program, when the signal is not the responder's.
 * Missing: where resumed.bpf.c is attached this is not: it looks at the task itself, and no race is left. Without it
 *          kernels before 6.13 have no bpf_send_signal_task(), and this object does not load;
 *          there a SIGCONT ends the wait, and the answer still comes when the hash is known.
 *
 * The sender holds the target's signal lock here and interrupts are off, so the kernel sends
 * the SIGKILL right after the lock is released. The woken task needs that lock on its way to
 * user mode. So it ends for certain, but where the sender's processor is taken away in that moment, as a hypervisor
 * does, its first instructions may have run.
 */
#include "exec_logic.h"

#define MAMPLUS_SIGKILL 9
#define MAMPLUS_SIGCONT 18
#define MAMPLUS_SIGSTOP 19

enum pid_type { PIDTYPE_PID, PIDTYPE_TGID };

extern int bpf_send_signal_task(struct task_struct *task, int sig, enum pid_type type, __u64 value) __ksym;

static __always_inline bool is_responder(void)
{
	__u32 zero = 0;
	struct mamplus_heartbeat *beat = bpf_map_lookup_elem(&heartbeat, &zero);

	return beat && beat->responder_tgid == bpf_get_current_pid_tgid() >> 32;
}

SEC("tp_btf/signal_generate")
int BPF_PROG(mamplus_signal, int sig, void *info, struct task_struct *task)
{
	struct mamplus_held *waits, *start = scratch_slot(0);
	__u32 tgid;

	/* SIGCONT would let it go on; with a SIGSTOP PTRACE_ATTACH begins, and then a tracer would. */
	if (sig != MAMPLUS_SIGCONT && sig != MAMPLUS_SIGSTOP)
		return 0;
	tgid = BPF_CORE_READ(task, tgid);
	if (tgid == bpf_get_current_pid_tgid() >> 32)
		return 0;	/* our own hold: sent in the name of the task itself, which runs nothing of its own yet */
	waits = bpf_map_lookup_elem(&held, &tgid);
	if (!start || !waits || !(waits->exec.head.flags & MAMPLUS_F_HELD) || is_responder())
		return 0;
	if (bpf_send_signal_task(task, MAMPLUS_SIGKILL, PIDTYPE_TGID, 0) || waits->exec.head.flags & MAMPLUS_F_REFUSED)
		return 0;	/* refused: told already */
	__builtin_memcpy(start, waits, sizeof(*start));
	if (bpf_map_delete_elem(&held, &tgid))
		return 0;
	finish_wait(&start->exec, start->boot_ns);
	start->exec.head.flags |= MAMPLUS_F_DECLARED | MAMPLUS_F_REFUSED;
	count(MAMPLUS_C_DECLARED);
	count(MAMPLUS_C_REFUSED);
	emit(&start->exec, sizeof(start->exec), true);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
