/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Feeds mutated lists to everything in C that reads them, under the address and undefined sanitizers.
 *
 * An input is the size of a list (u32), the list, and a delta to it. What opens and passes the check must be
 * in bounds, sorted, findable; the table builder must hold what the list says; the list merged with its delta
 * must say what both together say, and have the state root and count that the delta alone leads to.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ble_find.h"
#include "ble_limits.h"
#include "ble_merge.h"
#include "ble_stack.h"
#include "list_model.h"
#include "path_globs.h"
#include "table_words.h"
#include "value_text.h"

#define MUST(claim) ((claim) ? (void)0 : failed(#claim, __LINE__))

static void failed(const char *claim, int line)
{
	fprintf(stderr, "list_fuzz.c:%d: not so: %s\n", line, claim);
	abort();
}

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

/* --- one file ------------------------------------------------------------------------------ */

static int is_good(const unsigned char *data, uint64_t size, struct mamplus_ble_file *file)
{
	struct mamplus_ble_fault fault = { 0 };
	int opened = !mamplus_ble_open(data, size, file, &fault), checked;

	MUST(opened || fault.what);
	checked = !mamplus_ble_check(data, size, &fault);
	MUST(opened || !checked);
	MUST(checked || fault.what);
	return checked;
}

static void look_at_text(const struct mamplus_ble_view *view, const struct ble_entry *entry)
{
	if (view->section == MAMPLUS_BLE_DOMAIN)
		return;
	MUST(mamplus_text_fits(view->section, entry->text, entry->text_length));
	if (view->section == MAMPLUS_BLE_PACKAGE)
		MUST(mamplus_package_name(entry->text, entry->text_length) <= entry->text_length);
}

static void look_at_entries(const struct ble_part *part)
{
	for (uint32_t s = 0; s < part->file.sections; s++) {
		const struct mamplus_ble_view *view = &part->file.view[s];
		uint32_t from = 0;

		for (uint32_t i = 0; i < view->count; i++) {
			struct ble_entry entry, found;

			MUST(!ble_entry_at(part->data, &part->file, view, i, &entry));
			MUST(!i || memcmp(entry.key - view->key_size, entry.key, view->key_size) <= 0);
			MUST(ble_find(part, view, &entry, &from, &found) == i);
			MUST(found.key == entry.key && found.id == entry.id);
			if (view->texts)
				look_at_text(view, &entry);
		}
	}
}

static void look_for_ids(const struct mamplus_ble_piece *piece, const struct ble_part *part)
{
	for (uint32_t s = 0, slot = 0; s < part->file.sections; s++)
		for (uint32_t i = 0; i < part->file.view[s].count; i++, slot++) {
			uint64_t id = get64(part->data + part->file.view[s].ids + (uint64_t)i * 8);
			int64_t found = mamplus_ble_find_id(piece, id);

			MUST(found >= -1 && found <= (int64_t)slot && (found >= 0 || (part->file.flags & MAMPLUS_BLE_DELTA)));
		}
}

/* --- patterns ------------------------------------------------------------------------------ */

static int has_wildcard(const unsigned char *text, uint32_t length)
{
	enum mamplus_path_item item;
	unsigned char byte;
	uint32_t at = 0;

	while ((item = mamplus_path_next(text, length, &at, &byte)) == MAMPLUS_PATH_BYTE)
		;
	return item != MAMPLUS_PATH_END;
}

static void look_at_patterns(const struct ble_part *part)
{
	const struct mamplus_ble_view *view = ble_view(part, MAMPLUS_BLE_PATH);
	struct mamplus_globs *globs = mamplus_globs_new();
	uint32_t found[8], wanted = 0;
	int added;

	if (view) {
		added = mamplus_globs_add(globs, part->data + part->file.strings, part->file.strings_size, part->data + view->texts,
					  view->count, 0);
		for (uint32_t i = 0; i < view->count; i++) {
			struct ble_entry entry;

			MUST(!ble_entry_at(part->data, &part->file, view, i, &entry));
			wanted += (uint32_t)has_wildcard(entry.text, entry.text_length);
			for (uint32_t j = mamplus_globs_ask(globs, entry.text, entry.text_length, found, 8); j--;)
				MUST(j >= 8 || found[j] < view->count);
		}
		MUST(added == (int)wanted);
		MUST(mamplus_globs_bytes(globs) > 0);
	}
	mamplus_globs_free(globs);
}

