/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the parts of the table builder share, and nobody else needs. */
#ifndef MAMPLUS_TABLE_WORDS_H
#define MAMPLUS_TABLE_WORDS_H

#include <stdbool.h>
#include <string.h>

#include "mamplus_identity.h"
#include "mamplus_tables.h"
#include "table_build.h"

#define BUCKET_WORDS MAMPLUS_BUCKET_WORDS
#define OVER_BUDGET 4		/* in a column of verdicts */

static inline uint16_t read16(const unsigned char *at)
{
	uint16_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static inline uint32_t read32(const unsigned char *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static inline uint64_t read64(const unsigned char *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static inline const unsigned long long *salt_of(const struct mamplus_build *build)
{
	return (const unsigned long long *)build->salt;
}

static inline uint64_t identity_in(uint64_t word)
{
	return word >> MAMPLUS_VERDICT_BITS;
}

/* Both words say something of one identity. */
static inline bool same_key(uint64_t one, uint64_t two)
{
	return (one ^ two) <= MAMPLUS_VERDICT_MASK;
}

static inline uint64_t *block_of(const struct mamplus_build *build, uint64_t spread)
{
	return build->words + (size_t)mamplus_block(spread, build->blocks) * build->block_buckets * BUCKET_WORDS;
}

/* What follows the stash: the near filters, one for each bucket, */
static inline uint32_t *near_of(const struct mamplus_build *build)
{
	return (uint32_t *)(build->words + ((size_t)build->blocks * build->block_buckets + 1) * BUCKET_WORDS);
}

/* the far ones, */
static inline uint32_t *far_of(const struct mamplus_build *build)
{
	return near_of(build) + (size_t)build->blocks * build->block_buckets;
}

/* and the masks. */
static inline uint64_t *masks_of(const struct mamplus_build *build)
{
	return build->words + MAMPLUS_LINES_BEFORE_MASKS((size_t)build->blocks * build->block_buckets) * BUCKET_WORDS;
}

/* Which filter of each kind is that of an identity's first bucket. */
static inline size_t filter_at(const struct mamplus_build *build, uint64_t spread)
{
	return (size_t)mamplus_block(spread, build->blocks) * build->block_buckets + mamplus_first(spread, build->block_buckets);
}

/* table_place.c. The stash that a thread fills by itself, or the table's. */
struct stash {
	uint64_t *words;
	uint32_t *used;
};

static inline struct stash stash_of(struct mamplus_build *build)
{
	return (struct stash){ build->words + (size_t)build->blocks * build->block_buckets * BUCKET_WORDS, &build->stashed };
}

uint64_t *find_word(const struct mamplus_build *build, struct stash *stash, uint64_t word);
/* 0 or -ENOSPC. The key is not in the table; its filter is the caller's. */
int insert_word(const struct mamplus_build *build, struct stash *stash, uint64_t word);
/* Its bits stay in the filter, where another key may have set them too. */
void remove_word(const struct mamplus_build *build, struct stash *stash, uint64_t *place);

/* table_masks.c. Say that networks of this length cover these addresses, of IPv6 those with these first 32 bits. */
void mark_network4(struct mamplus_build *build, uint32_t addr, uint32_t prefix);
void mark_network6(struct mamplus_build *build, uint32_t first, uint32_t prefix);

/* table_keys.c */
#define KEYS_AT_ONCE 256
uint32_t key_bytes(uint16_t section);	/* 0: no table holds such */
/* The words (identity and verdict) of entries first to first + count - 1, 0 where one is left out. 0 or -EINVAL. */
int make_words(struct mamplus_build *counted, const struct mamplus_columns *columns, uint32_t first, uint32_t count,
	       uint64_t *words);
/* The verdict of entry `index`, 0 when it is withdrawn, OVER_BUDGET beyond the budget, or -EINVAL. */
int verdict_of(const struct mamplus_columns *columns, uint32_t index);
int make_identities(struct mamplus_build *counted, const struct mamplus_columns *columns, uint32_t first, uint32_t count,
		    uint64_t *identities);

#endif
