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

uint32_t ble_lower(const struct ble_part *part, const struct mamplus_ble_view *view, const unsigned char *key, uint32_t from)
{
	uint64_t low = from, step = 1, high;

	/* Steps that double: a walk along sorted keys costs what lies between, not the whole list each time. */
	while (low + step <= view->count && memcmp(ble_key(part->data, view, low + step - 1), key, view->key_size) < 0) {
		low += step;
		step *= 2;
	}
	high = low + step - 1 < view->count ? low + step - 1 : view->count;
	while (low < high) {
		uint64_t middle = (low + high) / 2;

		if (memcmp(ble_key(part->data, view, middle), key, view->key_size) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
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