static void look_at_versions(const struct ble_part *part)
{
	const struct mamplus_ble_view *view = ble_view(part, MAMPLUS_BLE_PACKAGE);
	struct ble_entry one, two;

	for (uint32_t i = 1; view && i < view->count; i++)
		for (uint32_t scheme = MAMPLUS_VERSION_DEB; scheme <= MAMPLUS_VERSION_RPM; scheme++) {
			MUST(!ble_entry_at(part->data, &part->file, view, i - 1, &one));
			MUST(!ble_entry_at(part->data, &part->file, view, i, &two));
			MUST(mamplus_version_order(scheme, one.text, one.text_length, two.text, two.text_length) ==
			     -mamplus_version_order(scheme, two.text, two.text_length, one.text, one.text_length));
			MUST(!mamplus_version_order(scheme, one.text, one.text_length, one.text, one.text_length));
		}
}

/* --- tables -------------------------------------------------------------------------------- */

static struct mamplus_columns columns_of(const struct ble_part *part, const struct mamplus_ble_view *view, uint8_t *verdicts)
{
	for (uint32_t g = 0; g < part->file.group_count; g++)
		verdicts[g] = part->data[part->file.groups + (uint64_t)g * MAMPLUS_BLE_GROUP_SIZE];
	return (struct mamplus_columns){
		.keys = part->data + view->keys, .groups = part->data + view->groups, .ends = part->data + view->ends,
		.texts = view->texts ? part->data + view->texts : NULL, .strings = part->data + part->file.strings,
		.strings_size = part->file.strings_size, .verdicts = verdicts, .group_count = part->file.group_count,
		.count = view->count, .section = view->section,
	};
}

/* As a program in the kernel asks: the filter, then the first bucket, the second and the stash. */
static uint32_t asked(const struct mamplus_build *build, uint64_t identity)
{
	uint64_t spread = mamplus_spread(salt_of(build), identity), *block = block_of(build, spread);
	uint64_t *first = block + mamplus_first(spread, build->block_buckets) * BUCKET_WORDS;
	uint64_t *second = block + mamplus_second(spread, build->block_buckets) * BUCKET_WORDS;
	uint64_t *stash = build->words + (size_t)build->blocks * build->block_buckets * BUCKET_WORDS;
	uint64_t *places[] = { first, second, stash };

	if (mamplus_near(spread) & ~near_of(build)[filter_at(build, spread)] ||
	    mamplus_far(spread) & ~far_of(build)[filter_at(build, spread)])
		return 0;
	for (int p = 0; p < 3; p++)
		for (uint32_t i = 0; i < BUCKET_WORDS; i++)
			if (places[p][i] && identity_in(places[p][i]) == identity)
				return places[p][i] & MAMPLUS_VERDICT_MASK;
	return 0;
}

static int filled(struct mamplus_build *build, const struct mamplus_columns *columns)
{
	int error = mamplus_build_begin(build);

	if (!error)
		error = mamplus_build_scatter(build, columns);
	if (error) {
		mamplus_build_drop(build);
		return error;
	}
	return mamplus_build_settle(build);
}

/* A table with room for `more` keys besides those of `columns`, which are in it; the caller frees its words. */
static struct mamplus_build table_of(const struct mamplus_columns *columns, uint32_t more)
{
	uint32_t mask_bits = columns->section == MAMPLUS_BLE_NET ? 3 : 0;
	size_t size;

	for (uint32_t buckets = (columns->count + more) / 4 + 1;; buckets += 4) {
		struct mamplus_build build = { .blocks = 1, .block_buckets = buckets, .threads = 1, .mask_bits = mask_bits,
					       .salt = { 0x5a17, 0xdeadbeefcafe } };

		MUST(buckets < columns->count + more + 64);
		size = mamplus_build_words(1, buckets, build.mask_bits) * sizeof(*build.words);
		build.words = aligned_alloc(64, size);
		memset(build.words, 0, size);
		if (!filled(&build, columns))
			return build;
		free(build.words);
	}
}

static uint64_t identity_of(const struct mamplus_build *build, const struct mamplus_columns *columns, uint32_t index)
{
	struct mamplus_build aside = *build;	/* it counts */
	uint64_t identity = 0;

	MUST(!make_identities(&aside, columns, index, 1, &identity));
	return identity;
}

static void look_at_table(const struct ble_part *part, const struct mamplus_ble_view *view)
{
	uint8_t *verdicts = malloc(part->file.group_count + 1);
	struct mamplus_columns columns = columns_of(part, view, verdicts);
	struct mamplus_build build = table_of(&columns, 0);

	for (uint32_t i = 0; i < view->count; i++) {
		uint64_t identity = identity_of(&build, &columns, i);
		struct ble_entry entry;

		MUST(!ble_entry_at(part->data, &part->file, view, i, &entry));
		MUST(!identity || asked(&build, identity) == entry.group[0]);
	}
	free(build.words);
	free(verdicts);
}

