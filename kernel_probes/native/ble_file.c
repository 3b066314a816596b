/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the file of a BLE generation and says whether it is one: docs/bundle-format.md.
 *
 * In C because ten million entries must be looked at before they are believed, and the same
 * in Python took 10 us each. Every offset is checked before it is followed.
 */
#include "ble_read.h"
#include "value_text.h"

#define MAGIC "MAMPBLE"
#define VERSION 2
#define KNOWN_FLAGS (MAMPLUS_BLE_MAY_SHRINK | MAMPLUS_BLE_DELTA)
#define NET_PREFIX 16
#define NET_PROTOCOL 17
#define REMARK_MAX 4096		/* MAX_TEXT_BYTES: reason, message, source, link */
#define NAME_MAX_LEN 253
#define LABEL_MAX 63
#define FEW_MAX MAMPLUS_BLE_FEW
#define FNV_OFFSET 0xcbf29ce484222325ULL
#define FNV_PRIME 0x100000001b3ULL

enum form { FORM_PLAIN, FORM_IP6, FORM_NET, FORM_DOMAIN, FORM_TEXT };

static const struct {
	uint16_t key_size;
	uint16_t form;
} shapes[MAMPLUS_BLE_SECTIONS + 1] = {
	[MAMPLUS_BLE_SHA256] = { 32, FORM_PLAIN },
	[MAMPLUS_BLE_IP4] = { 4, FORM_PLAIN },
	[MAMPLUS_BLE_IP6] = { 16, FORM_IP6 },
	[MAMPLUS_BLE_NET] = { 20, FORM_NET },
	[MAMPLUS_BLE_DOMAIN] = { 8, FORM_DOMAIN },
	[MAMPLUS_BLE_PATH] = { 8, FORM_TEXT },
	[MAMPLUS_BLE_PACKAGE] = { 8, FORM_TEXT },
	[MAMPLUS_BLE_USER] = { 8, FORM_TEXT },
	[MAMPLUS_BLE_GROUP] = { 8, FORM_TEXT },
	[MAMPLUS_BLE_USB] = { 8, FORM_TEXT },
	[MAMPLUS_BLE_TLS] = { 32, FORM_PLAIN },
	[MAMPLUS_BLE_YARA] = { 8, FORM_TEXT },
	[MAMPLUS_BLE_SIGMA] = { 8, FORM_TEXT },
};

static const unsigned char mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };

static int has_texts(uint16_t section)
{
	return shapes[section].form == FORM_DOMAIN || shapes[section].form == FORM_TEXT;
}

static uint64_t aligned(uint64_t offset)
{
	return (offset + 7) & ~7ULL;
}

/* Where the column after one of `count` x `size` bytes begins; counts have 32 bits, so nothing overflows. */
static uint64_t after(uint64_t offset, uint64_t count, uint64_t size)
{
	return aligned(offset + count * size);
}

/* The columns of a section lie where they must when it begins at `offset`; returns where the next one does, 0: not so. */
static uint64_t lay_out(const struct mamplus_ble_view *view, uint64_t offset)
{
	uint64_t groups = after(offset, view->count, view->key_size);
	uint64_t ids = after(groups, view->count, 4);
	uint64_t ends = after(ids, view->count, 8);
	uint64_t texts = after(ends, view->count, 4);
	int with_texts = has_texts(view->section);

	if (view->keys != offset || view->groups != groups || view->ids != ids || view->ends != ends ||
	    view->texts != (with_texts ? texts : 0))
		return 0;
	return with_texts ? after(texts, view->count, 4) : texts;
}

static void read_view(const unsigned char *at, struct mamplus_ble_view *view)
{
	view->section = get16(at);
	view->key_size = get16(at + 2);
	view->count = get32(at + 4);
	view->keys = get64(at + 8);
	view->groups = get64(at + 16);
	view->ids = get64(at + 24);
	view->ends = get64(at + 32);
	view->texts = get64(at + 40);
}

