/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What an LSM hook decides about a file, by its content.
 *
 * Known content is judged at once. For unknown content the access is undone: the hook returns -ERESTARTNOINTR
 * and stops the thread, so that the kernel repeats the system call when the responder, who has hashed the file
 * meanwhile, lets it go on. Nothing is open, mapped or started before it is judged, so whoever sends a SIGCONT,
 * traces the task or shares its memory gains nothing: the access is only asked about once more.
 *
 * These hooks can be preempted, so no per-CPU scratch: what does not fit the stack is built in the ring.
 */
#ifndef MAMPLUS_LSM_LOGIC_H
#define MAMPLUS_LSM_LOGIC_H

#include "lsm_wish.h"

#define MAMPLUS_EAGAIN 11
#define MAMPLUS_ERESTARTNOINTR 513
#define MAMPLUS_SIGSTOP 19
#define MAMPLUS_PF_IO_WORKER 0x00000010
#define MAMPLUS_PF_KTHREAD 0x00200000
#define MAMPLUS_NR_IO_URING_ENTER 426	/* on every architecture */
#define MAMPLUS_STALE_WAITS 4	/* deadlines */

/* --- answers ------------------------------------------------------------------------------- */

static __always_inline void begin(struct mamplus_head *judged, const struct wish *wish, __u64 word)
{
	__builtin_memset(judged, 0, sizeof(*judged));
	judged->generation = ble_generation(word);
	judged->slot = MAMPLUS_NO_SLOT;
	judged->flags = wish->flags;
}

static __always_inline int judge_content(const struct wish *wish, const struct mamplus_known *entry, struct path *path,
					 struct file *file)
{
	__u64 word = ble_word(), hit = ble_content(word, entry->sha256);
	struct mamplus_head judged;

	if (!hit || hit_verdict(hit) > MAMPLUS_BLOCK)
		return 0;
	begin(&judged, wish, word);
	take_hit(&judged, hit);
	refuse_blocked(&judged);
	return end(wish, &judged, entry->sha256, path, file);
}

static __always_inline int declare(const struct wish *wish, __u32 answer, struct path *path, struct file *file)
{
	struct mamplus_head judged;

	count(MAMPLUS_C_DECLARED);
	if (answer != MAMPLUS_ANSWER_REFUSE)
		return 0;
	begin(&judged, wish, ble_word());
	judged.flags |= MAMPLUS_F_UNKNOWN | MAMPLUS_F_DECLARED;
	judged.flags |= is_monitor() ? MAMPLUS_F_MONITOR : MAMPLUS_F_REFUSED;
	return end(wish, &judged, NULL, path, file);
}

/* --- unknown content ----------------------------------------------------------------------- */

/* Of the caller; as regs of another architecture have it: not at all. */
static __always_inline long system_call(void)
{
	long regs = bpf_task_pt_regs(bpf_get_current_task_btf());
	struct pt_regs___x86 *x86 = (void *)regs;
	struct pt_regs___arm64 *arm64 = (void *)regs;

	if (bpf_core_field_exists(x86->orig_ax))
		return BPF_CORE_READ(x86, orig_ax);
	return BPF_CORE_READ(arm64, syscallno);
}

/* The kernel repeats a system call only when one was made for this access, and nothing but it. */
static __always_inline bool can_restart(struct task_struct *task)
{
	if (BPF_CORE_READ(task, flags) & (MAMPLUS_PF_IO_WORKER | MAMPLUS_PF_KTHREAD) || !BPF_CORE_READ(task, mm))
		return false;
	return system_call() != MAMPLUS_NR_IO_URING_ENTER;
}

static __always_inline bool is_same(const struct mamplus_file *one, const struct mamplus_file *other)
{
	return one->ino == other->ino && one->dev == other->dev && one->size == other->size &&
	       one->ctime_s == other->ctime_s && one->ctime_ns == other->ctime_ns;
}

static __always_inline bool is_inode(const struct mamplus_file *one, const struct mamplus_file *other)
{
	return one->ino == other->ino && one->dev == other->dev;
}

/*
 * What became of this access, if the thread has tried it before. It goes by the inode: a file that is written all
 * the time is another one at each try, and its deadline must not begin anew. All that a start asks about (a script, and
 * what that names) is one access. Much older than a deadline is what was never tried again: it is not this access.
 */
static __always_inline struct mamplus_wait *my_wait(const struct wish *wish, const struct mamplus_posture *now)
{
	__u32 pid = bpf_get_current_pid_tgid();
	struct mamplus_wait *mine = bpf_map_lookup_elem(&waits, &pid);
	struct task_struct *task;

	if (!mine || mine->op != wish->op || (wish->op && !is_inode(&mine->file, &wish->file)))
		return NULL;
	task = bpf_get_current_task_btf();
	if (mine->start_ns != BPF_CORE_READ(task, start_boottime))
		return NULL;
	if (now && bpf_ktime_get_boot_ns() - mine->boot_ns > MAMPLUS_STALE_WAITS * now->deadline_ms * MAMPLUS_NS_PER_MS)
		return NULL;
	return mine;
}

/* It was judged. Of a start the rest may have to wait, and has what is left of the time. */
static __always_inline void settle_wait(struct mamplus_wait *mine)
{
	__u32 pid = bpf_get_current_pid_tgid();

	if (mine->op)
		bpf_map_delete_elem(&waits, &pid);
	else
		mine->state = MAMPLUS_WAIT_TAKEN;
}

static __always_inline bool is_late(const struct mamplus_wait *mine, const struct mamplus_posture *now)
{
	return bpf_ktime_get_boot_ns() - mine->boot_ns >= now->deadline_ms * MAMPLUS_NS_PER_MS;
}

