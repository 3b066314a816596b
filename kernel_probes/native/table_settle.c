/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The second half of filling a table: each block, whose words lie in it in the order in which they came,
 * is put in order inside of the processor's cache. Threads take one block after the other.
 */
#include <errno.h>

#include "table_fill.h"

/* Bring the words of a block together, and leave the block empty. Returns how many there are; UINT32_MAX: no room. */
static uint32_t gather(const struct mamplus_fill *fill, uint32_t block, uint64_t *room)
{
	const struct mamplus_build *build = &fill->hand[0].counted;
	uint32_t count = 0, lines = 0;

	for (uint32_t i = 0; i < fill->threads; i++) {
		const struct hand *hand = &fill->hand[i];
		uint32_t used = hand->used[block], whole = used / BUCKET_WORDS;

		lines = i % 2 ? lines + whole : whole;	/* of the pair */
		if (lines > hand->part_buckets || count + used > build->block_buckets * BUCKET_WORDS)
			return UINT32_MAX;
		if (whole)
			memcpy(room + count, line_at(hand, block, i % 2 ? whole - 1 : 0), whole * 64);
		count += whole * BUCKET_WORDS;
		memcpy(room + count, hand->lines + (size_t)block * BUCKET_WORDS, used % BUCKET_WORDS * sizeof(*room));
		count += used % BUCKET_WORDS;
	}
	memset(block_at(build, block), 0, (size_t)build->block_buckets * BUCKET_WORDS * sizeof(*room));
	return count;
}

/* The word of a bucket that has the key of `word`, or NULL. */
static uint64_t *same_in(uint64_t *bucket, uint32_t used, uint64_t word)
{
	for (uint32_t i = 0; i < used; i++)
		if (same_key(bucket[i], word))
			return &bucket[i];
	return NULL;
}

/* A block while it is filled. How full its buckets are and their filters lie beside it, small enough for the first cache. */
struct filling {
	struct hand *hand;
	unsigned long long salt[2];
	uint64_t *begin;
	uint32_t buckets;
	uint32_t doubtful;	/* words in `hand->doubts` */
	uint8_t used[MAMPLUS_BLOCK_BUCKETS];
	uint64_t filters[MAMPLUS_BLOCK_BUCKETS];	/* the near one, and above it the far one */
};

static uint64_t *bucket_at(const struct filling *filling, uint32_t at)
{
	return filling->begin + (size_t)at * BUCKET_WORDS;
}

/*
 * Put the words into their first buckets, and those that find them full to the begin of `words`; returns how many.
 * A key that is there already has all its bits in the filter: few others have, so few buckets are searched. One that
 * may be there, but not in its first bucket, is put to the doubts.
 */
static uint32_t fill_first(struct filling *filling, uint64_t *words, uint32_t count)
{
	const unsigned long long salt[2] = { filling->salt[0], filling->salt[1] };
	struct hand *hand = filling->hand;
	uint32_t left = 0, buckets = filling->buckets;

	for (uint32_t i = 0; i < count; i++) {
		uint64_t word = words[i], spread = mamplus_spread(salt, identity_in(word));
		uint64_t bits = mamplus_near(spread) | (uint64_t)mamplus_far(spread) << 32;
		uint32_t at = mamplus_first(spread, buckets), used = filling->used[at], is_full = used / BUCKET_WORDS;
		uint64_t *bucket = bucket_at(filling, at), *to[2] = { bucket + used, words + left };

		if ((filling->filters[at] & bits) == bits) {
			uint64_t *same = same_in(bucket, used, word);

			if (same) {
				*same = *same > word ? *same : word;
				continue;
			}
			if (is_full) {
				hand->doubts[filling->doubtful++] = word;
				continue;
			}
		}
		filling->filters[at] |= bits;
		*to[is_full] = word;	/* no branch: one bucket in ten is full, and nobody guesses which */
		filling->used[at] = (uint8_t)(used + 1 - is_full);
		left += is_full;
		hand->counted.entries++;
	}
	return left;
}

/* No filter changes once all words were in their first buckets. */
static void put_filters(const struct filling *filling, uint32_t block)
{
	uint32_t *near = near_of(&filling->hand->counted) + (size_t)block * filling->buckets;
	uint32_t *far = far_of(&filling->hand->counted) + (size_t)block * filling->buckets;

	for (uint32_t i = 0; i < filling->buckets; i++) {
		near[i] = (uint32_t)filling->filters[i];
		far[i] = (uint32_t)(filling->filters[i] >> 32);
	}
}

