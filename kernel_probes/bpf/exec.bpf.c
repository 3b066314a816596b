/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs that start, processes that fork and end.
 *
 * Hooks:   tp_btf/sched_process_exec, _fork, _exit, for tasks below the scope's cgroup; and
 *          mamplus_answer, run by the responder for a start that waits.
 * Emits:   struct mamplus_exec (EXEC, and HELD for the answer), mamplus_fork, mamplus_exit; a
 *          struct mamplus_hold for the responder.
 * Refuses: by SIGKILL to the task itself, before its first instruction. Holds by SIGSTOP.
 * Missing: content that is not known waits for the responder; no responder, no room in `held` or
 *          in the holds ring, or a tracer: the declared answer. No room in the events ring: a
 *          counted loss, and the same verdict.
 */
#include "exec_logic.h"
#include "scope.h"

#define MAMPLUS_SIGKILL 9
#define MAMPLUS_SIGCONT 18
#define MAMPLUS_SIGSTOP 19

static __always_inline void report(struct mamplus_exec *exec)
{
	__u32 flags = exec->head.flags;
	bool urgent = exec->head.verdict == MAMPLUS_SUSPECT ||
		      flags & (MAMPLUS_F_REFUSED | MAMPLUS_F_WORLD_WRITABLE | MAMPLUS_F_DECLARED);

	emit(exec, sizeof(*exec), urgent);
}

static __always_inline void refuse(struct mamplus_exec *exec)
{
	if (bpf_send_signal(MAMPLUS_SIGKILL))
		exec->head.flags &= ~MAMPLUS_F_REFUSED;
	else
		count(MAMPLUS_C_REFUSED);
}

/* Stop the task and note it; in monitor mode only note it. 0, or it cannot wait. */
static __always_inline int hold(struct mamplus_held *start)
{
	__u32 tgid = start->exec.head.tgid;

	start->exec.head.flags |= is_monitor() ? MAMPLUS_F_MONITOR : MAMPLUS_F_HELD;
	if (bpf_map_update_elem(&held, &tgid, start, BPF_ANY))
		return -1;
	if (start->exec.head.flags & MAMPLUS_F_MONITOR || bpf_send_signal(MAMPLUS_SIGSTOP) == 0)
		return 0;
	bpf_map_delete_elem(&held, &tgid);
	return -1;
}

/* The room in the holds ring comes first: once stopped, somebody must know of it. */
static __always_inline void ask(struct mamplus_held *start)
{
	struct mamplus_hold *note = bpf_ringbuf_reserve(&holds, sizeof(*note), 0);
	struct mamplus_posture *now = posture_now();

	if (note && hold(start) == 0) {
		note->boot_ns = start->boot_ns;
		note->tgid = start->exec.head.tgid;
		note->op = 0;
		note->file = start->file;
		note->loader = start->loader;
		count(MAMPLUS_C_HELD);
		report(&start->exec);	/* before the answer, which the submit below sets off */
		bpf_ringbuf_submit(note, BPF_RB_FORCE_WAKEUP);
		return;
	}
	if (note)
		bpf_ringbuf_discard(note, BPF_RB_NO_WAKEUP);
	count(MAMPLUS_C_HOLD_LOST);
	start->exec.head.flags &= ~(MAMPLUS_F_HELD | MAMPLUS_F_MONITOR);
	if (now && judge_declared(&start->exec, now->on_responder_down) == EXEC_REFUSE)
		refuse(&start->exec);
	report(&start->exec);
}

