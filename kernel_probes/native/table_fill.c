/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fills a whole table. A random access to memory costs more than all else here, so the entries are
 * first scattered to the blocks that they belong to, into the very memory of the table, a cache
 * line at a time; then one block after the other is put in order inside of the processor's cache
 * (table_settle.c).
 *
 * Threads work in pairs. A pair has a part of every block, which one of the two fills from its begin
 * and the other from its end, and a part of the entries, of which they take some in turns: so neither
 * waits for the other, whatever else its processor does. Blocks are filled to about 80 %, evenly by
 * the salt; a part that has no room asks for a larger table.
 */
#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "table_fill.h"

#define FEW 65536		/* entries that one thread has done before another has started */
#define TURN 65536		/* entries that a thread takes at once */
/*
 * Of a file, entries that are read at once, to where the second cache holds them. In its mapping they would cost more:
 * a fault for each 16 pages, and an interrupt of all threads to give them back.
 */
#define READ_AT_ONCE 8192

static void put_line(uint64_t *to, const uint64_t *line)
{
#ifdef __SSE2__
	for (uint32_t i = 0; i < BUCKET_WORDS; i += 2)	/* past the cache: it is read much later */
		_mm_stream_si128((__m128i *)(to + i), *(const __m128i *)(line + i));
#else
	memcpy(to, line, BUCKET_WORDS * sizeof(*to));
#endif
}

/* Add words, each with its block. */
static int scatter_words(struct hand *hand, const uint64_t *words, const uint32_t *blocks, uint32_t count)
{
	uint64_t *lines = hand->lines;
	uint32_t *all_used = hand->used;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t used = all_used[blocks[i]]++;
		uint64_t *line = lines + (size_t)blocks[i] * BUCKET_WORDS;

		line[used % BUCKET_WORDS] = words[i];
		if (used % BUCKET_WORDS < BUCKET_WORDS - 1)
			continue;
		if (used >= hand->part_buckets * BUCKET_WORDS)
			return -ENOSPC;
		put_line(line_at(hand, blocks[i], used / BUCKET_WORDS), line);
	}
	return 0;
}

/* Drop words that are 0; returns how many are left, and which block each belongs to. */
static uint32_t blocks_of(const struct hand *hand, uint64_t *words, uint32_t count, uint32_t *blocks)
{
	const unsigned long long salt[2] = { hand->counted.salt[0], hand->counted.salt[1] };
	uint32_t all = hand->counted.blocks, left = 0;

	for (uint32_t i = 0; i < count; i++) {
		words[left] = words[i];
		blocks[left] = mamplus_block(mamplus_spread(salt, identity_in(words[i])), all);
		left += words[left] != 0;
	}
	return left;
}

static void give_back_span(const unsigned char *begin, uint64_t size)
{
	uintptr_t page = (uintptr_t)begin & ~(uintptr_t)(sysconf(_SC_PAGESIZE) - 1);

	(void)madvise((void *)page, (uintptr_t)begin + size - page, MADV_DONTNEED);	/* or they stay: that is all */
}

/* Texts are read where they are mapped. They lie in the order of the keys, as `encode` writes them; of another order some pages stay. */
static void give_back_texts(const struct mamplus_columns *columns, uint32_t first, uint32_t count)
{
	uint64_t begin = le32toh(read32(columns->texts + (size_t)first * 4));
	uint64_t end = le32toh(read32(columns->texts + (size_t)(first + count - 1) * 4));

	if (begin < end && end < columns->strings_size)
		give_back_span(columns->strings + begin, end - begin);
	give_back_span(columns->texts + (size_t)first * 4, (uint64_t)count * 4);
}

static int scatter_part(struct hand *hand, const struct mamplus_columns *columns, uint32_t first, uint32_t count)
{
	uint64_t words[KEYS_AT_ONCE];
	uint32_t blocks[KEYS_AT_ONCE];
	int error = 0;

	for (uint32_t done = 0, step; done < count && !error; done += step) {
		step = count - done < KEYS_AT_ONCE ? count - done : KEYS_AT_ONCE;
		error = make_words(&hand->counted, columns, first + done, step, words);
		if (!error)
			error = scatter_words(hand, words, blocks, blocks_of(hand, words, step, blocks));
	}
	return error;
}

static int read_all(const struct mamplus_columns *columns, const unsigned char *mapped, unsigned char *to, size_t size)
{
	off_t at = mapped - columns->file;

	for (ssize_t got; size; size -= (size_t)got, to += got, at += got) {
		got = pread(columns->fd, to, size, at);
		if (got <= 0)
			return got ? -errno : -EINVAL;	/* the file became shorter */
	}
	return 0;
}