/* The table of a list, patched with what list and delta say together of the delta's keys. */
static void look_at_patch(const struct ble_part *base, const struct ble_part *delta, const struct mamplus_ble_view *view,
			  const uint8_t *resolved, const uint32_t *ends)
{
	uint8_t *verdicts = malloc(base->file.group_count + 1), *changed = malloc(delta->file.group_count + 1);
	const struct mamplus_ble_view *old = ble_view(base, view->section);
	struct mamplus_columns changes = columns_of(delta, view, changed), columns = { .section = view->section };
	struct mamplus_build build;

	if (old)
		columns = columns_of(base, old, verdicts);
	build = table_of(&columns, view->count);
	if (!mamplus_build_set(&build, &changes, resolved, (const unsigned char *)ends))
		for (uint32_t i = 0; i < view->count; i++) {
			uint64_t identity = identity_of(&build, &changes, i);

			MUST(!identity || asked(&build, identity) == resolved[i]);
		}
	free(build.words);
	free(verdicts);
	free(changed);
}

static void look_at_tables(const struct ble_part *part)
{
	if (part->file.flags & MAMPLUS_BLE_DELTA)
		return;
	for (uint32_t s = 0; s < part->file.sections; s++)
		if (key_bytes(part->file.view[s].section))
			look_at_table(part, &part->file.view[s]);
}

static void look_at_limits(const struct mamplus_ble_piece *piece)
{
	static const struct mamplus_ble_limits limits = { .entries = 20, .verdicts = 6, .sections = 0x3e, .life_s = 100, .prefix4 = 8,
							  .prefix6 = 19 };
	struct mamplus_ble_fault fault;

	(void)mamplus_ble_within(piece->data, piece->size, &limits, &fault);
}

/* --- a list and its delta ------------------------------------------------------------------ */

struct merged {
	int fd;
	unsigned char *data;
	off_t size;
};

static void read_back(struct merged *merged)
{
	merged->size = lseek(merged->fd, 0, SEEK_END);
	MUST(merged->size > 0);
	merged->data = malloc((size_t)merged->size);
	MUST(pread(merged->fd, merged->data, (size_t)merged->size, 0) == merged->size);
}

static void say_the_same(const struct mamplus_ble_piece *parts, const struct mamplus_ble_piece *merged,
			 const struct ble_part *asked_part, const struct ble_part *patched)
{
	const uint32_t layers[2] = { 1, 1 };
	struct mamplus_ble_stack both = { .parts = parts, .layers = layers, .count = 2 };
	struct mamplus_ble_stack one = { .parts = merged, .layers = layers, .count = 1 };
	struct mamplus_ble_piece ask = { .data = asked_part->data, .size = asked_part->size };
	struct mamplus_ble_fault fault;

	for (uint32_t s = 0; s < asked_part->file.sections; s++) {
		const struct mamplus_ble_view *view = &asked_part->file.view[s];
		unsigned char *verdicts = calloc(view->count, 2);
		uint32_t *ends = calloc(view->count, 8);

		MUST(!mamplus_ble_verdicts(&both, &ask, view->section, verdicts, ends, &fault));
		MUST(!mamplus_ble_verdicts(&one, &ask, view->section, verdicts + view->count, ends + view->count, &fault));
		MUST(!memcmp(verdicts, verdicts + view->count, view->count));
		MUST(!memcmp(ends, ends + view->count, (size_t)view->count * 4));
		if (patched && key_bytes(view->section))
			look_at_patch(patched, asked_part, view, verdicts, ends);
		free(verdicts);
		free(ends);
	}
}

/* What `make` makes of the two is a delta to the first that leads to this root and count. */
static void lead_there(const struct mamplus_ble_piece *pair,
		       int (*make)(const struct mamplus_ble_piece *, int, struct mamplus_ble_fault *), const unsigned char *wanted,
		       int64_t total)
{
	struct merged made = { .fd = memfd_create("made", MFD_CLOEXEC) };
	struct mamplus_ble_fault fault = { 0 };
	struct mamplus_ble_piece piece;
	unsigned char root[32];
	struct ble_part base;
	int64_t count;

	MUST(!ble_open_part(pair, &base, &fault));
	MUST(!mamplus_ble_root(pair, root, &fault));
	count = base.file.entries;
	if (!make(pair, made.fd, &fault)) {
		read_back(&made);
		piece = (struct mamplus_ble_piece){ .data = made.data, .size = (uint64_t)made.size };
		MUST(!mamplus_ble_check(made.data, piece.size, &fault));
		MUST(!mamplus_ble_after(pair, 1, &piece, root, &count, &fault));
		MUST(!memcmp(root, wanted, 32) && count == total);
		free(made.data);
	}
	close(made.fd);
}

