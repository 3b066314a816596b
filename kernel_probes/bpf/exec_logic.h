/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is decided about a program that starts, apart from the hook that asks.
 *
 * exec_judge() fills a record and says what to do; the caller does it with the means of its
 * hook (a signal at sched_process_exec; -EPERM in an LSM hook) and emits the record.
 */
#ifndef MAMPLUS_EXEC_LOGIC_H
#define MAMPLUS_EXEC_LOGIC_H

#include "ble.h"
#include "ctime.h"
#include "known.h"
#include "record.h"
#include "standing.h"
#include "scratch.h"

#define MAMPLUS_NS_PER_MS 1000000ULL
#define MAMPLUS_S_IWOTH 0002

enum exec_action { EXEC_GO_ON, EXEC_REFUSE, EXEC_ASK };

/* Returns the MAMPLUS_F_ that the file itself earns. */
static __always_inline __u32 see_file(struct mamplus_file *out, struct file *file)
{
	struct inode *inode = SEE(file, f_inode);

	out->dev = SEE(inode, i_sb, s_dev);
	if (repeats_numbers(SEE(inode, i_sb, s_magic)))
		out->dev = device_with(out->dev, (__u64)BPF_CORE_READ(file, f_inode));
	out->ino = SEE(inode, i_ino);
	out->size = SEE(inode, i_size);
	out->mode = SEE(inode, i_mode);
	see_ctime(out, inode);
	return SEE(inode, i_nlink) ? 0 : MAMPLUS_F_DELETED;
}

/* The remembered SHA-256 of this very file, or NULL. */
static __always_inline struct mamplus_known *believed(const struct mamplus_file *file)
{
	struct mamplus_known *entry = known_of(file->dev, file->ino);

	if (!entry || entry->flags & MAMPLUS_KNOWN_PENDING || entry->size != file->size || entry->ctime_s != file->ctime_s || entry->ctime_ns != file->ctime_ns)
		return NULL;
	return entry;
}

/* Judge by content. PID 1 is never refused: without it there is no device. */
static __always_inline enum exec_action judge_known(struct mamplus_exec *exec, const struct mamplus_known *entry)
{
	__u64 word = ble_word();

	__builtin_memcpy(exec->sha256, entry->sha256, MAMPLUS_SHA256_LEN);
	exec->head.generation = ble_generation(word);
	take_hit(&exec->head, ble_content(word, exec->sha256));
	if (exec->head.tgid == 1)
		return EXEC_GO_ON;
	return refuse_blocked(&exec->head) ? EXEC_REFUSE : EXEC_GO_ON;
}

/* The policy's answer for a file whose content could not be had. */
static __always_inline enum exec_action judge_declared(struct mamplus_exec *exec, __u32 answer)
{
	exec->head.generation = ble_generation(ble_word());
	exec->head.flags |= MAMPLUS_F_DECLARED;
	count(MAMPLUS_C_DECLARED);
	if (answer != MAMPLUS_ANSWER_REFUSE || exec->head.tgid == 1)
		return EXEC_GO_ON;
	if (is_monitor()) {
		exec->head.flags |= MAMPLUS_F_MONITOR;
		return EXEC_GO_ON;
	}
	exec->head.flags |= MAMPLUS_F_REFUSED;
	return EXEC_REFUSE;
}

static __always_inline bool responder_is_there(const struct mamplus_posture *now)
{
	__u32 zero = 0;
	struct mamplus_heartbeat *beat = bpf_map_lookup_elem(&heartbeat, &zero);

	__s64 age_ns;

	if (!beat || !beat->responder_ns)
		return false;
	/* Signed: it may have beaten since the clock was read. */
	age_ns = bpf_ktime_get_boot_ns() - beat->responder_ns;
	return age_ns < (__s64)(now->responder_stale_ms * MAMPLUS_NS_PER_MS);
}

static __always_inline bool is_for_good(const struct mamplus_known *entry)
{
	return entry && !(entry->flags & MAMPLUS_KNOWN_ONCE);
}

/* The ELF interpreter that was mapped for this start, if its content is not known (noted by lsm_exec.bpf.c). */
static __always_inline void take_loader(struct mamplus_held *start, __u32 pid)
{
	struct mamplus_file *noted = bpf_map_lookup_elem(&loaders, &pid);

	__builtin_memset(&start->loader, 0, sizeof(start->loader));
	if (!noted)
		return;
	start->loader = *noted;
	bpf_map_delete_elem(&loaders, &pid);
	if (is_for_good(believed(&start->loader)) ||
	    (start->loader.ino == start->file.ino && start->loader.dev == start->file.dev))
		start->loader.ino = 0;
}

/* Fill the record of a start and judge it. EXEC_ASK: unknown, and somebody is there to hash it. */
static __always_inline enum exec_action exec_judge(struct mamplus_held *start, struct task_struct *task,
						   struct linux_binprm *bprm)
{
	struct mamplus_posture *now = posture_now();
	struct mamplus_exec *exec = &start->exec;
	struct file *file = SEE(bprm, file);
	struct mamplus_known *entry;

	fill_head(&exec->head, MAMPLUS_KIND_EXEC, sizeof(*exec));
	exec->head.flags |= see_file(&exec->file, file);
	if (SEE(file, f_path.dentry, d_parent, d_inode, i_mode) & MAMPLUS_S_IWOTH)
		exec->head.flags |= MAMPLUS_F_WORLD_WRITABLE;
	__builtin_memset(exec->sha256, 0, MAMPLUS_SHA256_LEN);
	exec->waited_ns = 0;
	__builtin_memset(exec->path, 0, sizeof(exec->path));
	bpf_probe_read_kernel_str(exec->path, sizeof(exec->path), SEE(bprm, filename));
	start->boot_ns = exec->head.boot_ns;
	start->start_ns = SEE(task, start_boottime);
	start->file = exec->file;
	exec->file.dev = (__u32)exec->file.dev;	/* the rest is nobody's business */
	take_loader(start, SEE(task, pid));

	entry = believed(&start->file);
	if (is_for_good(entry)) {
		enum exec_action action = judge_known(exec, entry);

		if (action == EXEC_REFUSE || !start->loader.ino)
			return action;
	} else {
		exec->head.flags |= MAMPLUS_F_UNKNOWN;
	}
	if (!now)
		return EXEC_GO_ON;	/* not configured yet: the maps are younger than the hooks */
	if (agent_is_down(now->down_exec_s))
		return judge_declared(exec, MAMPLUS_ANSWER_REFUSE);
	/* A tracer may swallow the signal that holds, and PID 1 must not wait. */
	if (SEE(task, ptrace) || exec->head.tgid == 1 || !responder_is_there(now))
		return judge_declared(exec, now->on_responder_down);
	return EXEC_ASK;
}

/* Turn the record of a start, which began to wait at `since_ns`, into that of its answer. */
static __always_inline void finish_wait(struct mamplus_exec *exec, __u64 since_ns)
{
	struct mamplus_head *head = &exec->head;

	head->kind = MAMPLUS_KIND_HELD;
	head->flags &= ~(MAMPLUS_F_HELD | MAMPLUS_F_MONITOR);
	exec->waited_ns = bpf_ktime_get_boot_ns() - since_ns;
	head->boot_ns = since_ns + exec->waited_ns;
}

#endif