static int read_directory(const unsigned char *data, struct mamplus_ble_file *file, struct mamplus_ble_fault *fault)
{
	uint64_t at = MAMPLUS_BLE_HEADER, next = at + (uint64_t)file->sections * MAMPLUS_BLE_DIRECTORY, entries = 0;
	uint32_t last = 0;

	for (uint32_t i = 0; i < file->sections; i++, at += MAMPLUS_BLE_DIRECTORY) {
		struct mamplus_ble_view *view = &file->view[i];

		read_view(data + at, view);
		if (view->section <= last || view->section > MAMPLUS_BLE_SECTIONS)
			return ble_fail(fault, "order of the sections", view->section, 0);
		if (!view->count || view->key_size != shapes[view->section].key_size)
			return ble_fail(fault, "section", view->section, 0);
		if (shapes[view->section].form == FORM_TEXT && view->count > FEW_MAX)
			return ble_fail(fault, "number of entries of a kind that is searched one by one", view->section, 0);
		next = lay_out(view, next);
		if (!next)
			return ble_fail(fault, "section offset", view->section, 0);
		last = view->section;
		entries += view->count;
	}
	if (entries != file->entries || next != file->groups || (!(file->flags & MAMPLUS_BLE_DELTA) && file->total != entries))
		return ble_fail(fault, "number of entries", 0, 0);
	return 0;
}

/* Only a delta grows out of an earlier list. */
static int is_based(const struct mamplus_ble_file *file)
{
	return file->flags & MAMPLUS_BLE_DELTA ? file->before && file->before < file->number : !file->before;
}

int mamplus_ble_open(const unsigned char *data, uint64_t size, struct mamplus_ble_file *file, struct mamplus_ble_fault *fault)
{
	memset(file, 0, sizeof(*file));
	if (size < MAMPLUS_BLE_HEADER || memcmp(data, MAGIC, 8) || get32(data + 8) != VERSION)
		return ble_fail(fault, "header", 0, 0);
	file->flags = get32(data + 12);
	file->number = get64(data + 16);
	file->created_s = get64(data + 24);
	file->entries = get32(data + 32);
	file->sections = get32(data + 36);
	file->groups = get64(data + 40);
	file->group_count = get32(data + 48);
	file->audience = get32(data + 52);
	file->strings = get64(data + 56);
	file->strings_size = get64(data + 64);
	file->before = get64(data + 72);
	memcpy(file->root, data + 80, sizeof(file->root));
	file->total = get32(data + 112);
	/* The kernel keeps number and side in one word; a number of 0 there means "none". */
	if ((file->flags & ~(uint32_t)KNOWN_FLAGS) || !file->number || file->number >> 63 || !is_based(file))
		return ble_fail(fault, "header", 0, 0);
	if (file->sections > MAMPLUS_BLE_SECTIONS ||
	    MAMPLUS_BLE_HEADER + file->sections * MAMPLUS_BLE_DIRECTORY > size)
		return ble_fail(fault, "number of sections", 0, 0);
	if (read_directory(data, file, fault))
		return -1;
	if (file->strings != file->groups + (uint64_t)file->group_count * MAMPLUS_BLE_GROUP_SIZE || file->strings > size ||
	    file->strings_size != size - file->strings || file->strings_size < 2 || file->strings_size >> 32)
		return ble_fail(fault, "length", 0, 0);
	/* Who writes a list anew points all that is empty at offset 0. */
	return get16(data + file->strings) ? ble_fail(fault, "first text, which is empty,", 0, 0) : 0;
}

