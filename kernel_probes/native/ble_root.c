/* SPDX-License-Identifier: Apache-2.0 */
/* Sums what lists say: ble_root.h. */
#include <openssl/sha.h>
#include <stdlib.h>

#include "ble_find.h"

#define ROOT_SIZE 32
#define KEY_MAX 32
#define HEAD_SIZE 14		/* section, id, end */
#define REMARKS 4		/* first string offset of a group */
#define REMARKS_END 20
#define KEPT 256		/* groups whose first block stays hashed */
#define WINDOW (1U << 16)	/* entries after which pages are given back */

/* A group's first block, hashed: entries come in runs of few groups. */
struct kept {
	const unsigned char *group;
	SHA256_CTX state;
};

/* Numbers of 256 bits, the least word first. */
struct sum {
	uint64_t word[4];
};

static struct sum read_sum(const unsigned char *at)
{
	struct sum sum;

	for (int i = 0; i < 4; i++)
		sum.word[i] = get64(at + 8 * i);
	return sum;
}

static void write_sum(const struct sum *sum, unsigned char *at)
{
	for (int i = 0; i < 4; i++) {
		uint64_t word = htole64(sum->word[i]);

		memcpy(at + 8 * i, &word, sizeof(word));
	}
}

static void add(struct sum *sum, const struct sum *more)
{
	unsigned __int128 carry = 0;

	for (int i = 0; i < 4; i++) {
		carry += (unsigned __int128)sum->word[i] + more->word[i];
		sum->word[i] = (uint64_t)carry;
		carry >>= 64;
	}
}

static void take_off(struct sum *sum, const struct sum *less)
{
	struct sum inverse = { { 0 } };
	const struct sum one = { { 1 } };

	for (int i = 0; i < 4; i++)
		inverse.word[i] = ~less->word[i];
	add(&inverse, &one);
	add(sum, &inverse);
}

/* SHA-256 of what a group says, then zeros to the end of the first block. */
static int first_block(const struct ble_part *part, const unsigned char *group, SHA256_CTX *state)
{
	unsigned char block[64] = { 0 };
	uint32_t length;
	SHA256_CTX said;

	SHA256_Init(&said);
	SHA256_Update(&said, group, 3);
	for (uint32_t at = REMARKS; at < REMARKS_END; at += 4) {
		const unsigned char *text = ble_text(part->data, &part->file, get32(group + at), &length);

		if (!text)
			return -1;
		SHA256_Update(&said, text - 2, (size_t)length + 2);	/* its length stands before it */
	}
	SHA256_Final(block, &said);
	SHA256_Init(state);
	SHA256_Update(state, block, sizeof(block));
	return 0;
}

static const SHA256_CTX *begun(const struct ble_part *part, const struct ble_entry *entry, struct kept *kept)
{
	struct kept *slot = &kept[entry->group_number % KEPT];

	if (slot->group != entry->group) {
		slot->group = NULL;
		if (first_block(part, entry->group, &slot->state))
			return NULL;
		slot->group = entry->group;
	}
	return &slot->state;
}

/* The hash of one entry as a number. */
static int hash_entry(const struct ble_part *part, const struct mamplus_ble_view *view, const struct ble_entry *entry, struct kept *kept, struct sum *sum)
{
	const SHA256_CTX *first = begun(part, entry, kept);
	unsigned char said[HEAD_SIZE + KEY_MAX], digest[SHA256_DIGEST_LENGTH];
	uint16_t section = htole16(view->section);
	uint64_t id = htole64(entry->id);
	uint32_t end = htole32(entry->end);
	SHA256_CTX state;

	if (!first)
		return -1;
	state = *first;
	memcpy(said, &section, 2);
	memcpy(said + 2, &id, 8);
	memcpy(said + 10, &end, 4);
	memcpy(said + HEAD_SIZE, entry->key, view->key_size);
	SHA256_Update(&state, said, HEAD_SIZE + view->key_size);
	SHA256_Update(&state, entry->text, entry->text_length);
	SHA256_Final(digest, &state);
	*sum = read_sum(digest);
	return 0;
}

static int sum_entries(const struct ble_part *part, const struct mamplus_ble_view *view, uint32_t first, uint32_t end, struct kept *kept, struct sum *root, struct mamplus_ble_fault *fault)
{
	for (uint32_t i = first; i < end; i++) {
		struct ble_entry entry;
		struct sum hash;

		if (ble_entry_at(part->data, &part->file, view, i, &entry) || hash_entry(part, view, &entry, kept, &hash))
			return ble_fail(fault, "entry", view->section, i);
		add(root, &hash);
	}
	return 0;
}

