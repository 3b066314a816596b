/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Keys and values of the maps that user space writes and the probes read.
 *
 * A generation lives in one of MAMPLUS_SIDES sets of inner maps; `active` names the
 * set and its generation in one 8-byte word, so one map update swaps all tables at once.
 */
#ifndef MAMPLUS_TABLES_H
#define MAMPLUS_TABLES_H

#include "mamplus_events.h"

#define MAMPLUS_SIDES 2
#define MAMPLUS_KNOWN_MAX 65536		/* files whose SHA-256 is remembered (LRU) */
#define MAMPLUS_BIRTHS_MAX 4093	/* counts of mounted file systems: of device number modulo this */
#define MAMPLUS_HELD_MAX 1024		/* starts that may wait at one time: 0.5 MB, allocated at load */
#define MAMPLUS_GUARD_MAX 64
#define MAMPLUS_QUESTIONS_MAX 512	/* names that are remembered (LRU): 0.2 MB */
#define MAMPLUS_OPENED_MAX 64		/* threads of the responder */
#define MAMPLUS_INTERPRETERS_MAX 1024	/* contents */
#define MAMPLUS_PATTERNS_MAX 64		/* paths of interpreters */
#define MAMPLUS_PATTERN_LEN 128		/* bytes, NUL included */
#define MAMPLUS_EVENTS_BYTES (1 << 20)	/* the events ring */
#define MAMPLUS_HOLDS_BYTES (1 << 19)	/* the holds ring: as many as may wait, each with a path */
#define MAMPLUS_REFUSED_MAX 1024	/* apps and hosts that actions refuse */

/* Key of `known`: which file. Its value is compared with the file before it is believed. */
struct mamplus_file_key {
	unsigned long long dev;
	unsigned long long ino;
};

struct mamplus_known {
	unsigned long long size;
	long long ctime_s;
	unsigned int ctime_ns;
	unsigned int flags;		/* MAMPLUS_KNOWN_ */
	unsigned char sha256[MAMPLUS_SHA256_LEN];
};

/*
 * Good for the start that waits, not for the next one: the file may change without a trace in
 * size and ctime (written in the same clock tick; or on tmpfs, through a shared mapping).
 */
#define MAMPLUS_KNOWN_ONCE 0x1
/*
 * The responder has the file open and hashes it; there is no content to believe yet, and sha256 is what it held when
 * it was hashed last, or zero. A writer that opens the file removes the entry, so the responder replaces it (BPF_EXIST)
 * or learns that it read what is gone.
 */
#define MAMPLUS_KNOWN_PENDING 0x2
/* For user space to read, where it does not know the key (known.h): believed by no program. */
#define MAMPLUS_KNOWN_COPY 0x4
/*
 * The bits above say which of the file systems that have had its device number the file is on: the count of that number
 * in `births`. It is believed while it is there. Numbers may share a count: what is known of one is hashed once more then.
 */
#define MAMPLUS_KNOWN_BORN_SHIFT 4

/*
 * Every BLE table: blocks of buckets of eight words, each an identity (mamplus_identity.h) and a
 * verdict. A key lies in its first bucket, where that was full in its second one, or else in the
 * stash, which is the bucket after the last block. Then follow the filters, half a word for each
 * bucket: the bits of all keys whose first bucket it is, the near ones (mamplus_near) of all buckets,
 * then the far ones (mamplus_far). Of a hundred misses 88 end at the near ones, which are a sixteenth
 * of the table, so that they are in a cache when the table is not; and ten at the far ones.
 *
 * In the table of networks 2^mask_bits masks follow, from the next cache line on. One stands for each value of an IPv4
 * address's first bits: bit n is set where a network of length n may cover such an address. An IPv6 address has two of
 * them by a hash (mamplus_mask6_), and its networks other bits (mamplus_mask6_bit). What has no bit needs no lookup.
 */
#define MAMPLUS_BUCKET_WORDS 8
/*
 * At most: 124 KB, half of a small core's second cache; and an odd number of pages. All blocks are written to at one
 * time, and at 128 KB their pages would share a few sets of the TLB: that cost a tenth of scattering.
 */
