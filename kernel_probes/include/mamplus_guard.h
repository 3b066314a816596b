/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the agent tells lsm_guard.bpf.c of itself: which processes and which objects are its own.
 *
 * Who may write these maps is decided by the programs that read them, so root alone is not enough once the
 * guard stands. docs/self-protection.md, docs/decisions/0019.
 */
#ifndef MAMPLUS_GUARD_H
#define MAMPLUS_GUARD_H

#define MAMPLUS_OWN_MAX 16
#define MAMPLUS_OWN_OBJECTS_MAX 256
#define MAMPLUS_TICK_NS 10000000	/* USER_HZ is 100 on every architecture that matters here */

/* Value of `own`, by tgid: a process of ours. Its children are ours, too. */
struct mamplus_own {
	unsigned long long start_ticks;	/* hundredths of a second since boot, as /proc/PID/stat has it: a reused number differs */
};

enum mamplus_object {
	MAMPLUS_OBJECT_MAP = 1,		/* id */
	MAMPLUS_OBJECT_PROGRAM = 2,	/* id */
	MAMPLUS_OBJECT_LINK = 3,	/* id; the value is the id of its program */
	MAMPLUS_OBJECT_DIRECTORY = 4,	/* inode number of a directory with pins, dev: its file system */
	MAMPLUS_OBJECT_MOUNT = 5,	/* dev alone: the bpffs that they lie on */
	MAMPLUS_OBJECT_CGROUP = 6,	/* id of a cgroup that holds us, or one above it */
};

/* Key of `own_objects`. */
struct mamplus_object_key {
	unsigned int object;		/* enum mamplus_object */
	unsigned int dev;		/* kernel dev_t, 0 where it says nothing */
	unsigned long long id;
};

/* The one element of `guard_state`. */
struct mamplus_guard_state {
	unsigned long long window_until_ns;	/* CLOCK_BOOTTIME: until then everything is let through; maintenance */
	unsigned long long exe_dev;	/* the program of the agent that set the guard up; 0: none did */
	unsigned long long exe_ino;
	unsigned int agent_tgid;	/* 0: there is no agent, and one may come */
	unsigned int own_map;		/* id of `own`: who opens it while there is no agent, claims to be the next */
	char table_name[16];		/* of the list's tables, padded with zeros: they come and go with each generation */
};

_Static_assert(sizeof(struct mamplus_own) == 8, "hole in mamplus_own");
_Static_assert(sizeof(struct mamplus_object_key) == 16, "hole in mamplus_object_key");
_Static_assert(sizeof(struct mamplus_guard_state) == 48, "hole in mamplus_guard_state");
#endif
