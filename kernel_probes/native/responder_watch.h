/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The fanotify tier. Its parts:
 *
 *     responder_watch.c        what is marked; starts and ends the rest (main thread)
 *     responder_watch_serve.c  the thread that answers: reads an event, judges, answers or lets it wait
 *     responder_watch_judge.c  one access: which file, whose task, what the kernel program says (also the keeper's)
 *     responder_watch_waits.c  the tables of opens that wait and of files to hash for the next time
 *     responder_watch_hash.c   the two threads that hash
 *     responder_watch_marks.c  ignore marks: a known good file costs nothing
 *     responder_keeper.c       the second process, which answers when this one does not
 *
 * While an event is held nothing here opens a file on a marked file system (but for the event's own descriptor),
 * allocates, logs, or waits for the agent.
 */
#ifndef MAMPLUS_RESPONDER_WATCH_H
#define MAMPLUS_RESPONDER_WATCH_H

#include <sys/fanotify.h>
#include <sys/types.h>

#include "mamplus_watch.h"
#include "responder.h"

#define WATCH_FDS 4096	/* at most: see watch_fds() */
#define KEEPER_FDS 16	/* room for the keeper above them */

/* The pinned objects that this tier needs. */
struct watch_pins {
	int access, posture, active, known;
	struct mamplus_watch *watch;
	struct mamplus_access *asked;
	const struct mamplus_heartbeat *heartbeat;
};

/* An event as it was read. */
struct opening {
	struct mamplus_file file;
	int fd;
	uint32_t tgid;
	bool is_exec;
	uint64_t since_ns;
};

enum decision { DECIDED_ALLOW, DECIDED_GOOD, DECIDED_REFUSE, UNDECIDED };

/* responder_watch.c */
int watch_open(const char *bpffs, const struct pins *pins, struct mamplus_heartbeat *heartbeat);	/* 0, or -errno */
int watch_fds(void);		/* the responder's descriptors lie below, the keeper's events above: an answer is by number */
void watch_tick(void);		/* main thread, at every turn: another generation, other paths */
void watch_end(void);		/* lets everybody go, and ends what was started */

/* responder_watch_judge.c */
extern struct watch_pins watch_pins;
void watch_count(enum mamplus_watch_counter counter);
struct mamplus_posture watch_posture(void);
bool opening_identify(struct opening *opening);	/* false: not a regular file, or one that cannot be looked at */
bool opening_identify_at(struct opening *opening, const char *path);	/* the same through a link in /proc */
enum decision opening_decide(uint32_t slot, struct opening *opening);
uint32_t judge(uint32_t slot, const struct opening *opening, uint32_t flags);	/* MAMPLUS_ACCESS_; says nothing to anybody */
uint32_t judge_and_report(uint32_t slot, const struct opening *opening, uint32_t flags);
bool task_is_ours(uint32_t tgid);	/* the agent, the responder, its keeper, or PID 1: never refused, never made to wait */
bool task_is_in_scope(uint32_t tgid);
uint32_t declared_flags(bool is_refusing);
bool declared_refuses(const struct mamplus_posture *posture, bool is_exec, bool is_nobody_there);
void judge_probe(void);		/* finds out what this kernel has */

/* responder_watch_serve.c */
int serve_start(int group_fd, int written_fd);	/* 0, or -errno */
void serve_drop_marks(void);	/* asks the thread to drop all ignore marks */
void serve_end(void);		/* returns when the thread has ended */
void answer_event(int group_fd, int fd, bool is_refused);

/* responder_watch_waits.c, but waits_start(): responder_watch_hash.c. By the thread that answers alone. */
int waits_start(int done_fd);
bool wait_add(const struct opening *opening, uint64_t deadline_ns, bool refuses_late, bool is_let_go);	/* takes the descriptor; false: no room */
bool wait_can_end(uint64_t size, uint64_t within_ns);	/* by what was hashed so far: will a file of that size be done? */
bool later_add(int fd, const struct mamplus_file *file);	/* takes the descriptor in any case; false: no room */
/* Gives the answer. False: what was hashed is not known any more; it is asked again, at the latest with is_hashed false. */
typedef bool wait_settle(const struct opening *opening, bool is_hashed, bool is_let_go);
void waits_each(wait_settle *settle, uint64_t now_ns, uint64_t *next_ns);

/* responder_watch_marks.c; by the thread that answers alone. */
void marks_open(int group_fd);
void mark_good(const struct opening *opening);
void mark_remove(int fd);
void marks_drop(void);

/* responder_keeper.c */
struct keeper {
	const char *bpffs;
	const struct pins *pins;
	struct mamplus_heartbeat *heartbeat;
	int group;	/* -1: the fanotify tier is off */
};

int keeper_start(const struct keeper *keeper, pid_t *pid);	/* 0, or -errno */
void keeper_end(pid_t pid);

#endif
