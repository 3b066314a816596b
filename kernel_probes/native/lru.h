/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Records that are kept, and tables of them: what was used least recently goes first. */
#ifndef MAMPLUS_LRU_H
#define MAMPLUS_LRU_H

#include <stdbool.h>
#include <stdint.h>

/* One record, without the zero bytes behind its text; it goes when nobody refers to it any more. */
struct kept {
	uint32_t refs;
	uint16_t size;		/* of the record */
	uint16_t length;	/* of it that is kept */
	unsigned char bytes[];
};

/* text: where the text begins that the record ends with; 0: it has none. NULL: no memory. The caller has the one reference. */
struct kept *kept_of(const void *record, uint32_t size, uint32_t text);
void kept_let_go(struct kept *kept);	/* NULL: nothing */
uint32_t kept_give(const struct kept *kept, unsigned char *out);	/* the whole record; returns its size */

/* Number 0 is none; in the order of use it is both ends. */
struct lru_node {
	uint64_t hash;
	struct kept *record;
	uint32_t chain, older, newer;
	uint32_t ppid;		/* of a task */
	bool is_alive;		/* likewise */
};

struct lru {
	uint32_t room, used, mask, free;
	uint16_t at, length;	/* the key in a record; length 0: up to its end. at 0: the hash alone is the key */
	uint32_t *heads;
	struct lru_node *nodes;
	uint64_t gone;		/* keys that had to go for others */
};

/* room: 1 or more. False: no memory; end it all the same. */
bool lru_begin(struct lru *table, uint32_t room, uint16_t at, uint16_t length);
void lru_end(struct lru *table);
uint64_t lru_hash(const struct lru *table, const struct kept *record);
uint32_t lru_find(const struct lru *table, uint64_t hash, const struct kept *like);
/* The place of a key, made the one that was used last, with one more reference to `record`. */
struct lru_node *lru_use(struct lru *table, uint64_t hash, struct kept *record);
void lru_take_out(struct lru *table, uint32_t number);

static inline uint32_t lru_oldest(const struct lru *table)
{
	return table->nodes[0].newer;
}

#endif
