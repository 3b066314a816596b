/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "ble_read.h"
#include "list_model.h"
#include "value_text.h"

#define ENTRIES 128
#define GROUPS 16
#define TEXT 120
#define STRINGS 2048

struct entry {
	uint16_t section;
	uint16_t text_length;
	uint32_t group;
	uint32_t end;
	uint64_t id;
	unsigned char key[32];
	unsigned char text[TEXT];
};

struct model {
	unsigned char header[MAMPLUS_BLE_HEADER];
	uint32_t count, groups, strings;
	struct entry entry[ENTRIES];
	unsigned char group[GROUPS * MAMPLUS_BLE_GROUP_SIZE];
	unsigned char string[STRINGS];
};

static const unsigned char key_sizes[] = { 0, 32, 4, 16, 20, 8, 8, 8, 8, 8, 8, 32, 8, 8 };
static const char *const texts[] = {
	"", "bad.example", "=bad.example", "a.bad.example", "/usr/bin/nc", "/home/*/.cache/**", "/opt/**/x", "/tmp/[a-f]?", "/tmp/[!x]\\x80",
	"deb:openssl<3.0.11-1~deb12u2", "rpm:openssl>=1:3.0,<1:3.0.7-24", "deb:openssl", "deb:openssl=3", "eve", "uid:1001", "gid:27",
	"0781:5581", "0781:*:ABC", "rule a { condition: true }", "detection:",
};
static const char bits[] = "/*?[]!-\\x80.=:<>,~^ab01\xc3\xbc\xff";

static unsigned int state;

static unsigned int drawn(unsigned int below)
{
	state = state * 1664525U + 1013904223U;
	return (state >> 8) % below;
}

static int is_text(uint16_t section)
{
	return section >= MAMPLUS_BLE_DOMAIN && section <= MAMPLUS_BLE_SIGMA && section != MAMPLUS_BLE_TLS;
}

static void put16(unsigned char *at, uint16_t value) { value = htole16(value); memcpy(at, &value, sizeof(value)); }
static void put32(unsigned char *at, uint32_t value) { value = htole32(value); memcpy(at, &value, sizeof(value)); }
static void put64(unsigned char *at, uint64_t value) { value = htole64(value); memcpy(at, &value, sizeof(value)); }

static int take_apart(const uint8_t *data, size_t size, struct model *model)
{
	struct mamplus_ble_fault fault;
	struct mamplus_ble_file file;

	if (mamplus_ble_open(data, size, &file, &fault))
		return -1;
	memset(model, 0, sizeof(*model));
	memcpy(model->header, data, sizeof(model->header));
	for (uint32_t s = 0; s < file.sections; s++)
		for (uint32_t i = 0; i < file.view[s].count && model->count < ENTRIES; i++) {
			struct entry *to = &model->entry[model->count];
			struct ble_entry from;

			if (ble_entry_at(data, &file, &file.view[s], i, &from) || from.text_length > TEXT)
				continue;
			*to = (struct entry){ .section = file.view[s].section, .group = from.group_number, .end = from.end,
					      .id = from.id, .text_length = (uint16_t)from.text_length };
			memcpy(to->key, from.key, file.view[s].key_size);
			if (from.text)
				memcpy(to->text, from.text, from.text_length);
			model->count++;
		}
	model->groups = file.group_count < GROUPS ? file.group_count : GROUPS;
	memcpy(model->group, data + file.groups, model->groups * MAMPLUS_BLE_GROUP_SIZE);
	model->strings = file.strings_size < STRINGS ? (uint32_t)file.strings_size : STRINGS;
	memcpy(model->string, data + file.strings, model->strings);
	return 0;
}

static void change_text(struct entry *entry)
{
	unsigned int at = entry->text_length ? drawn(entry->text_length) : 0;
	const char *text = texts[drawn(sizeof(texts) / sizeof(*texts))];

	switch (drawn(4)) {
	case 0:
		entry->text_length = (uint16_t)strlen(text);
		memcpy(entry->text, text, entry->text_length);
		break;
	case 1:
		if (entry->text_length < TEXT) {
			memmove(entry->text + at + 1, entry->text + at, entry->text_length - at);
			entry->text[at] = (unsigned char)bits[drawn(sizeof(bits) - 1)];
			entry->text_length++;
		}
		break;
	case 2:
		if (entry->text_length) {
			memmove(entry->text + at, entry->text + at + 1, entry->text_length - at - 1);
			entry->text_length--;
		}
		break;
	default:
		entry->text[at] = (unsigned char)drawn(256);
	}
}

