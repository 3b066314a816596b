/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What responder_watch_waits.c (the tables) and responder_watch_hash.c (the threads) share. */
#ifndef MAMPLUS_RESPONDER_WATCH_WAITS_H
#define MAMPLUS_RESPONDER_WATCH_WAITS_H

#include "responder_watch.h"

enum wait_state { WAIT_FREE, WAIT_QUEUED, WAIT_HASHING, WAIT_DONE };

struct wait {
	struct opening opening;
	enum wait_state state;	/* guarded by the tables' lock */
	bool is_hashed, is_let_go;
	uint64_t begun_ns;
};

struct later {
	struct mamplus_file file;
	int fd;
};

/* The oldest that waits, or that was let go on; its hash is begun, for all who wait for that file. NULL: there is none. */
struct wait *waits_begin(bool is_let_go);
void waits_finish(const struct wait *wait, bool is_hashed, bool gave_way);	/* gave_way: it was broken off, and is to be begun anew */
bool waits_want(const struct wait *wait);	/* somebody waits for it yet, or nobody for anything else */
void waits_sleep(bool wakes_for_later);	/* until there is something to hash */
bool later_take(struct later *file);	/* false: there is none */
uint64_t hash_rate(void);	/* responder_watch_hash.c: bytes a millisecond, as measured here */

#endif