#define MAMPLUS_BLOCK_BUCKETS 1984
#define MAMPLUS_VERDICT_BITS 2
#define MAMPLUS_VERDICT_MASK 3		/* MAMPLUS_SUSPECT, BLOCK, ALLOW; a word of 0 is free */

struct mamplus_bucket {
	unsigned long long word[MAMPLUS_BUCKET_WORDS];
};

/* Lines of a table before its masks: buckets, stash, and the filters, which are as many words as there are buckets. */
#define MAMPLUS_LINES_BEFORE_MASKS(buckets) ((buckets) + 1 + ((buckets) + MAMPLUS_BUCKET_WORDS - 1) / MAMPLUS_BUCKET_WORDS)

/*
 * A table of a side is element (side * MAMPLUS_T_MAX + table) * MAMPLUS_PARTS + 1 of the map `ble`. A large one is cut in
 * two, at a page, for then two processors make its memory: the lines before the cut are the element before.
 */
#define MAMPLUS_PARTS 2
enum mamplus_table {
	MAMPLUS_T_SHA256 = 0,
	MAMPLUS_T_ADDR = 1,		/* hosts, every port */
	MAMPLUS_T_NET = 2,		/* networks, ports, hosts with a port or protocol */
	MAMPLUS_T_DOMAIN = 3,
	MAMPLUS_T_MAX = 4,
};

/* One length and kind of network that the generation holds; what it does not hold is not looked up. */
struct mamplus_probe {
	unsigned char prefix;		/* 0-32 of IPv4, 0-128 of IPv6 */
	unsigned char qualifier;	/* MAMPLUS_Q_ */
};

#define MAMPLUS_Q_PORT 0x1
#define MAMPLUS_Q_PROTOCOL 0x2
#define MAMPLUS_PROBES4_MAX 132		/* 33 lengths, four qualifiers each */
#define MAMPLUS_PROBES6_MAX 256		/* of 516 that are thinkable; those with the fewest entries are left out, and counted */

/* What the programs must know of a side's tables. */
struct mamplus_shape {
	unsigned long long salt[2];
	unsigned int blocks[MAMPLUS_T_MAX];	/* 0: the table is empty */
	unsigned int block_buckets[MAMPLUS_T_MAX];	/* of each; the stash comes after the last block */
	unsigned int stashed[MAMPLUS_T_MAX];	/* words in the stash */
	unsigned int cut[MAMPLUS_T_MAX];	/* lines before the cut; 0: it is not cut */
	unsigned int ports;		/* bit MAMPLUS_Q_..: entries that name a port only, so qualified */
	unsigned int mask_bits;
	unsigned int probes4;		/* how many of `probe4`, most specific first */
	unsigned int probes6;
	struct mamplus_probe probe4[MAMPLUS_PROBES4_MAX];
	struct mamplus_probe probe6[MAMPLUS_PROBES6_MAX];
};

/* Above the BLE: never refused. port_be 0 stands for every port. */
struct mamplus_guard_key {
	unsigned char addr[MAMPLUS_ADDR_LEN];
	unsigned short port_be;
	unsigned short pad;
};

/*
 * What actions refuse, beside the list and below the guard. Each ends by itself, with nobody there: times are
 * CLOCK_BOOTTIME, and the one with all bits set never comes.
 */
enum mamplus_refused_kind {
	MAMPLUS_REFUSED_APP = 1,	/* what: the id of its cgroup, and zeros; those below it are meant, too */
	MAMPLUS_REFUSED_HOST = 2,	/* what: an address, as in struct mamplus_guard_key */
};

/* Key of `refused`. Its value is until when, in nanoseconds. */
struct mamplus_refused_key {
	unsigned int kind;		/* enum mamplus_refused_kind */
	unsigned int pad;
	unsigned char what[MAMPLUS_ADDR_LEN];
};

/* What stays open to the system's own programs while the device is isolated. */
#define MAMPLUS_LIFELINE_DNS 0x1	/* UDP and TCP port 53 */
#define MAMPLUS_LIFELINE_DHCP 0x2	/* UDP port 67, with IPv6 547 */
#define MAMPLUS_LIFELINE_NTP 0x4	/* UDP port 123 */