static void change_entry(struct model *model)
{
	struct entry *entry = &model->entry[drawn(model->count)];
	unsigned int kind = drawn(8);

	if (kind == 0)
		entry->group = drawn(model->groups + 1);
	else if (kind == 1)
		entry->id = drawn(4) ? drawn(100) : ~0ULL;
	else if (kind == 2)
		entry->end = drawn(2) ? drawn(100) : ~0U;
	else if (kind == 3)
		*entry = model->entry[drawn(model->count)];
	else if (kind == 4)
		entry->section = (uint16_t)(1 + drawn(13));
	else if (is_text(entry->section))
		change_text(entry);
	else
		entry->key[drawn(key_sizes[entry->section])] = (unsigned char)drawn(256);
}

static void add_entry(struct model *model)
{
	struct entry *entry;

	if (model->count == ENTRIES)
		return;
	entry = &model->entry[model->count++];
	*entry = (struct entry){ .section = (uint16_t)(1 + drawn(13)), .id = 1 + drawn(1000), .group = drawn(model->groups + 1) };
	for (uint32_t i = 0; i < 32; i++)
		entry->key[i] = (unsigned char)(drawn(2) ? 0 : drawn(256));
	if (is_text(entry->section))
		change_text(entry);
}

static void change_group(struct model *model)
{
	unsigned char *group;

	if (model->groups < GROUPS && !drawn(3)) {
		group = model->group + model->groups++ * MAMPLUS_BLE_GROUP_SIZE;
		memset(group, 0, MAMPLUS_BLE_GROUP_SIZE);
		group[0] = (unsigned char)drawn(4);
		group[1] = (unsigned char)(1 + drawn(5));
	} else if (model->groups) {
		model->group[drawn(model->groups * MAMPLUS_BLE_GROUP_SIZE)] = (unsigned char)drawn(drawn(2) ? 5 : 256);
	}
}

static void change(struct model *model)
{
	switch (drawn(8)) {
	case 0:
		change_group(model);
		break;
	case 1:
		add_entry(model);
		break;
	case 2:
		if (model->count)
			model->entry[drawn(model->count)] = model->entry[--model->count];
		break;
	case 3:
		model->header[8 + drawn(MAMPLUS_BLE_HEADER - 8)] = (unsigned char)drawn(256);
		break;
	default:
		if (model->count)
			change_entry(model);
	}
}

static int compare(const void *one_, const void *two_)
{
	const struct entry *one = one_, *two = two_;
	int order = one->section != two->section ? one->section - two->section :
		    memcmp(one->key, two->key, key_sizes[one->section]);

	if (order || !is_text(one->section))
		return order;
	return ble_compare_texts(one->text, one->text_length, two->text, two->text_length);
}

/* Keys of texts are their hashes again. */
static void mend_key(struct entry *entry)
{
	const unsigned char *text = entry->text;
	uint32_t length = entry->text_length;
	uint64_t hash;

	if (!is_text(entry->section))
		return;
	if (entry->section == MAMPLUS_BLE_DOMAIN && length && text[0] == '=')
		hash = ~mamplus_ble_name_hash(text + 1, length - 1);
	else if (entry->section == MAMPLUS_BLE_DOMAIN)
		hash = mamplus_ble_name_hash(text, length);
	else
		hash = mamplus_ble_text_hash(text, entry->section == MAMPLUS_BLE_PACKAGE ? mamplus_package_name(text, length) : length);
	put64(entry->key, hash);
}

static void mend(struct model *model)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < model->count; i++)
		mend_key(&model->entry[i]);
	qsort(model->entry, model->count, sizeof(*model->entry), compare);
	for (uint32_t i = 0; i < model->count; i++)
		if (!kept || compare(&model->entry[kept - 1], &model->entry[i]))
			model->entry[kept++] = model->entry[i];
	model->count = kept;
}

