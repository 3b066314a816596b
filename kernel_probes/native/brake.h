/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The brake: whoever changes many protected files is stopped while he is at it. brake.c says how.
 *
 * Every int result is a descriptor or count (>= 0), or -errno.
 */
#ifndef MAMPLUS_BRAKE_H
#define MAMPLUS_BRAKE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* cffi: begin */
#define MAMPLUS_BRAKED_MAX 64

/* Who was stopped, and not taken yet: what the file behind `kept_fd` holds, too. */
struct mamplus_braked {
	uint64_t tgid;
	uint64_t start_ns;	/* as tasks.Task has it */
};

/* Who is left alone. Lists are texts one after the other, each ended by NUL, and an empty one at the end. */
struct mamplus_spared {
	const char *scope;	/* cgroup v2 path as in /proc/PID/cgroup: nobody outside of it; "/": everybody is in it */
	const char *units;	/* patterns of system units */
	const char *programs;	/* paths, usr-merged */
	const char *managers;	/* paths: with all that they start, when root runs them */
	const char *tgids;	/* in decimals */
};

struct mamplus_brake;

/*
 * `limit` different files within `window_ns` are too many. `told_fd`: an eventfd that is written when somebody was
 * stopped; `kept_fd`: a file. It begins turned off. NULL: *error holds -errno.
 */
struct mamplus_brake *mamplus_brake_open(int told_fd, int kept_fd, uint32_t limit, uint64_t window_ns, int *error);
void mamplus_brake_close(struct mamplus_brake *brake);
int mamplus_brake_mark(struct mamplus_brake *brake, const char *path, bool counts);
int mamplus_brake_spare(struct mamplus_brake *brake, const struct mamplus_spared *spared);	/* -ENOMEM: as before */
void mamplus_brake_turn(struct mamplus_brake *brake, bool on);
uint32_t mamplus_brake_taken(struct mamplus_brake *brake, struct mamplus_braked *out);	/* of MAMPLUS_BRAKED_MAX */
void mamplus_brake_drop(struct mamplus_brake *brake, uint32_t count);	/* the first of them */
/* cffi: end */

#define BRAKE_HEADS 512

struct brake_seen {
	uint64_t file;	/* a hash of its handle */
	uint64_t at_ns;	/* CLOCK_BOOTTIME; 0: free */
};

struct brake_head {
	pid_t tgid;	/* 0: free */
	uint64_t last_ns;
	enum { BRAKE_UNKNOWN, BRAKE_SPARED, BRAKE_TO_STOP } verdict;	/* looked up half-way to the limit */
	struct brake_seen *seen;	/* `limit` of them */
};

struct brake_heads {
	uint32_t limit;
	uint64_t window_ns;
	struct brake_head all[BRAKE_HEADS];
};

/* brake_heads.c */
bool brake_heads_make(struct brake_heads *heads, uint32_t limit, uint64_t window_ns);	/* false: no memory */
void brake_heads_free(struct brake_heads *heads);
void brake_begin_anew(struct brake_heads *heads, struct brake_head *head);
void brake_begin_all_anew(struct brake_heads *heads);
struct brake_head *brake_head_of(struct brake_heads *heads, pid_t tgid);
/* Take in that a process changed a file; true: it had not within the window. */
bool brake_saw(const struct brake_heads *heads, struct brake_head *head, uint64_t file, uint64_t now);
uint32_t brake_within(const struct brake_heads *heads, const struct brake_head *head, uint64_t now);	/* files */

/* brake_spared.c */
struct brake_task {
	pid_t tgid;
	pid_t ppid;
	uint64_t start_ns;
	char state;	/* as /proc/PID/stat has it */
};

bool brake_look(pid_t tgid, struct brake_task *task);	/* false: it has ended */
struct mamplus_spared *brake_spared_copy(const struct mamplus_spared *spared);
void brake_spared_free(struct mamplus_spared *spared);
bool brake_spares(const struct mamplus_spared *spared, pid_t tgid);	/* may wait for a lock of cgroups */
bool brake_spares_program(const struct mamplus_spared *spared, pid_t tgid);

#endif
