/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The responder's parts: responder.c (main loop, answers), responder_jobs.c (the table of starts and accesses
 * that wait), responder_answer.c (one of them: claim it, answer it), responder_open.c (which file that is),
 * responder_hash.c (two threads that hash), responder_watch*.c (the fanotify tier), responder_keeper.c (the process
 * that answers when this one does not), responder_agent.c (a look at the agent).
 */
#ifndef MAMPLUS_RESPONDER_H
#define MAMPLUS_RESPONDER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "mamplus_native.h"
#include "mamplus_tables.h"

#define HASH_THREADS 2

enum job_state { JOB_FREE, JOB_QUEUED, JOB_HASHING, JOB_DONE };

/* What is known of a file once its job is done. */
enum hash_state { HASH_NONE, HASH_ONCE, HASH_KEPT };

struct job {
	struct mamplus_hold hold;	/* op is 0: a start; else an access, of which the next three say more */
	uint64_t from, to;	/* where it is mapped; 0: it is not */
	uint32_t pid;		/* the thread; 0: nobody waits */
	char *path;		/* below its root; NULL: it is open or mapped */
	uint64_t deadline_ns;	/* CLOCK_BOOTTIME */
	int pidfd;		/* -1: answered */
	enum job_state state;	/* guarded by the table's lock */
	enum hash_state hashed;	/* of JOB_DONE: whether `known` holds the file */
	bool is_answered;	/* guarded by the lock: hashed on only for the next start, while nobody waits */
};

/* Descriptors of the pinned objects. */
struct pins {
	int held, known, holds, posture, heartbeat, answer, waits, opened, interpreters, patterns, births;
};

uint64_t boot_ns(void);

/* responder_jobs.c; only the main thread adds and frees. */
struct job *job_add(const struct job *wanted);	/* a copy, which owns its path; NULL: no room */
bool job_is_known(const struct job *job);	/* what job_add returned: that start waits already */
struct job *job_take(bool small_only);	/* waits for a queued job; NULL: the end */
void job_done(struct job *job, enum hash_state hashed);
void jobs_each(void (*visit)(struct job *job, enum job_state state));
void job_answered(struct job *job);	/* frees it if no thread has taken it */
bool job_gives_way(const struct job *job);	/* it is answered, and another waits */
void job_free(struct job *job);
unsigned int jobs_open(void);	/* starts that wait for an answer */
void jobs_end(void);

/* responder_agent.c: once with every heartbeat. */
void agent_look(struct mamplus_heartbeat *beat);

/* responder_answer.c */
int pin_open(const char *bpffs, const char *name);	/* a descriptor, or -errno */
bool pins_are_gone(const char *bpffs);
int hold_claim(const struct pins *pins, const struct mamplus_hold *hold);	/* a pidfd of the process that waits, or -1 */
void hold_answer(const struct pins *pins, const struct mamplus_hold *hold, int pidfd, bool hashed);	/* closes pidfd */
void holds_each(const struct pins *pins, void (*visit)(const struct mamplus_hold *hold));
int access_claim(const struct pins *pins, const struct mamplus_want *want);	/* as hold_claim(), of an access */
void access_answer(const struct pins *pins, const struct mamplus_want *want, int pidfd, bool hashed);	/* closes pidfd */
void access_renew(const struct pins *pins, const struct mamplus_want *want, int pidfd);	/* likewise */
void accesses_each(const struct pins *pins, void (*visit)(const struct mamplus_want *want));	/* path and place are not kept */

/* responder_open.c: a descriptor of the very file, or -1. `said` is what the kernel told of it, if it did. */
struct found_file {
	int fd;
	bool is_told;		/* by lsm_exec.bpf.c: identity and writers are the kernel's own words */
	uint32_t flags;		/* MAMPLUS_OPENED_, when it is told */
};

void open_start(const struct pins *pins, const struct job *job, struct found_file *out);
void open_loader(const struct pins *pins, const struct job *job, struct found_file *out);
void open_wanted(const struct pins *pins, const struct job *job, struct found_file *out);
bool is_as_held(const struct stat *stat, const struct mamplus_file *file);

/* responder_hash.c */
int hash_start(const struct pins *pins, int done_fd);	/* done_fd: an eventfd, written after each job */
uint32_t born_as(uint64_t dev);	/* the file system that has this device number now, as flags of an entry (bpf/known.h) */
bool hash_remember(int fd, const struct mamplus_file *file, const unsigned char *sha256);	/* into `known` */

/* responder_watch.c: what the group of guarded paths (responder_files.c) is up to, for the keeper. */
void files_are_in(int group);
void files_are_busy(bool are_busy);
void files_were_read(unsigned int events);

#endif