/* Window by window: what is read stays in the processor's cache from the check to the sum, and no longer in memory. */
static int sum_section(const struct ble_part *part, const struct mamplus_ble_view *view, int is_checked, struct kept *kept, struct sum *root, struct mamplus_ble_fault *fault)
{
	for (uint64_t first = 0, end; first < view->count; first = end) {
		end = first + WINDOW < view->count ? first + WINDOW : view->count;
		if (!is_checked &&
		    ble_check_entries(part->data, &part->file, view, (uint32_t)first, (uint32_t)end, fault))
			return -1;
		if (sum_entries(part, view, (uint32_t)first, (uint32_t)end, kept, root, fault))
			return -1;
		ble_give_back_entries(part, view, first, end);
	}
	return 0;
}

static int sum_all(const struct mamplus_ble_piece *list, int is_checked, unsigned char *root, struct mamplus_ble_fault *fault)
{
	struct kept *kept = calloc(KEPT, sizeof(*kept));
	struct sum sum = { { 0 } };
	struct ble_part part;
	int result = kept ? ble_open_part(list, &part, fault) : ble_fail(fault, "memory", 0, 0);

	if (!result && !is_checked)
		result = ble_check_head(part.data, &part.file, fault);
	for (uint32_t i = 0; !result && i < part.file.sections; i++)
		result = sum_section(&part, &part.file.view[i], is_checked, kept, &sum, fault);
	if (!result)
		write_sum(&sum, root);
	free(kept);
	return result;
}

int mamplus_ble_check_and_sum(const struct mamplus_ble_piece *list, unsigned char *root, struct mamplus_ble_fault *fault)
{
	return sum_all(list, 0, root, fault);
}

int mamplus_ble_root(const struct mamplus_ble_piece *list, unsigned char *root, struct mamplus_ble_fault *fault)
{
	return sum_all(list, 1, root, fault);
}

/* What stands under the key of `wanted` now: the newest part that mentions it. NULL: nothing, or it was withdrawn. */
static const struct ble_part *standing(const struct ble_part *parts, uint32_t count, uint32_t section, const struct ble_entry *wanted, struct ble_entry *found)
{
	while (count--) {
		const struct mamplus_ble_view *view = ble_view(&parts[count], section);
		uint32_t from = 0;

		if (view && ble_find(&parts[count], view, wanted, &from, found) != BLE_NOWHERE)
			return found->group[0] ? &parts[count] : NULL;
	}
	return NULL;
}

struct change {
	const struct ble_part *parts;	/* before; the delta stands after them */
	uint32_t count;
	struct kept *old;
	struct kept *new;
	struct sum root;
	int64_t total;
};

static int change_entry(struct change *change, const struct mamplus_ble_view *view, const struct ble_entry *entry)
{
	const struct ble_part *delta = &change->parts[change->count], *before;
	struct ble_entry found = { 0 };
	struct sum hash;

	before = standing(change->parts, change->count, view->section, entry, &found);
	if (before) {
		if (hash_entry(before, view, &found, change->old, &hash))
			return -1;
		take_off(&change->root, &hash);
		change->total--;
	}
	if (!entry->group[0])
		return 0;
	if (hash_entry(delta, view, entry, change->new, &hash))
		return -1;
	add(&change->root, &hash);
	change->total++;
	return 0;
}

static int change_all(struct change *change, struct mamplus_ble_fault *fault)
{
	const struct ble_part *delta = &change->parts[change->count];

	for (uint32_t s = 0; s < delta->file.sections; s++) {
		const struct mamplus_ble_view *view = &delta->file.view[s];

		for (uint32_t i = 0; i < view->count; i++) {
			struct ble_entry entry;

			if (ble_entry_at(delta->data, &delta->file, view, i, &entry) || change_entry(change, view, &entry))
				return ble_fail(fault, "entry", view->section, i);
		}
	}
	return 0;
}

int mamplus_ble_after(const struct mamplus_ble_piece *parts, uint32_t count, const struct mamplus_ble_piece *delta,
		      unsigned char *root, int64_t *total, struct mamplus_ble_fault *fault)
{
	struct ble_part *opened = ble_open_parts(parts, count, delta, fault);
	struct kept *kept = calloc(2 * KEPT, sizeof(*kept));
	struct change change = { opened, count, kept, kept + KEPT, read_sum(root), *total };
	int result = opened ? 0 : -1;

	if (opened && !kept)
		result = ble_fail(fault, "memory", 0, 0);
	if (!result)
		result = change_all(&change, fault);
	if (!result) {
		write_sum(&change.root, root);
		*total = change.total;
	}
	free(kept);
	free(opened);
	return result;
}
