/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Changes to a BLE table that is filled (mamplus_tables.h): single keys set and removed, and the
 * copy that they are made in, for a table that programs ask is never written to.
 */
#include <endian.h>
#include <errno.h>
#include <pthread.h>

#include "ble_file.h"
#include "table_words.h"

#define THREADS_MAX 4

static bool is_held(struct mamplus_build *build, uint64_t identity)
{
	struct stash stash = stash_of(build);

	return find_word(build, &stash, identity << MAMPLUS_VERDICT_BITS);
}

/* The verdict 0 removes. */
static int set_word(struct mamplus_build *build, uint64_t identity, uint32_t verdict)
{
	struct stash stash = stash_of(build);
	uint64_t word = identity << MAMPLUS_VERDICT_BITS | verdict, *held = find_word(build, &stash, word), spread;

	if (held && verdict) {
		*held = word;
		return 0;
	}
	if (held) {
		build->entries--;
		remove_word(build, &stash, held);
		return 0;
	}
	if (!verdict)
		return 0;
	build->entries++;
	build->added++;
	spread = mamplus_spread(salt_of(build), identity);
	near_of(build)[filter_at(build, spread)] |= mamplus_near(spread);
	far_of(build)[filter_at(build, spread)] |= mamplus_far(spread);
	return insert_word(build, &stash, word);
}

static void note_end(struct mamplus_build *build, const unsigned char *end)
{
	uint32_t end_s = le32toh(read32(end));

	if (end_s && (!build->next_end_s || end_s < build->next_end_s))
		build->next_end_s = end_s;
}

/* The key of entry `index` becomes what was resolved for it. */
static int set_entry(struct mamplus_build *build, const struct mamplus_columns *columns, uint32_t index,
		     uint64_t identity, uint32_t resolved)
{
	int own = verdict_of(columns, index);

	if (own < 0 || resolved > MAMPLUS_VERDICT_MASK)
		return -EINVAL;
	if (!identity)	/* of a length that is not looked up */
		return 0;
	/* A key that is held has its memory already, from another part of the list. */
	if (own == OVER_BUDGET && resolved && !is_held(build, identity)) {
		build->over_budget++;
		return 0;
	}
	return set_word(build, identity, resolved);
}

int mamplus_build_set(struct mamplus_build *build, const struct mamplus_columns *columns, const uint8_t *resolved,
		      const unsigned char *ends)
{
	uint64_t identities[KEYS_AT_ONCE];
	int error = build->blocks && key_bytes(columns->section) ? 0 : -EINVAL;

	for (uint32_t done = 0, step; done < columns->count && !error; done += step) {
		step = columns->count - done < KEYS_AT_ONCE ? columns->count - done : KEYS_AT_ONCE;
		error = make_identities(build, columns, done, step, identities);
		for (uint32_t i = done; i < done + step && !error; i++) {
			error = set_entry(build, columns, i, identities[i - done], resolved[i]);
			if (resolved[i])
				note_end(build, ends + (size_t)i * 4);
		}
	}
	return error;
}

int mamplus_build_set_name(struct mamplus_build *build, const unsigned char *name, uint32_t length, uint32_t is_alone,
			   uint32_t verdict)
{
	struct mamplus_name sum = { 0, 0 };

	if (!build->blocks || verdict > MAMPLUS_VERDICT_MASK)
		return -EINVAL;
	while (length--)
		mamplus_name_add(salt_of(build), &sum, name[length]);
	return set_word(build, mamplus_identity_name(salt_of(build), &sum, is_alone), verdict);
}

struct copy {
	uint64_t *to;
	const uint64_t *from;
	size_t words;
};

static void *copy_part(void *argument)
{
	struct copy *copy = argument;

	memcpy(copy->to, copy->from, copy->words * sizeof(*copy->to));
	return NULL;
}

void mamplus_build_copy(uint64_t *to, const uint64_t *from, uint64_t words, uint32_t threads)
{
	struct copy copy[THREADS_MAX];
	pthread_t thread[THREADS_MAX];
	bool started[THREADS_MAX] = { false };
	size_t done = 0;

	threads = threads < 1 ? 1 : threads > THREADS_MAX ? THREADS_MAX : threads;
	for (uint32_t i = 0; i < threads; i++) {
		size_t part = i + 1 < threads ? words / threads : words - done;

		copy[i] = (struct copy){ to + done, from + done, part };
		done += part;
		started[i] = i && !pthread_create(&thread[i], NULL, copy_part, &copy[i]);
	}
	for (uint32_t i = 0; i < threads; i++)
		if (!started[i])
			copy_part(&copy[i]);
	for (uint32_t i = 1; i < threads; i++)
		if (started[i])
			pthread_join(thread[i], NULL);
}