/* Put a word into the place of one in bucket `at` whose other bucket has room. */
static bool push_out_one(struct filling *filling, uint32_t at, uint64_t word)
{
	uint64_t *bucket = bucket_at(filling, at);

	for (uint32_t i = 0; i < BUCKET_WORDS; i++) {
		uint64_t spread = mamplus_spread(filling->salt, identity_in(bucket[i]));
		uint32_t first = mamplus_first(spread, filling->buckets), second = mamplus_second(spread, filling->buckets);
		uint32_t other = first == at ? second : first;

		if (filling->used[other] == BUCKET_WORDS)
			continue;
		bucket_at(filling, other)[filling->used[other]++] = bucket[i];
		bucket[i] = word;
		return true;
	}
	return false;
}

/* The same with their second buckets, of words whose first ones are full. */
static uint32_t fill_second(struct filling *filling, uint64_t *words, uint32_t count)
{
	uint32_t left = 0;

	for (uint32_t i = 0; i < count; i++) {
		uint64_t word = words[i], spread = mamplus_spread(filling->salt, identity_in(word));
		uint32_t second = mamplus_second(spread, filling->buckets);

		if (filling->used[second] < BUCKET_WORDS)
			bucket_at(filling, second)[filling->used[second]++] = word;
		else if (!push_out_one(filling, second, word) &&
			 !push_out_one(filling, mamplus_first(spread, filling->buckets), word))
			words[left++] = word;
	}
	return left;
}

static int settle_doubts(struct hand *hand, struct stash *stash, uint32_t count)
{
	int error = 0;

	for (uint32_t i = 0; i < count && !error; i++) {
		uint64_t word = hand->doubts[i], *same = find_word(&hand->counted, stash, word);

		if (same) {
			*same = *same > word ? *same : word;
			continue;
		}
		error = insert_word(&hand->counted, stash, word);
		hand->counted.entries++;
	}
	return error;
}

static int settle_block(struct hand *hand, uint32_t block)
{
	struct filling filling = { .hand = hand, .salt = { hand->counted.salt[0], hand->counted.salt[1] },
				   .begin = block_at(&hand->counted, block), .buckets = hand->counted.block_buckets };
	struct stash stash = { hand->stash_words, &hand->stashed };
	uint32_t left = gather(hand->fill, block, hand->room);
	int error = 0;

	if (left == UINT32_MAX)
		return -ENOSPC;
	left = fill_first(&filling, hand->room, left);
	put_filters(&filling, block);
	left = fill_second(&filling, hand->room, left);
	for (uint32_t i = 0; i < left && !error; i++)
		error = insert_word(&hand->counted, &stash, hand->room[i]);
	return error ? error : settle_doubts(hand, &stash, filling.doubtful);
}

static void *settle(void *argument)
{
	struct hand *hand = argument;
	uint32_t block;

	while (!hand->error) {
		block = __atomic_fetch_add(&hand->fill->next_block, 1, __ATOMIC_RELAXED);
		if (block >= hand->fill->blocks)
			break;
		hand->error = settle_block(hand, block);
	}
	return NULL;
}

static void add_counters(struct mamplus_build *build, const struct mamplus_build *counted)
{
	build->entries += counted->entries;
	build->expired += counted->expired;
	build->over_budget += counted->over_budget;
	if (counted->next_end_s && (!build->next_end_s || counted->next_end_s < build->next_end_s))
		build->next_end_s = counted->next_end_s;
	for (uint32_t i = 0; i < sizeof(build->probes4) / sizeof(*build->probes4); i++)
		build->probes4[i] += counted->probes4[i];
	for (uint32_t i = 0; i < sizeof(build->probes6) / sizeof(*build->probes6); i++)
		build->probes6[i] += counted->probes6[i];
	for (uint32_t i = 0; i < sizeof(build->ports) / sizeof(*build->ports); i++)
		build->ports[i] += counted->ports[i];
}

static int take_stash(struct mamplus_build *build, const struct hand *hand)
{
	uint64_t *stash = build->words + (size_t)build->blocks * build->block_buckets * BUCKET_WORDS;

	if (build->stashed + hand->stashed > BUCKET_WORDS)
		return -ENOSPC;
	memcpy(stash + build->stashed, hand->stash_words, hand->stashed * sizeof(*stash));
	build->stashed += hand->stashed;
	return 0;
}

int mamplus_build_settle(struct mamplus_build *build)
{
	struct mamplus_fill *fill = build->fill;
	int error = all_hands(fill, false, settle);

	for (uint32_t i = 0; i < fill->threads && !error; i++) {
		add_counters(build, &fill->hand[i].counted);
		error = take_stash(build, &fill->hand[i]);
	}
	mamplus_build_drop(build);
	return error;
}