/* The same for a part of a file, which is read to `memory`. */
static int scatter_read(struct hand *hand, unsigned char *memory, uint32_t first, uint32_t count)
{
	const struct mamplus_columns *all = hand->columns;
	struct mamplus_columns part = *all;
	size_t key = key_bytes(all->section);
	unsigned char *groups = memory + count * key, *ends = groups + (size_t)count * 4;
	int error = read_all(all, all->keys + first * key, memory, count * key);

	if (!error)
		error = read_all(all, all->groups + (size_t)first * 4, groups, (size_t)count * 4);
	if (!error)
		error = read_all(all, all->ends + (size_t)first * 4, ends, (size_t)count * 4);
	if (error)
		return error;
	part.keys = memory;
	part.groups = groups;
	part.ends = ends;
	part.texts = all->texts ? all->texts + (size_t)first * 4 : NULL;
	part.cut = all->cut > first ? all->cut - first : 0;
	return scatter_part(hand, &part, 0, count);
}

static int scatter_turn(struct hand *hand, unsigned char *memory, uint32_t first, uint32_t count)
{
	int error = 0;

	if (!memory)
		return scatter_part(hand, hand->columns, first, count);
	for (uint32_t done = 0, step; done < count && !error; done += step) {
		step = count - done < READ_AT_ONCE ? count - done : READ_AT_ONCE;
		error = scatter_read(hand, memory, first + done, step);
	}
	if (hand->columns->texts)
		give_back_texts(hand->columns, first, count);
	return error;
}

static void *scatter(void *argument)
{
	struct hand *hand = argument;
	const struct mamplus_columns *columns = hand->columns;
	uint32_t pair = hand->number / 2, end = share(hand->fill, columns->count, pair + 1);
	unsigned char *memory = NULL;

	if (columns->is_mapped)
		memory = malloc((size_t)READ_AT_ONCE * (key_bytes(columns->section) + 8));
	if (columns->is_mapped && !memory)
		hand->error = -ENOMEM;
	while (!hand->error) {
		uint32_t first = __atomic_fetch_add(&hand->fill->next_entry[pair], TURN, __ATOMIC_RELAXED);

		if (first >= end)
			break;
		hand->error = scatter_turn(hand, memory, first, end - first < TURN ? end - first : TURN);
	}
	free(memory);
#ifdef __SSE2__
	_mm_sfence();
#endif
	return NULL;
}

int all_hands(struct mamplus_fill *fill, bool are_few, void *(*work)(void *))
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

	return MAMPLUS_LINES_BEFORE_MASKS(buckets) * BUCKET_WORDS + (mask_bits ? 1ULL << mask_bits : 0);
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
	size = blocks * BUCKET_WORDS * 8 + 2 * block_words * 8 + (blocks * 4 + 63) / 64 * 64;
	if (fill)
		fill->memory = aligned_alloc(64, size * threads);
	if (!fill || !fill->memory) {
		free(fill);
		return -ENOMEM;
	}
	memset(fill->memory, 0, size * threads);
	fill->threads = threads;
	fill->blocks = build->blocks;
	at = fill->memory;
	for (uint32_t i = 0; i < threads; i++, at += size) {
		struct hand *hand = &fill->hand[i];

		hand->counted = *build;
		hand->number = i;
		hand->part_begin = share(fill, build->block_buckets, i / 2);
		hand->part_buckets = share(fill, build->block_buckets, i / 2 + 1) - hand->part_begin;
		hand->fill = fill;
		hand->lines = (uint64_t *)at;
		hand->room = hand->lines + blocks * BUCKET_WORDS;
		hand->doubts = hand->room + block_words;
		hand->used = (uint32_t *)(hand->doubts + block_words);
	}
	build->fill = fill;
	return 0;
}

int mamplus_build_scatter(struct mamplus_build *build, const struct mamplus_columns *columns)
{
	struct mamplus_fill *fill = build->fill;

	if (!key_bytes(columns->section) || columns->count > UINT32_MAX - THREADS_MAX * TURN)
		return -EINVAL;
	for (uint32_t i = 0; i < fill->threads; i++)
		fill->hand[i].columns = columns;
	for (uint32_t pair = 0; pair < THREADS_MAX / 2; pair++)
		fill->next_entry[pair] = share(fill, columns->count, pair);
	return all_hands(fill, columns->count < FEW, scatter);
}

void mamplus_build_drop(struct mamplus_build *build)
{
	if (build->fill)
		free(build->fill->memory);
	free(build->fill);
	build->fill = NULL;
}