struct out {
	uint8_t *data;
	size_t at;
	size_t room;
};

static void put(struct out *out, const void *data, size_t size)
{
	if (out->at + size <= out->room)
		memcpy(out->data + out->at, data, size);
	out->at += size;
}

static void pad(struct out *out)
{
	static const unsigned char zeros[8];

	put(out, zeros, -out->at & 7);
}

static void put_section(struct out *out, const struct entry *first, uint32_t count, unsigned char *directory, unsigned char *strings,
			uint32_t *strings_at)
{
	unsigned char value[8];

	put16(directory, first->section);
	put16(directory + 2, key_sizes[first->section]);
	put32(directory + 4, count);
	put64(directory + 8, out->at);
	for (uint32_t i = 0; i < count; i++)
		put(out, first[i].key, key_sizes[first->section]);
	pad(out);
	put64(directory + 16, out->at);
	for (uint32_t i = 0; i < count; i++)
		put32(value, first[i].group), put(out, value, 4);
	pad(out);
	put64(directory + 24, out->at);
	for (uint32_t i = 0; i < count; i++)
		put64(value, first[i].id), put(out, value, 8);
	put64(directory + 32, out->at);
	for (uint32_t i = 0; i < count; i++)
		put32(value, first[i].end), put(out, value, 4);
	pad(out);
	if (!is_text(first->section))
		return;
	put64(directory + 40, out->at);
	for (uint32_t i = 0; i < count; i++) {
		put32(value, *strings_at), put(out, value, 4);
		put16(strings + *strings_at, first[i].text_length);
		memcpy(strings + *strings_at + 2, first[i].text, first[i].text_length);
		*strings_at += 2U + first[i].text_length;
	}
	pad(out);
}

static size_t put_together(struct model *model, uint8_t *data, size_t room)
{
	static unsigned char strings[STRINGS + ENTRIES * (TEXT + 2)];
	unsigned char directory[MAMPLUS_BLE_SECTIONS * MAMPLUS_BLE_DIRECTORY] = { 0 };
	uint32_t sections = 0, strings_at = model->strings, first, last;
	struct out out = { .data = data, .room = room };

	for (first = 0; first < model->count; first = last, sections++)
		for (last = first; last < model->count && model->entry[last].section == model->entry[first].section; last++)
			;
	if (sections > MAMPLUS_BLE_SECTIONS)
		return 0;
	memcpy(strings, model->string, model->strings);
	out.at = MAMPLUS_BLE_HEADER + sections * MAMPLUS_BLE_DIRECTORY;
	sections = 0;
	for (first = 0; first < model->count; first = last) {
		for (last = first; last < model->count && model->entry[last].section == model->entry[first].section; last++)
			;
		put_section(&out, model->entry + first, last - first, directory + sections++ * MAMPLUS_BLE_DIRECTORY, strings, &strings_at);
	}
	put32(model->header + 32, model->count);
	put32(model->header + 36, sections);
	put64(model->header + 40, out.at);
	put32(model->header + 48, model->groups);
	put(&out, model->group, model->groups * MAMPLUS_BLE_GROUP_SIZE);
	put64(model->header + 56, out.at);
	put64(model->header + 64, strings_at);
	put(&out, strings, strings_at);
	if (!(get32(model->header + 12) & MAMPLUS_BLE_DELTA))
		put32(model->header + 112, model->count);
	if (out.at > room)
		return 0;
	memcpy(data, model->header, MAMPLUS_BLE_HEADER);
	memcpy(data + MAMPLUS_BLE_HEADER, directory, sections * MAMPLUS_BLE_DIRECTORY);
	return out.at;
}

size_t mutated_list(const uint8_t *data, size_t size, uint8_t *out, size_t room, unsigned int seed)
{
	static struct model model;
	unsigned int changes;

	state = seed;
	if (take_apart(data, size, &model))
		return 0;
	for (changes = 1 + drawn(4); changes; changes--)
		change(&model);
	if (drawn(20))
		mend(&model);
	return put_together(&model, out, room);
}
