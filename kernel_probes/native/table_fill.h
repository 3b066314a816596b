/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What scattering (table_fill.c) leaves to settling (table_settle.c). */
#ifndef MAMPLUS_TABLE_FILL_H
#define MAMPLUS_TABLE_FILL_H

#include "table_words.h"

#define THREADS_MAX 4

/* What one thread does and counts by itself. */
struct hand {
	struct mamplus_build counted;	/* its counters; added up at the end */
	const struct mamplus_columns *columns;
	uint64_t *lines;		/* one a block: the words that do not fill a cache line yet */
	uint32_t *used;			/* words that came for each block */
	uint64_t *room;			/* a block's worth of words, for settling */
	uint64_t *doubts;		/* of these, those that may be there already */
	uint64_t stash_words[BUCKET_WORDS];
	uint32_t stashed;
	uint32_t number;
	uint32_t part_begin, part_buckets;	/* of each block: its pair's */
	struct mamplus_fill *fill;
	int error;
};

struct mamplus_fill {
	uint32_t threads;
	uint32_t next_entry[THREADS_MAX / 2];	/* to be scattered, of each pair */
	uint32_t next_block;		/* to be settled */
	uint32_t blocks;
	void *memory;
	struct hand hand[THREADS_MAX];
};

/* Where the part of a pair begins, of `all` that are divided: two parts of three, when the second pair lacks a hand. */
static inline uint32_t share(const struct mamplus_fill *fill, uint32_t all, uint32_t pair)
{
	uint32_t hands = 2 * pair < fill->threads ? 2 * pair : fill->threads;

	return (uint32_t)((uint64_t)all * hands / fill->threads);
}

static inline uint64_t *block_at(const struct mamplus_build *build, uint32_t block)
{
	return build->words + (size_t)block * build->block_buckets * BUCKET_WORDS;
}

/* Where the cache line `nth` of a hand goes in a block: from the begin of the pair's part, or from its end. */
static inline uint64_t *line_at(const struct hand *hand, uint32_t block, uint32_t nth)
{
	uint32_t bucket = hand->number % 2 ? hand->part_begin + hand->part_buckets - 1 - nth : hand->part_begin + nth;

	return block_at(&hand->counted, block) + (size_t)bucket * BUCKET_WORDS;
}

/* Let every hand do `work`; where a thread is not worth it or cannot be had, this one does. Returns the first error. */
int all_hands(struct mamplus_fill *fill, bool are_few, void *(*work)(void *));

#endif