static void look_at_merged(const struct mamplus_ble_piece *parts, const unsigned char *root, int64_t total)
{
	struct merged merged = { .fd = memfd_create("merged", MFD_CLOEXEC) };
	struct mamplus_ble_fault fault = { 0 };
	struct mamplus_ble_piece piece = { 0 };
	struct ble_part part, base, delta;
	unsigned char root_of_it[32];

	if (!mamplus_ble_merge(parts, 2, merged.fd, &fault)) {
		read_back(&merged);
		piece = (struct mamplus_ble_piece){ .data = merged.data, .size = (uint64_t)merged.size };
		MUST(!mamplus_ble_check(merged.data, piece.size, &fault));
		MUST(!ble_open_part(&piece, &part, &fault) && !ble_open_part(parts, &base, &fault) &&
		     !ble_open_part(parts + 1, &delta, &fault));
		MUST(!mamplus_ble_root(&piece, root_of_it, &fault));
		MUST(!memcmp(root_of_it, root, 32));
		MUST((int64_t)part.file.entries == total);
		look_at_entries(&part);
		say_the_same(parts, &piece, &base, NULL);
		say_the_same(parts, &piece, &delta, &base);
		lead_there((struct mamplus_ble_piece[]){ parts[0], piece }, mamplus_ble_diff, root, total);
		lead_there(parts, mamplus_ble_trim, root, total);
		free(merged.data);
	}
	close(merged.fd);
}

static void look_at_pair(const struct mamplus_ble_piece *parts)
{
	struct mamplus_ble_fault fault;
	unsigned char root[32];
	struct ble_part base, delta;
	int64_t total;

	MUST(!ble_open_part(parts, &base, &fault) && !ble_open_part(parts + 1, &delta, &fault));
	if (delta.file.before != base.file.number)
		return;	/* not a delta to this one: the callers see to that */
	total = base.file.entries;
	MUST(!mamplus_ble_root(parts, root, &fault));
	if (mamplus_ble_after(parts, 1, parts + 1, root, &total, &fault))
		return;	/* it withdraws what is not there */
	look_at_merged(parts, root, total);
}

static int look_at(const unsigned char *data, uint64_t size, struct mamplus_ble_piece *piece)
{
	struct mamplus_ble_fault fault;
	struct mamplus_ble_file file;
	struct ble_part part;

	if (!is_good(data, size, &file))
		return 0;
	*piece = (struct mamplus_ble_piece){ .data = data, .size = size };
	MUST(!ble_open_part(piece, &part, &fault));
	look_at_entries(&part);
	look_for_ids(piece, &part);
	look_at_patterns(&part);
	look_at_versions(&part);
	look_at_tables(&part);
	look_at_limits(piece);
	return file.flags & MAMPLUS_BLE_DELTA ? 2 : 1;
}

/* A copy of exactly this size, so that the address sanitizer sees the byte behind it. */
static unsigned char *copied(const uint8_t *data, size_t size)
{
	unsigned char *copy = malloc(size ? size : 1);

	memcpy(copy, data, size);
	return copy;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t split = size < 4 ? 0 : get32(data);
	struct mamplus_ble_piece parts[2];
	unsigned char *base, *delta;
	int is_list, is_delta;

	if (size < 4)
		return 0;
	size -= 4;
	split = split < size ? split : (uint32_t)size;
	base = copied(data + 4, split);
	delta = copied(data + 4 + split, size - split);
	is_list = look_at(base, split, &parts[0]) == 1;
	is_delta = look_at(delta, size - split, &parts[1]) == 2;
	if (is_list && is_delta)
		look_at_pair(parts);
	free(base);
	free(delta);
	return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
	static uint8_t made[1 << 16];
	uint32_t split = size < 4 ? 0 : get32(data), at, length;
	size_t result;

	if (size < 4 || seed % 4 == 0 || split > size - 4)
		return LLVMFuzzerMutate(data, size, max_size);
	at = seed % 2 ? 4 : 4 + split;
	length = seed % 2 ? split : (uint32_t)size - 4 - split;
	result = mutated_list(data + at, length, made, sizeof(made), seed / 2);
	if (!result || size - length + result > max_size)
		return LLVMFuzzerMutate(data, size, max_size);
	memmove(data + at + result, data + at + length, size - at - length);
	memcpy(data + at, made, result);
	if (seed % 2) {
		split = htole32((uint32_t)result);
		memcpy(data, &split, sizeof(split));
	}
	return size - length + result;
}
