/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Places in a BLE table (mamplus_tables.h): find, insert, remove one word.
 *
 * A bucket's words lie from its begin on. One that turned others away (it is marked) keeps its
 * last word, and that is greater than the one before it; in all others it is not. So the mark
 * costs no memory, and a lookup reads a second bucket only where there may be something for it.
 */
#include <errno.h>

#include "table_words.h"

#define LAST (BUCKET_WORDS - 1)

struct place {
	uint64_t *first, *second;
};

static struct place place_of(const struct mamplus_build *build, uint64_t identity)
{
	uint64_t spread = mamplus_spread(salt_of(build), identity);
	uint64_t *block = block_of(build, spread);

	return (struct place){ block + (size_t)mamplus_first(spread, build->block_buckets) * BUCKET_WORDS,
			       block + (size_t)mamplus_second(spread, build->block_buckets) * BUCKET_WORDS };
}

static bool is_marked(const uint64_t *bucket)
{
	return bucket[LAST] > bucket[LAST - 1];
}

void order_bucket(uint64_t *bucket, bool marked)
{
	uint64_t last = bucket[LAST];

	if (marked ? last > bucket[LAST - 1] : last <= bucket[LAST - 1])
		return;
	bucket[LAST] = bucket[LAST - 1];
	bucket[LAST - 1] = last;
}

/* The first free word of a bucket, or NULL. */
static uint64_t *free_in(uint64_t *bucket)
{
	for (uint32_t i = 0; i < BUCKET_WORDS; i++)
		if (!bucket[i])
			return &bucket[i];
	return NULL;
}

static bool append(uint64_t *bucket, uint64_t word)
{
	uint64_t *place = free_in(bucket);
	bool marked = is_marked(bucket);

	if (!place)
		return false;
	*place = word;
	order_bucket(bucket, marked);
	return true;
}

/* What a bucket holds of a key; no word is 0, so a free one is never it. */
static uint64_t *held_in(uint64_t *bucket, uint32_t words, uint64_t word)
{
	for (uint32_t i = 0; i < words; i++)
		if (bucket[i] && same_key(bucket[i], word))
			return &bucket[i];
	return NULL;
}

uint64_t *find_word(const struct mamplus_build *build, struct stash *stash, uint64_t word)
{
	struct place place = place_of(build, identity_in(word));
	uint64_t *found = held_in(place.first, BUCKET_WORDS, word);

	if (found || !is_marked(place.first))
		return found;
	found = held_in(place.second, BUCKET_WORDS, word);
	return found ? found : held_in(stash->words, *stash->used, word);
}

/*
 * Replace one word of a full bucket by `word`: one that has room in its other bucket, or, `deeper`,
 * one whose other bucket can push another one out.
 */
static bool push_out(const struct mamplus_build *build, uint64_t *bucket, uint64_t word, bool deeper)
{
	for (uint32_t i = 0; i < BUCKET_WORDS; i++) {
		struct place place = place_of(build, identity_in(bucket[i]));
		bool is_first = place.first == bucket, marked = is_marked(bucket) || is_first;
		uint64_t *other = is_first ? place.second : place.first;

		if (!append(other, bucket[i]) && !(deeper && other != bucket && push_out(build, other, bucket[i], false)))
			continue;
		bucket[i] = word;
		order_bucket(bucket, marked);
		return true;
	}
	return false;
}

static bool push_out_any(const struct mamplus_build *build, const struct place *place, uint64_t word, bool deeper)
{
	return push_out(build, place->second, word, deeper) || push_out(build, place->first, word, deeper);
}

int insert_word(const struct mamplus_build *build, struct stash *stash, uint64_t word)
{
	struct place place = place_of(build, identity_in(word));

	if (append(place.first, word))
		return 0;
	order_bucket(place.first, true);
	if (append(place.second, word) || push_out_any(build, &place, word, false) || push_out_any(build, &place, word, true))
		return 0;
	if (*stash->used == BUCKET_WORDS)
		return -ENOSPC;
	stash->words[(*stash->used)++] = word;
	return 0;
}

/* The last used word before `end`, or NULL. */
static uint64_t *last_used(uint64_t *bucket, uint32_t end)
{
	while (end--)
		if (bucket[end])
			return &bucket[end];
	return NULL;
}

int remove_word(const struct mamplus_build *build, struct stash *stash, uint64_t *place)
{
	uint64_t *bucket = build->words + (place - build->words) / BUCKET_WORDS * BUCKET_WORDS, *moved;
	bool marked;

	if (bucket == stash->words) {
		*place = stash->words[--*stash->used];
		stash->words[*stash->used] = 0;
		return 0;
	}
	marked = is_marked(bucket);
	if (!marked || place == &bucket[LAST])
		*place = 0;
	moved = last_used(bucket, marked ? LAST : BUCKET_WORDS);
	if (!moved)
		return marked ? -ENOSPC : 0;
	if (marked || moved > place) {
		*place = *moved;
		*moved = 0;
	}
	order_bucket(bucket, marked);
	return 0;
}
