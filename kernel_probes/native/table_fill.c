/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fills a whole table. A random access to memory costs more than all else here, so the entries are
 * first scattered to the blocks that they belong to, into the very memory of the table, a cache
 * line at a time; then one block after the other is put in order inside of the processor's cache.
 *
 * Each thread scatters its part of the entries to its own part of every block. Blocks are filled
 * to about 80 %, evenly by the salt; a part that has no room asks for a larger table.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "table_words.h"

#define THREADS_MAX 4
#define FEW 65536		/* entries that one thread has done before another has started */

/* What one thread does and counts by itself. */
struct hand {
	struct mamplus_build counted;	/* its counters; added up at the end */
	const struct mamplus_columns *columns;
	uint32_t first, count;
	uint64_t *lines;		/* one a block: the words that do not fill a cache line yet */
	uint32_t *used;			/* words that came for each block */
	uint64_t *room;			/* a block's worth of words, for settling */
	uint64_t stash_words[BUCKET_WORDS];
	uint32_t stashed;
	uint32_t number;
	struct mamplus_fill *fill;
	int error;
};

struct mamplus_fill {
	uint32_t threads;
	uint32_t part;			/* words of a block that are one thread's */
	uint32_t next_block;		/* to be settled */
	uint32_t blocks;
	void *memory;
	struct hand hand[THREADS_MAX];
};

static void put_line(uint64_t *to, const uint64_t *line)
{
#ifdef __SSE2__
	for (uint32_t i = 0; i < BUCKET_WORDS; i += 2)	/* past the cache: it is read much later */
		_mm_stream_si128((__m128i *)(to + i), *(const __m128i *)(line + i));
#else
	memcpy(to, line, BUCKET_WORDS * sizeof(*to));
#endif
}

/* Where the words of a hand for a block begin. */
static uint64_t *part_of(const struct hand *hand, uint32_t block)
{
	return hand->counted.words + (size_t)block * hand->counted.block_buckets * BUCKET_WORDS +
	       (size_t)hand->number * hand->fill->part;
}

static int scatter_word(struct hand *hand, uint64_t word)
{
	uint64_t spread = mamplus_spread(salt_of(&hand->counted), identity_in(word));
	uint32_t block = mamplus_block(spread, hand->counted.blocks), used = hand->used[block]++;
	uint64_t *line = hand->lines + (size_t)block * BUCKET_WORDS;

	line[used % BUCKET_WORDS] = word;
	if (used % BUCKET_WORDS < BUCKET_WORDS - 1)
		return 0;
	if (used >= hand->fill->part)
		return -ENOSPC;
	put_line(part_of(hand, block) + used / BUCKET_WORDS * BUCKET_WORDS, line);
	return 0;
}

static void *scatter(void *argument)
{
	struct hand *hand = argument;
	uint64_t words[KEYS_AT_ONCE];

	for (uint32_t done = 0, step; done < hand->count && !hand->error; done += step) {
		step = hand->count - done < KEYS_AT_ONCE ? hand->count - done : KEYS_AT_ONCE;
		hand->error = make_words(&hand->counted, hand->columns, hand->first + done, step, words);
		for (uint32_t i = 0; i < step && !hand->error; i++)
			if (words[i])
				hand->error = scatter_word(hand, words[i]);
	}
#ifdef __SSE2__
	_mm_sfence();
#endif
	return NULL;
}

/* Let every hand do `work`; where a thread is not worth it or cannot be had, this one does. Returns the first error. */
static int all_hands(struct mamplus_fill *fill, bool are_few, void *(*work)(void *))
{
	pthread_t thread[THREADS_MAX];
	bool started[THREADS_MAX] = { false };
	int error = 0;

	for (uint32_t i = 1; i < fill->threads && !are_few; i++)
		started[i] = !pthread_create(&thread[i], NULL, work, &fill->hand[i]);
	for (uint32_t i = 0; i < fill->threads; i++)
		if (!started[i])
			work(&fill->hand[i]);
	for (uint32_t i = 1; i < fill->threads; i++)
		if (started[i])
			pthread_join(thread[i], NULL);
	for (uint32_t i = 0; i < fill->threads && !error; i++)
		error = fill->hand[i].error;
	return error;
}

uint64_t mamplus_build_words(uint32_t blocks, uint32_t block_buckets, uint32_t mask_bits)
{
	uint64_t buckets = (uint64_t)(blocks ? blocks : 1) * block_buckets;
	uint64_t after = buckets + (mask_bits ? 1ULL << mask_bits : 0);

	return (buckets + 1 + (after + BUCKET_WORDS - 1) / BUCKET_WORDS) * BUCKET_WORDS;
}