/* The one element of `refusing`. */
struct mamplus_refusing {
	unsigned long long isolated_until_ns;	/* from all but the guarded, loopback and the lifeline; 0: not isolated */
	unsigned long long alone_until_ns;	/* from all but the guarded and loopback */
	unsigned int apps;		/* how many of them `refused` has; 0 saves the lookup */
	unsigned int hosts;
	unsigned int lifeline;		/* MAMPLUS_LIFELINE_ */
	unsigned int system_uids;	/* users below are the system's own; an app's user gets no lifeline */
};

/* Key of `names`: what was asked for and not refused. Lower case, a dot before each label, zeros after the last. */
struct mamplus_question {
	unsigned char name[MAMPLUS_NAME_LEN];
};

struct mamplus_asker {
	unsigned long long boot_ns;	/* when it was asked for last */
	char comm[MAMPLUS_COMM_LEN];	/* who asked first: a resolver on this device asks again */
};

/* The one element of `active`. */
struct mamplus_active {
	unsigned long long word;	/* generation << 1 | side */
};

enum mamplus_mode { MAMPLUS_MODE_ENFORCE = 0, MAMPLUS_MODE_MONITOR = 1 };

/* Declared answer for a file whose SHA-256 could not be had. */
enum mamplus_answer { MAMPLUS_ANSWER_ALLOW = 0, MAMPLUS_ANSWER_REFUSE = 1 };

/* The one element of `posture`, from the configuration and the signed policy. */
struct mamplus_posture {
	unsigned int mode;		/* enum mamplus_mode */
	unsigned int on_responder_down;	/* enum mamplus_answer: nobody is there to hash */
	unsigned int on_deadline;	/* enum mamplus_answer: hashing took too long */
	unsigned int deadline_ms;
	unsigned int responder_stale_ms;	/* heartbeat older than this: nobody is there */
	unsigned int report_allowed;	/* 1: connects that nothing forbids are reported too */
	unsigned int suspect_as_block;	/* 1: the list is so old that what it suspects is refused, too */
	unsigned int down_exec_s;	/* without an agent for so long: what is unknown is refused; 0: never */
	unsigned int down_connect_s;	/* ... none may connect but to what is guarded, and on loopback; 0: never */
};

/* Value of `held`: a start that waits, by tgid. */
struct mamplus_held {
	unsigned long long boot_ns;
	unsigned long long start_ns;	/* task_struct.start_boottime: a reused pid differs */
	struct mamplus_file file;
	struct mamplus_file loader;	/* its ELF interpreter, when that is unknown; ino 0: it is known, or there is none */
	struct mamplus_exec exec;	/* the record of the start: the answer's record is made from it */
};

/* What became of an access that waits. */
enum mamplus_wait_state {
	MAMPLUS_WAIT_ASKED = 0,
	MAMPLUS_WAIT_HASHED = 1,	/* `known` has its content, unless it was written since */
	MAMPLUS_WAIT_FAILED = 2,	/* its content cannot be had: the declared answer */
	MAMPLUS_WAIT_TAKEN = 3,		/* of a start: the script was judged; what it names may have to wait, too */
};

/* Value of `waits`, by thread: its access was undone, and is tried again once the thread goes on. */
struct mamplus_wait {
	unsigned long long boot_ns;	/* of the first try; the deadline runs from it, whatever the file has become */
	unsigned long long start_ns;	/* task_struct.start_boottime: a reused number differs */
	struct mamplus_file file;
	unsigned int tgid;
	unsigned short state;		/* enum mamplus_wait_state */
	unsigned short op;		/* enum mamplus_op; 0: a start */
};

/* Value of `opened`, by thread of the responder: the kernel's own words about what it opened last. */
struct mamplus_opened {
	struct mamplus_file file;
	struct mamplus_file backing;	/* on overlayfs: the file of the layer below, opened with it; ino 0: none */
	unsigned int flags;		/* MAMPLUS_OPENED_ */
	unsigned int pad;
};

#define MAMPLUS_OPENED_WRITTEN 0x1	/* somebody has it open for writing */
#define MAMPLUS_OPENED_UNLINKED 0x2	/* no name: a memfd's writers are not counted by the kernel */

