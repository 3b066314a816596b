/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the C files about a list share: bytes into numbers, and one entry laid open.
 *
 * For files that mamplus_ble_open() took. Nothing past the directory is believed: a group, a
 * text or a count that does not fit ends in -1 or NULL, never in a read outside of the file.
 */
#ifndef MAMPLUS_BLE_READ_H
#define MAMPLUS_BLE_READ_H

#include <endian.h>
#include <string.h>

#include "ble_file.h"

#define BLE_TEXT_MAX 60000	/* MAX_VALUE_BYTES of entry.py */

/* An entry as it stands in its file. */
struct ble_entry {
	const unsigned char *key;
	const unsigned char *text;	/* NULL where the key says the value */
	const unsigned char *group;	/* 32 bytes */
	uint64_t id;
	uint32_t text_length;
	uint32_t end;
	uint32_t group_number;
};

static inline uint16_t get16(const unsigned char *at)
{
	uint16_t value;

	memcpy(&value, at, sizeof(value));
	return le16toh(value);
}

static inline uint32_t get32(const unsigned char *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return le32toh(value);
}

static inline uint64_t get64(const unsigned char *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return le64toh(value);
}

/* Parts of mamplus_ble_check(): groups and audience, and the entries from `first` to before `end`, whose earlier ones were checked. */
int ble_check_head(const unsigned char *data, const struct mamplus_ble_file *file, struct mamplus_ble_fault *fault);
int ble_check_entries(const unsigned char *data, const struct mamplus_ble_file *file, const struct mamplus_ble_view *view,
		      uint32_t first, uint32_t end, struct mamplus_ble_fault *fault);

static inline int ble_fail(struct mamplus_ble_fault *fault, const char *what, uint32_t section, uint32_t index)
{
	fault->what = what;
	fault->section = section;
	fault->index = index;
	return -1;
}

/* The text at a string offset, or NULL when it does not lie within the strings. */
static inline const unsigned char *ble_text(const unsigned char *data, const struct mamplus_ble_file *file, uint32_t offset, uint32_t *length)
{
	if ((uint64_t)offset + 2 > file->strings_size)
		return NULL;
	data += file->strings + offset;
	*length = get16(data);
	return *length <= BLE_TEXT_MAX && (uint64_t)offset + 2 + *length <= file->strings_size ? data + 2 : NULL;
}

static inline const unsigned char *ble_key(const unsigned char *data, const struct mamplus_ble_view *view, uint32_t index)
{
	return data + view->keys + (uint64_t)index * view->key_size;
}

/* As memcmp of two texts, the shorter one first where one begins with the other. */
static inline int ble_compare_texts(const unsigned char *one, uint32_t one_length, const unsigned char *two, uint32_t two_length)
{
	int order = memcmp(one, two, one_length < two_length ? one_length : two_length);

	return order ? order : (one_length > two_length) - (one_length < two_length);
}

/* Lay open the entry `index` (below view->count). 0, or -1 when its group or its text is not there. */
static inline int ble_entry_at(const unsigned char *data, const struct mamplus_ble_file *file, const struct mamplus_ble_view *view, uint32_t index, struct ble_entry *entry)
{
	entry->key = ble_key(data, view, index);
	entry->group_number = get32(data + view->groups + (uint64_t)index * 4);
	entry->id = get64(data + view->ids + (uint64_t)index * 8);
	entry->end = get32(data + view->ends + (uint64_t)index * 4);
	entry->text = NULL;
	entry->text_length = 0;
	if (entry->group_number >= file->group_count)
		return -1;
	entry->group = data + file->groups + (uint64_t)entry->group_number * MAMPLUS_BLE_GROUP_SIZE;
	if (!view->texts)
		return 0;
	entry->text = ble_text(data, file, get32(data + view->texts + (uint64_t)index * 4), &entry->text_length);
	return entry->text ? 0 : -1;
}

#endif