/* RFC 3629: how many bytes the character at `at` has, 0 when it is none. */
static uint32_t utf8(const unsigned char *at, uint32_t left)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	uint32_t size = at[0] < 0x80 ? 1 : at[0] >> 5 == 6 ? 2 : at[0] >> 4 == 14 ? 3 : at[0] >> 3 == 30 ? 4 : 0;
	uint32_t value;

	if (size < 2 || size > left)
		return size == 1;
	value = at[0] & (0x7f >> size);
	for (uint32_t i = 1; i < size; i++) {
		if (at[i] >> 6 != 2)
			return 0;
		value = value << 6 | (at[i] & 0x3f);
	}
	return value >= least[size] && value <= 0x10ffff && value >> 11 != 0x1b ? size : 0;
}

static int is_utf8(const unsigned char *text, uint32_t length)
{
	for (uint32_t at = 0, step; at < length; at += step) {
		step = utf8(text + at, length - at);
		if (!step)
			return 0;
	}
	return 1;
}

/* The one group of what a delta takes off the list: verdict 0, and nothing else to say. */
static int is_withdrawal(const struct mamplus_ble_file *file, const unsigned char *group)
{
	static const unsigned char withdrawn[MAMPLUS_BLE_GROUP_SIZE] = { 0, 1 };

	return (file->flags & MAMPLUS_BLE_DELTA) && !memcmp(group, withdrawn, sizeof(withdrawn));
}

static int check_groups(const unsigned char *data, const struct mamplus_ble_file *file, struct mamplus_ble_fault *fault)
{
	uint32_t length;

	for (uint32_t i = 0; i < file->group_count; i++) {
		const unsigned char *group = data + file->groups + (uint64_t)i * MAMPLUS_BLE_GROUP_SIZE;

		if (is_withdrawal(file, group))
			continue;
		if (group[0] < 1 || group[0] > 3 || group[1] < 1 || group[1] > 5 || group[2] > 100)
			return ble_fail(fault, "verdict, severity or confidence", 0, i);
		for (uint32_t at = 4; at < 20; at += 4) {
			const unsigned char *text = ble_text(data, file, get32(group + at), &length);

			if (!text || length > REMARK_MAX || !is_utf8(text, length))
				return ble_fail(fault, "text of a group", 0, i);
		}
	}
	return 0;
}

