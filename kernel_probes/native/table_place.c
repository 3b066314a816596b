/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Places in a BLE table (mamplus_tables.h): find, insert, remove one word.
 * A bucket's words lie from its begin on.
 */
#include <errno.h>

#include "table_words.h"

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

	if (place)
		*place = word;
	return place;
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

	if (found)
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
		uint64_t *other = place.first == bucket ? place.second : place.first;

		if (!append(other, bucket[i]) && !(deeper && other != bucket && push_out(build, other, bucket[i], false)))
			continue;
		bucket[i] = word;
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

	if (append(place.first, word) || append(place.second, word) || push_out_any(build, &place, word, false) ||
	    push_out_any(build, &place, word, true))
		return 0;
	if (*stash->used == BUCKET_WORDS)
		return -ENOSPC;
	stash->words[(*stash->used)++] = word;
	return 0;
}

void remove_word(const struct mamplus_build *build, struct stash *stash, uint64_t *place)
{
	uint64_t *bucket = build->words + (place - build->words) / BUCKET_WORDS * BUCKET_WORDS, *last = place;

	if (bucket == stash->words)
		--*stash->used;
	while (last + 1 < bucket + BUCKET_WORDS && last[1])
		last++;
	*place = *last;
	*last = 0;
}
