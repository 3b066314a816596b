/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the current task's program is: one that runs what it reads, or not. */
#ifndef MAMPLUS_LSM_PROGRAM_H
#define MAMPLUS_LSM_PROGRAM_H

#include "lsm_logic.h"

/* What this file held when it was hashed last, whatever its times say since; while it is being read, too. */
static __always_inline struct mamplus_known *held_last(const struct mamplus_file *file)
{
	return known_of(file->dev, file->ino);
}

/*
 * Have the responder hash the task's program, which it finds as /proc/PID/exe: nobody waits for that. Apart from the
 * hook, whose stack has a file already. False: there is nothing to ask about, or nobody to ask.
 */
static __noinline bool is_being_asked(const struct mamplus_file *program)
{
	struct wish wish = { .file = *program, .op = MAMPLUS_OP_MAP_EXEC };
	struct mamplus_posture *now = posture_now();
	__u32 first = 0;
	struct mamplus_pattern *pattern = bpf_map_lookup_elem(&patterns, &first);

	if (!pattern || !pattern->text[0] || !now || !responder_is_there(now))
		return false;
	if (post(&wish, bpf_ktime_get_boot_ns(), 0, NULL, MAMPLUS_PATH_LEN))
		count(MAMPLUS_C_HOLD_LOST);	/* no room: what it opens finds none, either */
	return true;
}

/*
 * The task's program is one that runs what it reads. Nobody writes to what runs, so its times do not matter. One that
 * is not known, because it was forgotten or ran before the agent, may be one: it counts as one until it is hashed.
 */
static __always_inline bool is_interpreter(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct mm_struct *mm = task->mm;
	struct file *program = mm ? mm->exe_file : NULL;
	struct mamplus_content content;
	struct mamplus_known *entry;
	struct mamplus_file file;

	if (!program)
		return false;
	see_file(&file, program);
	entry = held_last(&file);
	if (!entry)
		return is_being_asked(&file);
	__builtin_memcpy(content.sha256, entry->sha256, sizeof(content.sha256));
	return bpf_map_lookup_elem(&interpreters, &content) != NULL;
}

#endif
