/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Holds a layer to what its key may say: docs/trust.md.
 *
 * In C because a feed has millions of entries and each one is looked at, on the device, before
 * its list is believed. Two columns are read, and the keys of networks.
 */
#include <endian.h>
#include <string.h>

#include "ble_limits.h"

#define WITHDRAWN 0
#define PREFIX_AT 16
#define MAPPED_BITS 96

static uint32_t get32(const unsigned char *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return le32toh(value);
}

static int fail(struct mamplus_ble_fault *fault, const char *what, uint32_t section, uint32_t index)
{
	fault->what = what;
	fault->section = section;
	fault->index = index;
	return -1;
}

/* A port stands as a network of no bits, so it is too short for any limit. */
static int is_long_enough(const struct mamplus_ble_limits *limits, const unsigned char *key)
{
	static const unsigned char mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };
	uint32_t bits = key[PREFIX_AT];

	if (!memcmp(key, mapped, sizeof(mapped)) && bits >= MAPPED_BITS)
		return bits - MAPPED_BITS >= limits->prefix4;
	return bits >= limits->prefix6;
}

static const char *excess(const unsigned char *data, const struct mamplus_ble_file *file, const struct mamplus_ble_view *view,
			  const struct mamplus_ble_limits *limits, uint32_t index)
{
	uint32_t group = get32(data + view->groups + (uint64_t)index * 4);
	uint64_t end = get32(data + view->ends + (uint64_t)index * 4);
	uint8_t verdict;

	if (group >= file->group_count)
		return "group";
	verdict = data[file->groups + (uint64_t)group * MAMPLUS_BLE_GROUP_SIZE];
	if (verdict == WITHDRAWN)
		return NULL;
	if (verdict > 31 || !(limits->verdicts >> verdict & 1))
		return "verdict";
	if (!(limits->sections >> view->section & 1))
		return "kind";
	if (limits->life_s && (!end || end > file->created_s + limits->life_s))
		return "end";
	if (view->section == MAMPLUS_BLE_NET && !is_long_enough(limits, data + view->keys + (uint64_t)index * view->key_size))
		return "size of network";
	return NULL;
}

int mamplus_ble_within(const unsigned char *data, uint64_t size, const struct mamplus_ble_limits *limits,
		       struct mamplus_ble_fault *fault)
{
	struct mamplus_ble_file file;

	if (mamplus_ble_open(data, size, &file, fault))
		return -1;
	if (file.entries > limits->entries)
		return fail(fault, "number of entries", 0, 0);
	for (uint32_t i = 0; i < file.sections; i++) {
		for (uint32_t at = 0; at < file.view[i].count; at++) {
			const char *what = excess(data, &file, &file.view[i], limits, at);

			if (what)
				return fail(fault, what, file.view[i].section, at);
		}
	}
	return 0;
}
