/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The fanotify tier: what the agent wants of the responder, and what the responder and its keeper know of each
 * other. One element of the map `watch`, memory-mapped by all three, so nobody waits for anybody to read it.
 */
#ifndef MAMPLUS_WATCH_H
#define MAMPLUS_WATCH_H

#include "mamplus_events.h"

#define MAMPLUS_WATCH_PATHS 16		/* file systems that can be marked at one time */
#define MAMPLUS_WATCH_PATH_LEN 504	/* bytes, NUL included */
#define MAMPLUS_WATCH_WAITS 256		/* opens that may wait for a hash at one time; more get the declared answer */
#define MAMPLUS_WATCH_ALLOW 1		/* mamplus_watch_wait.answer: FAN_ALLOW, */
#define MAMPLUS_WATCH_DENY 2		/* FAN_DENY */

/* What this kernel has; found by trying. */
#define MAMPLUS_WATCH_EVICTABLE 0x1	/* ignore marks that do not keep inodes in memory (5.19) */
#define MAMPLUS_WATCH_PIDFD_INFO 0x2	/* a task's cgroup by one ioctl (6.13), not through /proc */

enum mamplus_watch_how {
	MAMPLUS_WATCH_NOT = 0,
	MAMPLUS_WATCH_FILESYSTEM = 1,	/* whatever mount or namespace it is reached through */
	MAMPLUS_WATCH_MOUNT = 2,	/* this mount only */
};

struct mamplus_watch_path {
	int error;			/* errno of the attempt; 0: it is marked */
	unsigned int how;		/* enum mamplus_watch_how */
	char path[MAMPLUS_WATCH_PATH_LEN];
};

/* An open that waits. Whoever puts 0 in the place of `fd` answers it: the responder, or the keeper when that is late. */
struct mamplus_watch_wait {
	unsigned long long deadline_ns;	/* CLOCK_BOOTTIME */
	int fd;				/* number in the responder's table; 0: free */
	unsigned int answer;		/* MAMPLUS_WATCH_ALLOW or _DENY: the declared one */
};

/* Index of mamplus_watch.counter; since the maps were made. */
enum mamplus_watch_counter {
	MAMPLUS_W_EVENTS = 0,		/* permission events read */
	MAMPLUS_W_REFUSED = 1,
	MAMPLUS_W_WAITED = 2,		/* opens that waited for a hash */
	MAMPLUS_W_DECLARED = 3,		/* declared answers: too late, too large, no room, nobody there */
	MAMPLUS_W_NO_ROOM = 4,		/* of these, for want of room among the waits */
	MAMPLUS_W_HASHED = 5,		/* files, by whatever reason */
	MAMPLUS_W_WRITTEN = 6,		/* files closed after writing */
	MAMPLUS_W_UNHASHED = 7,		/* of these, not hashed: no room in the queue */
	MAMPLUS_W_OVERFLOW = 8,		/* the kernel's queue of closed files ran over: all marks were dropped */
	MAMPLUS_W_MARKED = 9,		/* ignore marks set */
	MAMPLUS_W_UNMARKED = 10,	/* ignore marks that the kernel had no room for */
	MAMPLUS_W_DROPPED = 11,		/* times that all ignore marks were dropped: another generation */
	MAMPLUS_W_KEPT = 12,		/* answers of the keeper in the responder's place */
	MAMPLUS_W_KEPT_STARTS = 13,	/* the same for starts held by a signal */
	MAMPLUS_W_UNASKED = 14,		/* let go on because the kernel program could not be run */
	MAMPLUS_W_KEEPER_LOST = 15,	/* times that the keeper was found stopped or ended, and replaced */
	MAMPLUS_W_MAX = 16,
};

struct mamplus_watch {
	/* Written by the agent. */
	unsigned long long wanted;	/* grows when what follows was changed */
	unsigned int pad;
	unsigned int on_open;		/* enum mamplus_answer: an open whose content cannot be had in time */
	unsigned int paths;
	unsigned int is_everything;	/* 1: the scope is the root, every task is in it */
	char scope[MAMPLUS_WATCH_PATH_LEN + 8];	/* as /proc/PID/cgroup spells it */
	/* Written by the responder. */
	unsigned long long applied;	/* the `wanted` that was carried out */
	unsigned int owner_tgid;	/* the responder; 0: none */
	unsigned int features;		/* MAMPLUS_WATCH_ */
	unsigned int pad_group;
	int files_group;		/* descriptor of the group that guards paths (responder_files.c); 0: none */
	unsigned long long files_busy_ns;	/* as busy_ns and reads, of that group */
	unsigned long long files_reads;
	unsigned long long busy_ns;	/* when it began to read an event that is neither answered nor noted; 0: it has none */
	unsigned long long reads;	/* events that it has taken from the queue */
	unsigned long long counter[MAMPLUS_W_MAX];
	struct mamplus_watch_path path[MAMPLUS_WATCH_PATHS];	/* `path` by the agent, the rest by the responder */
	struct mamplus_watch_wait wait[MAMPLUS_WATCH_WAITS];
};

/* Who may ask `mamplus_access` at one time: an element of the map `asked` each. */
#define MAMPLUS_ASKED_RESPONDER 0
#define MAMPLUS_ASKED_KEEPER 1
#define MAMPLUS_ASKED_MAX 2

/* Context of the raw_tp program `mamplus_access`: judge element `slot` of `asked`. */
struct mamplus_access_args {
	unsigned int slot;
	unsigned int flags;		/* MAMPLUS_ASK_ */
};

#define MAMPLUS_ASK_HASHED 0x1		/* `known` holds the file since this access began: good once is good enough */
#define MAMPLUS_ASK_REPORT 0x2		/* the head is filled in: a record is made when there is something to tell */
#define MAMPLUS_ASK_DECLARED 0x4	/* the content cannot be had: give the declared answer */
#define MAMPLUS_ASK_DECLARED_REFUSE 0x8	/* which is to refuse */
#define MAMPLUS_ASK_LATE 0x10		/* it was let go on already: only tell */

/* Return value of `mamplus_access`, bits. 0: the content is not known. */
#define MAMPLUS_ACCESS_KNOWN 0x1
#define MAMPLUS_ACCESS_REFUSE 0x2
#define MAMPLUS_ACCESS_LISTED 0x4	/* suspected or blocked, refused or not: no mark may hide it */

_Static_assert(sizeof(struct mamplus_watch_path) == 512, "hole in mamplus_watch_path");
_Static_assert(sizeof(struct mamplus_watch_wait) == 16, "hole in mamplus_watch_wait");
_Static_assert(sizeof(struct mamplus_watch) == 536 + 56 + 8 * MAMPLUS_W_MAX + 512 * 16 + 16 * 256, "hole in mamplus_watch");
_Static_assert(sizeof(struct mamplus_access_args) == 8, "hole in mamplus_access_args");
#endif