/* What the thread tried is over, and what comes next is another access: see my_wait() of lsm_logic.h. */
static __always_inline void forget_wait(void)
{
	__u32 pid = bpf_get_current_pid_tgid();

	if (bpf_map_lookup_elem(&waits, &pid))
		bpf_map_delete_elem(&waits, &pid);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(mamplus_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	struct mamplus_held *start = scratch_slot(0);
	enum exec_action action;

	if (!start || !in_scope())
		return 0;
	forget_wait();
	action = exec_judge(start, task, bprm);
	if (action == EXEC_ASK) {
		ask(start);
		return 0;
	}
	if (action == EXEC_REFUSE)
		refuse(&start->exec);
	report(&start->exec);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(mamplus_fork, struct task_struct *parent, struct task_struct *child)
{
	struct mamplus_fork event;

	if (SEE(child, pid) != SEE(child, tgid) || !in_scope())
		return 0;	/* a thread */
	fill_head(&event.head, MAMPLUS_KIND_FORK, sizeof(event));
	event.child_tgid = SEE(child, tgid);
	event.pad = 0;
	emit(&event, sizeof(event), false);
	return 0;
}

/* The responder is gone: nobody must wait for it until another one comes. A number that is free is nobody's. */
static __always_inline void note_exit_of_ours(__u32 tgid)
{
	__u32 zero = 0;
	struct mamplus_heartbeat *beat = bpf_map_lookup_elem(&heartbeat, &zero);

	if (beat && beat->responder_tgid == tgid) {
		beat->responder_tgid = 0;
		beat->responder_ns = 0;
	}
	if (beat && beat->agent_tgid == tgid)
		beat->agent_tgid = 0;
	if (beat && beat->keeper_tgid == tgid)
		beat->keeper_tgid = 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(mamplus_exit, struct task_struct *task)
{
	__u32 tgid = SEE(task, tgid);
	struct mamplus_exit event;
	int group_code;

	forget_wait();
	if (SEE(task, signal, live.counter) != 0)
		return 0;	/* other threads live on */
	note_exit_of_ours(tgid);
	bpf_map_delete_elem(&held, &tgid);
	if (!in_scope())
		return 0;
	group_code = SEE(task, signal, group_exit_code);
	fill_head(&event.head, MAMPLUS_KIND_EXIT, sizeof(event));
	event.exit_code = group_code ? group_code : SEE(task, group_leader, exit_code);
	event.pad = 0;
	emit(&event, sizeof(event), false);
	return 0;
}

/* The program may start; so may its ELF interpreter, or the record is about that one. */
static __always_inline enum exec_action judge_loader(struct mamplus_exec *exec, const struct mamplus_known *loader)
{
	if (!is_refusing(hit_verdict(ble_content(ble_word(), loader->sha256))))
		return EXEC_GO_ON;
	exec->head.verdict = MAMPLUS_NOTHING;
	return judge_known(exec, loader);
}

/* Judge a start that waited, and make its record that of the answer, in place. */
static __always_inline enum exec_action judge_waited(struct mamplus_held *start, bool hashed)
{
	struct mamplus_exec *exec = &start->exec;
	struct mamplus_posture *now = posture_now();
	struct mamplus_known *entry = hashed ? believed(&start->file) : NULL;
	struct mamplus_known *loader = hashed && start->loader.ino ? believed(&start->loader) : NULL;
	enum exec_action action = EXEC_GO_ON;

	finish_wait(exec, start->boot_ns);
	if (entry && (loader || !start->loader.ino)) {
		exec->head.flags &= ~MAMPLUS_F_UNKNOWN;
		action = judge_known(exec, entry);
		if (loader && action != EXEC_REFUSE)
			action = judge_loader(exec, loader);
	} else if (now) {
		action = judge_declared(exec, now->on_deadline);
	}
	return action;
}

/*
 * Who is refused stays in `held`, with F_REFUSED, until it ends: whoever lets it go on before the responder's SIGKILL
 * comes ends it. Of two that answer in the same moment both may tell.
 */
static __always_inline long keep_refused(__u32 tgid, struct mamplus_held *start, __u32 stopped)
{
	long error;

	start->exec.head.flags |= stopped;
	error = bpf_map_update_elem(&held, &tgid, start, BPF_EXIST);
	start->exec.head.flags &= ~stopped;
	return error;
}

/* raw_tp, though never attached: it can be run by BPF_PROG_TEST_RUN since 5.10, a syscall program since 5.14. */
SEC("raw_tp/mamplus_answer")
int mamplus_answer(struct bpf_raw_tracepoint_args *ctx)
{
	struct mamplus_answer_args args;
	struct mamplus_held *found, *start = scratch_slot(1);
	enum exec_action action;
	__u32 tgid, stopped;

	bpf_probe_read_kernel(&args, sizeof(args), ctx->args);
	tgid = args.tgid;
	found = bpf_map_lookup_elem(&held, &tgid);
	if (!start || !found || found->boot_ns != args.boot_ns)
		return 0;
	/* A copy: an entry that is deleted under our eyes may be another start's already. */
	__builtin_memcpy(start, found, sizeof(*start));
	if (start->boot_ns != args.boot_ns)
		return 0;
	if (start->exec.head.flags & MAMPLUS_F_REFUSED)
		return MAMPLUS_REPLY_FOUND | MAMPLUS_REPLY_KILL;	/* who refused it may be gone */
	stopped = start->exec.head.flags & MAMPLUS_F_HELD;
	action = judge_waited(start, args.hashed);
	if (action == EXEC_REFUSE ? keep_refused(tgid, start, stopped) : bpf_map_delete_elem(&held, &tgid))
		return 0;
	if (action == EXEC_REFUSE)
		count(MAMPLUS_C_REFUSED);
	emit(&start->exec, sizeof(start->exec), true);
	return MAMPLUS_REPLY_FOUND | (action == EXEC_REFUSE ? MAMPLUS_REPLY_KILL : 0) |
	       (stopped ? MAMPLUS_REPLY_CONT : 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
