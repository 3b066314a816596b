/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Keys and values of the maps that say which files are guarded, against what, and who may.
 *
 * A rule is a bit. Files and directories carry the rules that hold for them, operations those
 * that refuse them, programs those that they may break: what is refused is what is left.
 */
#ifndef MAMPLUS_FILES_H
#define MAMPLUS_FILES_H

#include "mamplus_events.h"

#define MAMPLUS_RULES_MAX 64		/* bits of a word; rule 0 is the agent's own state directory */
#define MAMPLUS_OPS_MAX 16		/* enum mamplus_op, and room */
#define MAMPLUS_GUARDED_MAX 32768	/* files and directories with a mark: not those below a marked tree */
#define MAMPLUS_NAMES_MAX 256		/* guarded names of a directory */
#define MAMPLUS_WRITERS_MAX 4096	/* programs that may break a rule */
#define MAMPLUS_FILTER_SHIFT 16
#define MAMPLUS_FILTER_WORDS 1024	/* 2^16 bits: 4,096 marks let 6 of 100 others through to a lookup */
#define MAMPLUS_WALK_MAX 1024		/* directories that are looked at above a file */
#define MAMPLUS_WALK_FAST 16		/* of these, the nearest are read the fast way: see files_logic.h */
#define MAMPLUS_START_TICK_NS 10000000	/* USER_HZ is 100 on every architecture that we know */
#define MAMPLUS_AGENT_STALE_S 30	/* heartbeat older than this: the agent's own rules rest */

/* Value of `guards`, key struct mamplus_file_key: the rules of one file or directory. */
struct mamplus_guarded {
	unsigned long long self;	/* hold for it */
	unsigned long long tree;	/* hold for it and all that lies below */
	unsigned long long way;		/* it leads there: not renamed, removed or mounted over */
	unsigned int generation;	/* i_generation: a reused inode number differs; 0: not known */
	unsigned int named;		/* 1: `guard_names` has names of this directory */
};

/* Key of `guard_names`; its value is a word of rules. The name need not be there. */
struct mamplus_guard_name {
	unsigned long long dev;
	unsigned long long ino;		/* of the directory */
	unsigned long long name;	/* FNV-1a of the name's bytes */
};

struct mamplus_sha256 {
	unsigned char bytes[MAMPLUS_SHA256_LEN];
};

/* Value of `guard_writers`, by SHA-256 of the program: rules that the program may break, and those that what it starts may. */
struct mamplus_writer {
	unsigned long long rules;
	unsigned long long children;
};

/* The one element of `file_rules`, memory-mapped by the agent. */
struct mamplus_file_rules {
	unsigned long long on;		/* 0: nothing is guarded and nobody asks; every hook ends here */
	unsigned long long devices;	/* bit mamplus_device_bit(): a mark lies on such a device */
	unsigned long long trees;	/* rules that hold for trees: those of a file whose place cannot be told */
	unsigned long long own;		/* rules that rest while no agent lives */
	unsigned long long agent_start;	/* task_struct.start_boottime of the agent in MAMPLUS_START_TICK_NS, as /proc tells it */
	unsigned long long guest_start;	/* and of a command of ours that was let in beside it */
	unsigned long long seen_dev;	/* of the file that `asker` opened last */
	unsigned long long seen_ino;
	unsigned int seen_generation;
	unsigned int asker;		/* a thread of the agent that wants to know what it opens */
	unsigned int agent_tgid;	/* 0: it ended */
	unsigned int guest_tgid;
	unsigned int mount_ns;		/* the host's mount namespace: that of process 1 */
	unsigned int pad;
	unsigned long long refuses[MAMPLUS_OPS_MAX];	/* by enum mamplus_op: the rules that refuse it */
	unsigned long long filter[MAMPLUS_FILTER_WORDS];	/* bit mamplus_filter_bit() of every mark */
};

/* The factor below is 2^64 / golden ratio. */
static inline unsigned int mamplus_device_bit(unsigned long long dev)
{
	return dev * 0x9e3779b97f4a7c15ULL >> 58;
}

static inline unsigned int mamplus_filter_bit(unsigned long long dev, unsigned long long ino)
{
	return (ino + (dev << 32)) * 0x9e3779b97f4a7c15ULL >> (64 - MAMPLUS_FILTER_SHIFT);
}

_Static_assert(sizeof(struct mamplus_guarded) == 32, "hole in mamplus_guarded");
_Static_assert(sizeof(struct mamplus_guard_name) == 24, "hole in mamplus_guard_name");
_Static_assert(sizeof(struct mamplus_file_rules) == 88 + 128 + 8192, "hole in mamplus_file_rules");
#endif
