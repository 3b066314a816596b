/* SPDX-License-Identifier: Apache-2.0 */
/* Finds entries: ble_find.h. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ble_find.h"

int ble_open_part(const struct mamplus_ble_piece *piece, struct ble_part *part, struct mamplus_ble_fault *fault)
{
	part->data = piece->data;
	part->size = piece->size;
	part->is_mapped = piece->is_mapped;
	return mamplus_ble_open(piece->data, piece->size, &part->file, fault);
}

struct ble_part *ble_open_parts(const struct mamplus_ble_piece *pieces, uint32_t count, const struct mamplus_ble_piece *last, struct mamplus_ble_fault *fault)
{
	struct ble_part *parts = calloc((size_t)count + 1, sizeof(*parts));
	int result = parts ? 0 : ble_fail(fault, "memory", 0, 0);

	for (uint32_t i = 0; !result && i < count; i++)
		result = ble_open_part(&pieces[i], &parts[i], fault);
	if (!result && last)
		result = ble_open_part(last, &parts[count], fault);
	if (!result)
		return parts;
	free(parts);
	return NULL;
}

const struct mamplus_ble_view *ble_view(const struct ble_part *part, uint32_t section)
{
	for (uint32_t i = 0; i < part->file.sections; i++)
		if (part->file.view[i].section == section)
			return &part->file.view[i];
	return NULL;
}

static int is_less(const struct ble_part *part, const struct mamplus_ble_view *view, uint64_t index, const unsigned char *key)
{
	return memcmp(ble_key(part->data, view, index), key, view->key_size) < 0;
}

/* The first eight bytes of a key as a number; of a shorter one all of it. */
static uint64_t key_number(const unsigned char *key, uint32_t size)
{
	uint64_t number = 0;

	for (uint32_t i = 0; i < sizeof(number); i++)
		number = number << 8 | (i < size ? key[i] : 0);
	return number;
}

/* Where a key would lie after `from`, which is less, if keys were spread evenly: hashes are. */
static uint64_t guess(const struct ble_part *part, const struct mamplus_ble_view *view, const unsigned char *key, uint64_t from)
{
	uint64_t last = view->count - 1, wanted = key_number(key, view->key_size);
	uint64_t least = key_number(ble_key(part->data, view, from), view->key_size);
	uint64_t most = key_number(ble_key(part->data, view, last), view->key_size);

	if (wanted <= least || most <= least)
		return from;
	if (wanted >= most)
		return last;
	return from + (uint64_t)((double)(last - from) * (double)(wanted - least) / (double)(most - least));
}

uint32_t ble_lower(const struct ble_part *part, const struct mamplus_ble_view *view, const unsigned char *key, uint32_t from)
{
	uint64_t low = from, high = view->count, step = 1, near;

	if (low >= high || !is_less(part, view, low, key))
		return low;
	/* A page that nobody read costs more than all else: so from the guess on, in steps that double. */
	near = guess(part, view, key, low);
	if (near > low && !is_less(part, view, near, key)) {
		high = near;
		while (low + step < high && !is_less(part, view, high - step, key)) {
			high -= step;
			step *= 2;
		}
		low = low + step < high ? high - step : low;
	} else {
		low = near;
		while (low + step < high && is_less(part, view, low + step, key)) {
			low += step;
			step *= 2;
		}
		high = low + step < high ? low + step : high;
	}
	while (low + 1 < high) {	/* the key at `low` is less, the one at `high` is not */
		uint64_t middle = (low + high) / 2;

		if (is_less(part, view, middle, key))
			low = middle;
		else
			high = middle;
	}
	return high;
}

uint32_t ble_find(const struct ble_part *part, const struct mamplus_ble_view *view, const struct ble_entry *wanted,
		  uint32_t *from, struct ble_entry *found)
{
	*from = ble_lower(part, view, wanted->key, *from);
	for (uint32_t at = *from; at < view->count; at++) {
		int order = memcmp(ble_key(part->data, view, at), wanted->key, view->key_size);

		if (order || ble_entry_at(part->data, &part->file, view, at, found))
			break;
		if (wanted->text)
			order = ble_compare_texts(found->text, found->text_length, wanted->text, wanted->text_length);
		if (order >= 0)
			return order ? BLE_NOWHERE : at;
	}
	return BLE_NOWHERE;
}

void ble_give_back(const struct ble_part *part, uint64_t begin, uint64_t end)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	/* Only of a mapped file: elsewhere the pages would come back as zeros. */
	begin = begin / page * page;
	end = end / page * page;
	if (part->is_mapped && end > begin)
		madvise((void *)(uintptr_t)(part->data + begin), end - begin, MADV_DONTNEED);
}

static uint64_t text_place(const struct ble_part *part, const struct mamplus_ble_view *view, uint64_t index)
{
	uint64_t at = part->file.strings + get32(part->data + view->texts + index * 4);

	return at < part->size ? at : part->size;
}

void ble_give_back_entries(const struct ble_part *part, const struct mamplus_ble_view *view, uint64_t first, uint64_t end)
{
	if (!part->is_mapped || first >= end)
		return;
	if (view->texts) {
		/* The writer lays texts in the order of the entries; where another did not, pages stay a little longer. */
		ble_give_back(part, text_place(part, view, first), text_place(part, view, end - 1));
		ble_give_back(part, view->texts + first * 4, view->texts + end * 4);
	}
	ble_give_back(part, view->keys + first * view->key_size, view->keys + end * view->key_size);
	ble_give_back(part, view->groups + first * 4, view->groups + end * 4);
	ble_give_back(part, view->ids + first * 8, view->ids + end * 8);
	ble_give_back(part, view->ends + first * 4, view->ends + end * 4);
}