/* Key of `interpreters`. */
struct mamplus_content {
	unsigned char sha256[MAMPLUS_SHA256_LEN];
};

/* Value of `patterns`: fnmatch(3) of a program's path; the first empty one ends them. */
struct mamplus_pattern {
	char text[MAMPLUS_PATTERN_LEN];
};

/* The one element of `heartbeat`, memory-mapped by its writers; CLOCK_BOOTTIME. */
struct mamplus_heartbeat {
	unsigned long long responder_ns;
	unsigned long long agent_ns;
	unsigned int responder_tgid;	/* its exit stops the heartbeat at once */
	unsigned int agent_tgid;	/* 0: none ever began */
	unsigned long long agent_awake_ns;	/* as agent_ns, but CLOCK_MONOTONIC: time asleep is no silence */
	unsigned int agent_stopped;	/* 1: it was sent a signal that stops; set by tamper.bpf.c, the responder wakes it */
	unsigned int agent_missed;	/* how often the responder found it silent, and woke it */
	unsigned int keeper_tgid;	/* who answers in the responder's place; 0: none */
	unsigned int pad;
};

/* The one element of `waiting`, memory-mapped: 1 while the agent sleeps without a timer. */
struct mamplus_waiting {
	unsigned long long agent_waits;
};

/* Index of the per-CPU array `counters`. produced + lost is what happened. */
enum mamplus_counter {
	MAMPLUS_C_PRODUCED = 0,		/* records put into the events ring */
	MAMPLUS_C_LOST = 1,		/* records for which the events ring had no room */
	MAMPLUS_C_REFUSED = 2,		/* refusals, kills and drops, reported or not */
	MAMPLUS_C_HELD = 3,		/* starts that waited */
	MAMPLUS_C_HOLD_LOST = 4,	/* starts that could not wait: the declared answer was used */
	MAMPLUS_C_DECLARED = 5,		/* declared answers given */
	MAMPLUS_C_ACTED = 6,		/* of REFUSED: by an action (`refused`, `refusing`), not by the list */
	MAMPLUS_C_MAX = 7,
};

/* Context of the raw_tp program `mamplus_answer`, run by the responder through BPF_PROG_TEST_RUN. */
struct mamplus_answer_args {
	unsigned int tgid;
	unsigned int hashed;		/* 1: `known` holds the file; 0: it could not be had, use the declared answer */
	unsigned long long boot_ns;	/* of the hold: a later start under the same tgid is another one */
};

/* Return value of `mamplus_answer`, bits. 0: nothing waits under this tgid. */
#define MAMPLUS_REPLY_FOUND 0x1
#define MAMPLUS_REPLY_KILL 0x2
#define MAMPLUS_REPLY_CONT 0x4		/* it was stopped: let it go on */

_Static_assert(sizeof(struct mamplus_known) == 56, "hole in mamplus_known");
_Static_assert(sizeof(struct mamplus_bucket) == 64, "a bucket is one cache line");
_Static_assert(sizeof(struct mamplus_shape) == 872, "hole in mamplus_shape");
_Static_assert(sizeof(struct mamplus_guard_key) == 20, "hole in mamplus_guard_key");
_Static_assert(sizeof(struct mamplus_refused_key) == 24, "hole in mamplus_refused_key");
_Static_assert(sizeof(struct mamplus_refusing) == 32, "hole in mamplus_refusing");
_Static_assert(sizeof(struct mamplus_asker) == 24, "hole in mamplus_asker");
_Static_assert(sizeof(struct mamplus_wait) == 64, "hole in mamplus_wait");
_Static_assert(sizeof(struct mamplus_opened) == 88, "hole in mamplus_opened");
_Static_assert(sizeof(struct mamplus_held) == 504, "hole in mamplus_held");
_Static_assert(sizeof(struct mamplus_heartbeat) == 48, "hole in mamplus_heartbeat");
_Static_assert(sizeof(struct mamplus_answer_args) == 16, "hole in mamplus_answer_args");
_Static_assert(sizeof(struct mamplus_posture) == 36, "hole in mamplus_posture");
#endif