/* Whether the thread has waited for as long as it may, or in vain. The next access has not. */
static __always_inline bool has_waited(const struct wish *wish, const struct mamplus_posture *now)
{
	struct mamplus_wait *mine = my_wait(wish, now);
	__u32 pid = bpf_get_current_pid_tgid();

	if (!mine || !(is_late(mine, now) || (mine->state == MAMPLUS_WAIT_FAILED && is_same(&mine->file, &wish->file))))
		return false;
	bpf_map_delete_elem(&waits, &pid);
	return true;
}

static __always_inline void fill_want(struct mamplus_want *want, const struct wish *wish, __u64 boot_ns, __u32 pid)
{
	want->hold.boot_ns = boot_ns;
	want->hold.tgid = bpf_get_current_pid_tgid() >> 32;
	want->hold.op = wish->op ? wish->op : MAMPLUS_OP_OPEN;
	want->hold.file = wish->file;
	__builtin_memset(&want->hold.loader, 0, sizeof(want->hold.loader));
	want->from = wish->from;
	want->to = wish->to;
	want->pid = pid;
	want->pad = 0;
	want->path[0] = 0;
}

/* Longer than any path may be: the last name, which begins with no slash. */
static __always_inline bool put_path(struct mamplus_want *want, struct path *path, const __u32 room)
{
	if (!path || bpf_d_path(path, want->path, room) > 0)
		return true;
	if (room != MAMPLUS_LONG_PATH)
		return false;
	return bpf_probe_read_kernel_str(want->path, MAMPLUS_PATH_LEN, BPF_CORE_READ(path, dentry, d_name.name)) > 1;
}

/* Stop the thread and have the responder know of it; pid 0: only have the file hashed. 0, or it cannot wait. */
static __always_inline int post(const struct wish *wish, __u64 boot_ns, __u32 pid, struct path *path, const __u32 room)
{
	struct mamplus_want *want = bpf_ringbuf_reserve(&holds, offsetof(struct mamplus_want, path) + room, 0);

	if (!want)
		return -1;
	fill_want(want, wish, boot_ns, pid);
	if (!put_path(want, path, room) || (pid && bpf_send_signal_thread(MAMPLUS_SIGSTOP))) {
		bpf_ringbuf_discard(want, BPF_RB_NO_WAKEUP);
		return -1;
	}
	bpf_ringbuf_submit(want, BPF_RB_FORCE_WAKEUP);	/* after the stop: the answer to it cannot come too early */
	return 0;
}

static __always_inline int post_any(const struct wish *wish, __u64 boot_ns, __u32 pid, struct path *path)
{
	if (!post(wish, boot_ns, pid, path, MAMPLUS_PATH_LEN))
		return 0;
	return path ? post(wish, boot_ns, pid, path, MAMPLUS_LONG_PATH) : -1;
}

static __always_inline int lose(const struct wish *wish, const struct mamplus_posture *now, struct path *path,
				struct file *file)
{
	count(MAMPLUS_C_HOLD_LOST);
	return declare(wish, now->on_responder_down, path, file);
}

/* Undo the access and have it tried again when its content is known. */
static __always_inline int wait(const struct wish *wish, const struct mamplus_posture *now, struct task_struct *task,
				struct path *path, struct file *file)
{
	__u32 pid = bpf_get_current_pid_tgid();
	struct mamplus_wait one = { .boot_ns = bpf_ktime_get_boot_ns(), .start_ns = BPF_CORE_READ(task, start_boottime),
				    .file = wish->file, .tgid = bpf_get_current_pid_tgid() >> 32, .op = wish->op };
	struct mamplus_wait *mine;

	if (has_waited(wish, now))
		return declare(wish, now->on_deadline, path, file);
	mine = my_wait(wish, now);
	if (mine)
		one.boot_ns = mine->boot_ns;	/* woken by somebody else, or written since: the deadline stays where it is */
	else
		count(MAMPLUS_C_HELD);
	if (bpf_map_update_elem(&waits, &pid, &one, BPF_ANY) || post_any(wish, one.boot_ns, pid, path))
		return lose(wish, now, path, file);
	return -MAMPLUS_ERESTARTNOINTR;
}

static __always_inline int ask(const struct wish *wish, struct path *path, struct file *file)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct mamplus_posture *now = posture_now();

	if (!now)
		return 0;	/* not configured yet: the maps are younger than the hooks */
	if (agent_is_down(now->down_exec_s))
		return declare(wish, MAMPLUS_ANSWER_REFUSE, path, file);
	if (!responder_is_there(now))
		return declare(wish, now->on_responder_down, path, file);
	if (!is_monitor() && can_restart(task))
		return wait(wish, now, task, path, file);
	if (post_any(wish, bpf_ktime_get_boot_ns(), 0, path))
		return lose(wish, now, path, file);
	return is_monitor() ? 0 : -MAMPLUS_EAGAIN;
}

/* The content that may be believed for this access, or NULL. */
static __always_inline struct mamplus_known *content_of(const struct wish *wish)
{
	struct mamplus_known *entry = believed(&wish->file);
	struct mamplus_wait *mine;

	if (!entry)
		return NULL;
	mine = my_wait(wish, NULL);
	if (mine && !is_same(&mine->file, &wish->file))
		mine = NULL;	/* about another file of this start, or about what this one was before */
	if (!is_for_good(entry) || wish->is_written) {
		if (!mine || mine->state != MAMPLUS_WAIT_HASHED)
			return NULL;	/* good once, and this is not the access that it was hashed for */
	}
	if (mine)
		settle_wait(mine);
	return entry;
}

#endif