static int is_label_end(unsigned char byte)
{
	return (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte == '_';
}

/* Lower-case A-labels, two at least, the last one no number: what canonical() of entry.py makes. */
static int is_name(const unsigned char *name, uint32_t length)
{
	uint32_t label = 0, labels = 1, digits = 0;

	if (length > NAME_MAX_LEN)
		return 0;
	for (uint32_t i = 0; i < length; i++) {
		if (name[i] == '.') {
			if (!label || !is_label_end(name[i - 1]))
				return 0;
			label = digits = 0;
			labels++;
			continue;
		}
		if (!is_label_end(name[i]) && (name[i] != '-' || !label))
			return 0;
		label++;
		digits += name[i] >= '0' && name[i] <= '9';
		if (label > LABEL_MAX)
			return 0;
	}
	return label && is_label_end(name[length - 1]) && labels >= 2 && digits < label;
}

uint64_t mamplus_ble_name_hash(const unsigned char *name, uint32_t length)
{
	uint64_t hash = FNV_OFFSET;

	while (length)
		hash = (hash ^ name[--length]) * FNV_PRIME;
	return hash;
}

uint64_t mamplus_ble_text_hash(const unsigned char *text, uint32_t length)
{
	uint64_t hash = FNV_OFFSET;

	for (uint32_t i = 0; i < length; i++)
		hash = (hash ^ text[i]) * FNV_PRIME;
	return hash;
}

/* A package is keyed by its name, so that one search finds every range of versions of it. */
static uint32_t hashed_part(uint16_t section, const unsigned char *text, uint32_t length)
{
	return section == MAMPLUS_BLE_PACKAGE ? mamplus_package_name(text, length) : length;
}

static int fits_text(uint16_t section, const unsigned char *key, const unsigned char *text, uint32_t length)
{
	uint64_t hash;
	int alone;

	if (shapes[section].form == FORM_TEXT)
		return is_utf8(text, length) && mamplus_text_fits(section, text, length) &&
		       mamplus_ble_text_hash(text, hashed_part(section, text, length)) == get64(key);
	alone = length && text[0] == '=';
	hash = mamplus_ble_name_hash(text + alone, length - alone);
	return is_name(text + alone, length - alone) && (alone ? ~hash : hash) == get64(key);
}

static int bits_are_zero(const unsigned char *addr, uint32_t from)
{
	uint32_t byte = from / 8;

	if (byte < 16 && (addr[byte] & (0xff >> (from % 8))))
		return 0;
	for (byte++; byte < 16; byte++)
		if (addr[byte])
			return 0;
	return 1;
}

static int is_network(const unsigned char *key)
{
	uint8_t protocol = key[NET_PROTOCOL];

	return key[NET_PREFIX] <= 128 && (protocol == 0 || protocol == 6 || protocol == 17) &&
	       bits_are_zero(key, key[NET_PREFIX]);
}

static int fits_form(uint16_t form, const unsigned char *key)
{
	if (form == FORM_IP6)
		return memcmp(key, mapped, sizeof(mapped)) != 0;
	return form != FORM_NET || is_network(key);
}

/* Keys rise; two texts may share a hash, then the texts rise. */
static int rises(const unsigned char *data, const struct mamplus_ble_file *file, const struct mamplus_ble_view *view, uint32_t index)
{
	const unsigned char *key = ble_key(data, view, index), *one, *two;
	int order = index ? memcmp(key - view->key_size, key, view->key_size) : -1;
	uint32_t one_length, two_length;

	if (order || !view->texts)
		return order < 0;
	one = ble_text(data, file, get32(data + view->texts + (uint64_t)(index - 1) * 4), &one_length);
	two = ble_text(data, file, get32(data + view->texts + (uint64_t)index * 4), &two_length);
	return one && two && ble_compare_texts(one, one_length, two, two_length) < 0;
}

/* What is withdrawn has no number and no end; all else has a number. */
static int is_numbered(const struct ble_entry *entry)
{
	if (!entry->group[0])
		return !entry->id && !entry->end;
	return entry->id && !(entry->id >> 63);
}

int ble_check_entries(const unsigned char *data, const struct mamplus_ble_file *file, const struct mamplus_ble_view *view,
		      uint32_t first, uint32_t end, struct mamplus_ble_fault *fault)
{
	uint16_t form = shapes[view->section].form;

	for (uint32_t i = first; i < end; i++) {
		struct ble_entry entry;

		if (!rises(data, file, view, i))
			return ble_fail(fault, "order", view->section, i);
		if (ble_entry_at(data, file, view, i, &entry) || !is_numbered(&entry))
			return ble_fail(fault, "entry", view->section, i);
		if (!fits_form(form, entry.key))
			return ble_fail(fault, "key", view->section, i);
		if (view->texts && !fits_text(view->section, entry.key, entry.text, entry.text_length))
			return ble_fail(fault, "text", view->section, i);
	}
	return 0;
}

int ble_check_head(const unsigned char *data, const struct mamplus_ble_file *file, struct mamplus_ble_fault *fault)
{
	const unsigned char *text;
	uint32_t length;

	if (check_groups(data, file, fault))
		return -1;
	text = ble_text(data, file, file->audience, &length);
	return text && is_utf8(text, length) ? 0 : ble_fail(fault, "audience", 0, 0);
}

int mamplus_ble_check(const unsigned char *data, uint64_t size, struct mamplus_ble_fault *fault)
{
	struct mamplus_ble_file file;

	if (mamplus_ble_open(data, size, &file, fault) || ble_check_head(data, &file, fault))
		return -1;
	for (uint32_t i = 0; i < file.sections; i++)
		if (ble_check_entries(data, &file, &file.view[i], 0, file.view[i].count, fault))
			return -1;
	return 0;
}
