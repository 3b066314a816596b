/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A program that waits for its hash is stopped; whoever may signal or trace it could let it go on.
 *
 * Hooks:   fexit/get_signal: a task is done with its signals, and about to go (back) to user mode;
 *          fentry/security_sb_set_mnt_opts, which only counts what is mounted (known.h).
 * Emits:   struct mamplus_exec (HELD, with F_DECLARED and F_REFUSED).
 * Refuses: by SIGKILL to the task itself, when its wait has no answer yet. The kernel looks for signals once more
 *          before it leaves for user mode, so not one instruction runs, whoever sent what, and however slow the sender is.
 * Missing: a kernel under lockdown takes no fexit program, and has signal.bpf.c in its place.
 *
 * Who may go on is not in `held` any more when its SIGCONT comes; who is refused is there until it ends, and is told
 * by the answer. Can be preempted: no per-CPU scratch.
 */
#include "exec_logic.h"

#define MAMPLUS_SIGKILL 9

SEC("fexit/get_signal")
int BPF_PROG(mamplus_resumed)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct mamplus_held *start = bpf_map_lookup_elem(&held, &tgid);
	struct mamplus_exec *told;

	if (!start || !(start->exec.head.flags & MAMPLUS_F_HELD))
		return 0;
	if (bpf_send_signal(MAMPLUS_SIGKILL) || start->exec.head.flags & MAMPLUS_F_REFUSED)
		return 0;	/* it ends already, or is told already */
	count(MAMPLUS_C_DECLARED);
	count(MAMPLUS_C_REFUSED);
	told = reserve(sizeof(*told));
	if (!told) {
		count(MAMPLUS_C_LOST);
		bpf_map_delete_elem(&held, &tgid);
		return 0;
	}
	__builtin_memcpy(told, &start->exec, sizeof(*told));
	finish_wait(told, start->boot_ns);
	told->head.flags |= MAMPLUS_F_DECLARED | MAMPLUS_F_REFUSED;
	bpf_map_delete_elem(&held, &tgid);
	submit(told, sizeof(*told), true);
	return 0;
}

/* What lsm/sb_set_mnt_opts is to lsm_exec.bpf.c, where there is no BPF LSM. */
SEC("?fentry/security_sb_set_mnt_opts")
int BPF_PROG(mamplus_mounting, struct super_block *super)
{
	note_birth(super);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