int mamplus_build_begin(struct mamplus_build *build)
{
	size_t blocks = build->blocks, block_words = (size_t)build->block_buckets * BUCKET_WORDS, size;
	uint32_t threads = build->threads < 1 ? 1 : build->threads > THREADS_MAX ? THREADS_MAX : build->threads;
	struct mamplus_fill *fill;
	unsigned char *at;

	if (!blocks || !block_words || build->block_buckets > MAMPLUS_BLOCK_BUCKETS)
		return -EINVAL;
	if (blocks * block_words < FEW || build->block_buckets < THREADS_MAX)
		threads = 1;
	fill = calloc(1, sizeof(*fill));
	size = blocks * BUCKET_WORDS * 8 + block_words * 8 + (blocks * 4 + 63) / 64 * 64;
	if (fill)
		fill->memory = aligned_alloc(64, size * threads);
	if (!fill || !fill->memory) {
		free(fill);
		return -ENOMEM;
	}
	memset(fill->memory, 0, size * threads);
	fill->threads = threads;
	fill->blocks = build->blocks;
	fill->part = build->block_buckets / threads * BUCKET_WORDS;
	at = fill->memory;
	for (uint32_t i = 0; i < threads; i++, at += size) {
		struct hand *hand = &fill->hand[i];

		hand->counted = *build;
		hand->number = i;
		hand->fill = fill;
		hand->lines = (uint64_t *)at;
		hand->room = hand->lines + blocks * BUCKET_WORDS;
		hand->used = (uint32_t *)(hand->room + block_words);
	}
	build->fill = fill;
	return 0;
}

int mamplus_build_scatter(struct mamplus_build *build, const struct mamplus_columns *columns)
{
	struct mamplus_fill *fill = build->fill;
	uint32_t done = 0;

	if (!key_bytes(columns->section))
		return -EINVAL;
	for (uint32_t i = 0; i < fill->threads; i++) {
		struct hand *hand = &fill->hand[i];

		hand->columns = columns;
		hand->first = done;
		hand->count = i + 1 < fill->threads ? columns->count / fill->threads : columns->count - done;
		done += hand->count;
	}
	return all_hands(fill, columns->count < FEW, scatter);
}

/* Bring the words of a block together, and leave the block empty. Returns how many there are; UINT32_MAX: no room. */
static uint32_t gather(const struct mamplus_fill *fill, uint32_t block, uint64_t *room)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < fill->threads; i++) {
		const struct hand *hand = &fill->hand[i];
		uint32_t used = hand->used[block], whole = used / BUCKET_WORDS * BUCKET_WORDS;

		if (used > fill->part)
			return UINT32_MAX;
		memcpy(room + count, part_of(hand, block), whole * sizeof(*room));
		memcpy(room + count + whole, hand->lines + (size_t)block * BUCKET_WORDS, (used - whole) * sizeof(*room));
		count += used;
	}
	memset(part_of(&fill->hand[0], block), 0,
	       (size_t)fill->hand[0].counted.block_buckets * BUCKET_WORDS * sizeof(*room));
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

/* What is known of the buckets while a block is filled: small enough for the first cache. */
struct filling {
	uint64_t tags[MAMPLUS_BLOCK_BUCKETS];	/* one byte a word: words of one key have the same */
	uint64_t filters[MAMPLUS_BLOCK_BUCKETS];
	uint8_t used[MAMPLUS_BLOCK_BUCKETS];
};

/* A byte of `tags` may be `tag`: comparing all words took half of the time. */
static bool has_tag(uint64_t tags, uint64_t tag)
{
	uint64_t apart = tags ^ tag * 0x0101010101010101ULL;

	return (apart - 0x0101010101010101ULL) & ~apart & 0x8080808080808080ULL;
}

/* Put the words into their first buckets, and those that find them full to the begin of `words`; returns how many. */
static uint32_t fill_first(struct hand *hand, uint32_t block, uint64_t *words, uint32_t count)
{
	uint64_t *begin = part_of(&hand->fill->hand[0], block);
	uint32_t left = 0, same_keys = 0, buckets = hand->counted.block_buckets;
	struct filling filling;

	memset(&filling, 0, sizeof(filling));
	for (uint32_t i = 0; i < count; i++) {
		uint64_t word = words[i], spread = mamplus_spread(salt_of(&hand->counted), identity_in(word));
		uint64_t tag = spread >> 16 & 0xff, *same = NULL;
		uint32_t at = mamplus_first(spread, buckets), used = filling.used[at];
		uint64_t *bucket = begin + (size_t)at * BUCKET_WORDS;

		filling.filters[at] |= mamplus_filter(spread);
		if (has_tag(filling.tags[at], tag))
			same = same_in(bucket, used, word);
		if (same) {
			*same = *same > word ? *same : word;
			same_keys++;
		} else if (used < BUCKET_WORDS) {
			bucket[used] = word;
			filling.tags[at] |= tag << used * 8;
			filling.used[at]++;
		} else {
			words[left++] = word;
		}
	}
	hand->counted.entries += count - left - same_keys;
	memcpy(filters_of(&hand->counted) + (size_t)block * buckets, filling.filters, buckets * sizeof(*filling.filters));
	return left;
}

static int settle_block(struct hand *hand, uint32_t block)
{
	struct stash stash = { hand->stash_words, &hand->stashed };
	uint32_t count = gather(hand->fill, block, hand->room);
	uint32_t left;
	int error = 0;

	if (count == UINT32_MAX)
		return -ENOSPC;
	left = fill_first(hand, block, hand->room, count);
	for (uint32_t i = 0; i < left && !error; i++) {
		uint64_t word = hand->room[i], *same = find_word(&hand->counted, &stash, word);

		if (same) {
			*same = *same > word ? *same : word;
			continue;
		}
		error = insert_word(&hand->counted, &stash, word);
		hand->counted.entries++;
	}
	return error;
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

void mamplus_build_drop(struct mamplus_build *build)
{
	if (build->fill)
		free(build->fill->memory);
	free(build->fill);
	build->fill = NULL;
}
