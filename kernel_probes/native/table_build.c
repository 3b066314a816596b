/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Two choices for every key: the emptier bucket takes it. Where both are full, one of the sixteen
 * words in them moves to its other bucket; where none can, the stash takes the key. At eight words
 * a bucket and 80 % filled the stash stays empty in practice, and a table of any size costs 10
 * bytes an entry.
 *
 * A random access to memory costs more than all else here, so keys are taken in batches: the
 * buckets of all are asked for before the first is looked at.
 */
#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "ble_file.h"
#include "mamplus_identity.h"
#include "mamplus_tables.h"
#include "table_build.h"

#define BATCH 64
#define BUCKET_WORDS MAMPLUS_BUCKET_WORDS
#define NET_PREFIX 16		/* in a key of the section net: after the network */
#define NET_PROTOCOL 17
#define NET_PORT 18

struct item {
	uint64_t identity;
	uint64_t *bucket[2];
	uint32_t verdict;
};

static uint16_t read16(const unsigned char *at)
{
	uint16_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static uint32_t read32(const unsigned char *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static uint64_t read64(const unsigned char *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static void find_buckets(const struct mamplus_build *build, uint64_t identity, uint64_t **bucket)
{
	uint64_t spread = mamplus_spread((const unsigned long long *)build->salt, identity);

	bucket[0] = build->words + (size_t)mamplus_reduce(spread >> 32, build->buckets) * BUCKET_WORDS;
	bucket[1] = build->words + (size_t)mamplus_reduce((uint32_t)spread, build->buckets) * BUCKET_WORDS;
}

static uint64_t *free_word(uint64_t *bucket, uint32_t *used)
{
	uint64_t *found = NULL;

	*used = 0;
	for (uint32_t i = 0; i < BUCKET_WORDS; i++) {
		if (bucket[i])
			(*used)++;
		else if (!found)
			found = &bucket[i];
	}
	return found;
}

/* The word that holds `identity` in a bucket, or NULL. */
static uint64_t *held_in(uint64_t *bucket, uint32_t words, uint64_t identity)
{
	for (uint32_t i = 0; i < words; i++)
		if (bucket[i] && bucket[i] >> MAMPLUS_VERDICT_BITS == identity)
			return &bucket[i];
	return NULL;
}

/* Empty one word of a full bucket by moving what it holds to its other bucket; NULL when none can move. */
static uint64_t *make_room(const struct mamplus_build *build, uint64_t *bucket)
{
	uint64_t *other[2], *place;
	uint32_t used;

	for (uint32_t i = 0; i < BUCKET_WORDS; i++) {
		find_buckets(build, bucket[i] >> MAMPLUS_VERDICT_BITS, other);
		place = free_word(other[0] == bucket ? other[1] : other[0], &used);
		if (!place)
			continue;
		*place = bucket[i];
		bucket[i] = 0;
		return &bucket[i];
	}
	return NULL;
}

static uint64_t *place_for(struct mamplus_build *build, const struct item *item)
{
	uint32_t used[2];
	uint64_t *one = free_word(item->bucket[0], &used[0]), *two = free_word(item->bucket[1], &used[1]);
	uint64_t *place = used[0] <= used[1] ? one : two;

	if (!place)
		place = make_room(build, item->bucket[0]);
	if (!place)
		place = make_room(build, item->bucket[1]);
	if (!place && build->stashed < BUCKET_WORDS)
		place = build->words + (size_t)build->buckets * BUCKET_WORDS + build->stashed++;
	return place;
}

/* Two entries with one identity: the greater verdict stays. */
static int put(struct mamplus_build *build, const struct item *item)
{
	uint64_t *word = held_in(item->bucket[0], BUCKET_WORDS, item->identity);

	if (!word)
		word = held_in(item->bucket[1], BUCKET_WORDS, item->identity);
	if (!word && build->stashed)
		word = held_in(build->words + (size_t)build->buckets * BUCKET_WORDS, build->stashed, item->identity);
	if (word && (*word & MAMPLUS_VERDICT_MASK) >= item->verdict)
		return 0;
	if (!word)
		word = place_for(build, item);
	if (!word)
		return -ENOSPC;
	*word = item->identity << MAMPLUS_VERDICT_BITS | item->verdict;
	return 0;
}

static uint64_t identity6(const struct mamplus_build *build, const unsigned char *addr, uint64_t qualified)
{
	unsigned long long key[3] = { be64toh(read64(addr)), be64toh(read64(addr + 8)), qualified };

	return mamplus_identity((const unsigned long long *)build->salt, key, 3);
}

static bool is_v4(const unsigned char *addr)
{
	static const unsigned char mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };

	return !memcmp(addr, mapped, sizeof(mapped));
}

static uint64_t identity_net(struct mamplus_build *build, const unsigned char *key)
{
	uint32_t prefix = key[NET_PREFIX], protocol = key[NET_PROTOCOL], port = be16toh(read16(key + NET_PORT));
	uint8_t bit = (uint8_t)(1 << ((port ? MAMPLUS_Q_PORT : 0) | (protocol ? MAMPLUS_Q_PROTOCOL : 0)));

	if (is_v4(key) && prefix >= 96 && prefix <= 128) {
		build->probes4[prefix - 96] |= bit;
		return mamplus_identity4(be32toh(read32(key + 12)), prefix - 96, protocol, port);
	}
	if (!prefix && port)
		build->ports |= bit;
	else
		build->probes6[prefix <= 128 ? prefix : 128] |= bit;
	return identity6(build, key, mamplus_qualified6(prefix, protocol, port));
}

static uint64_t identity_of(struct mamplus_build *build, uint16_t section, const unsigned char *key)
{
	unsigned long long words[4];

	switch (section) {
	case MAMPLUS_BLE_IP4:
		return mamplus_identity4(be32toh(read32(key)), 32, 0, 0);
	case MAMPLUS_BLE_IP6:
		return identity6(build, key, mamplus_qualified6(128, 0, 0));
	case MAMPLUS_BLE_NET:
		return identity_net(build, key);
	case MAMPLUS_BLE_DOMAIN:
		words[0] = le64toh(read64(key));
		return mamplus_identity((const unsigned long long *)build->salt, words, 1);
	default:
		memcpy(words, key, sizeof(words));
		return mamplus_identity((const unsigned long long *)build->salt, words, 4);
	}
}

static uint32_t key_size(uint16_t section)
{
	switch (section) {
	case MAMPLUS_BLE_SHA256: return 32;
	case MAMPLUS_BLE_IP4: return 4;
	case MAMPLUS_BLE_IP6: return 16;
	case MAMPLUS_BLE_NET: return 20;
	case MAMPLUS_BLE_DOMAIN: return 8;
	default: return 0;
	}
}

/* 1: *item is to be put in; 0: its time is over; -EINVAL: the file is damaged. */
static int take(struct mamplus_build *build, const struct mamplus_columns *columns, uint32_t index, struct item *item)
{
	uint32_t group = le32toh(read32(columns->groups + (size_t)index * 4));
	uint64_t end_s = le32toh(read32(columns->ends + (size_t)index * 4));

	if (group >= build->group_count)
		return -EINVAL;
	if (end_s && end_s <= build->now_s)
		return 0;
	if (end_s && (!build->next_end_s || end_s < build->next_end_s))
		build->next_end_s = end_s;
	item->verdict = build->groups[(size_t)group * MAMPLUS_BLE_GROUP_SIZE] & MAMPLUS_VERDICT_MASK;
	if (!item->verdict)
		return -EINVAL;
	item->identity = identity_of(build, columns->section, columns->keys + (size_t)index * key_size(columns->section));
	find_buckets(build, item->identity, item->bucket);
	__builtin_prefetch(item->bucket[0], 1);
	__builtin_prefetch(item->bucket[1], 1);
	build->entries++;
	return 1;
}

int mamplus_build_add(struct mamplus_build *build, const struct mamplus_columns *columns)
{
	struct item batch[BATCH];
	uint32_t waiting = 0;
	int error = 0;

	if (!build->buckets || !key_size(columns->section))
		return -EINVAL;
	for (uint32_t i = 0; i < columns->count && error >= 0; i++) {
		error = take(build, columns, i, &batch[waiting]);
		waiting += error == 1;
		if (error < 0 || (waiting < BATCH && i + 1 < columns->count))
			continue;
		for (uint32_t j = 0; j < waiting && error >= 0; j++)
			error = put(build, &batch[j]);
		waiting = 0;
	}
	return error < 0 ? error : 0;
}

int mamplus_build_add_domain(struct mamplus_build *build, uint64_t key, uint32_t verdict)
{
	unsigned long long word = key;
	struct item item = { .verdict = verdict & MAMPLUS_VERDICT_MASK };

	item.identity = mamplus_identity((const unsigned long long *)build->salt, &word, 1);
	find_buckets(build, item.identity, item.bucket);
	return put(build, &item);
}
