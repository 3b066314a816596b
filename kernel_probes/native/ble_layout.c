/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lays out a file: ble_layout.h.
 *
 * Groups and texts are numbered in the order in which they are met, as encode.py does, so that the
 * same entries make the same bytes whoever writes them.
 */
#include <stdlib.h>

#include "ble_layout.h"

static int without_memory(struct writer *writer)
{
	return ble_fail(writer->fault, "memory", 0, 0);
}

/* Room for one more of `size` bytes; NULL without memory, and the list is gone. */
static void *room_for(void *list, uint32_t count, uint32_t *room, size_t size)
{
	void *more;

	if (count < *room)
		return list;
	*room = *room ? 2 * *room : 64;
	more = realloc(list, *room * size);
	if (!more)
		free(list);
	return more;
}

static uint32_t hash_group(const unsigned char *group)
{
	uint64_t hash = mamplus_ble_text_hash(group, MAMPLUS_BLE_GROUP_SIZE);

	return (uint32_t)(hash ^ hash >> 32);
}

const unsigned char *ble_remark(const struct writer *writer, const struct remark *remark, uint32_t *length)
{
	const struct ble_part *part = &writer->plan->parts[remark->part];

	return ble_text(part->data, &part->file, remark->from, length);
}

static uint32_t hash_remark(const struct writer *writer, const struct remark *remark)
{
	uint32_t length = 0;
	const unsigned char *text = ble_remark(writer, remark, &length);
	uint64_t hash = mamplus_ble_text_hash(text, length);

	return (uint32_t)(hash ^ hash >> 32);
}

static void put_number(struct index *index, uint32_t hash, uint32_t number)
{
	uint32_t at = hash & (index->room - 1);

	while (index->slots[at] != BLE_UNSET)
		at = (at + 1) & (index->room - 1);
	index->slots[at] = number;
}

static int make_room(struct index *index, uint32_t room)
{
	uint32_t *slots = malloc((size_t)room * sizeof(*slots));

	if (!slots)
		return -1;
	memset(slots, 0xff, (size_t)room * sizeof(*slots));
	free(index->slots);
	index->slots = slots;
	index->room = room;
	return 0;
}

static int grow_remarks(struct writer *writer)
{
	struct index *index = &writer->remark_index;

	if (index->room && writer->remark_count < index->room / 4 * 3)
		return 0;
	if (make_room(index, index->room ? 2 * index->room : 256))
		return -1;
	for (uint32_t i = 0; i < writer->remark_count; i++)
		put_number(index, hash_remark(writer, &writer->remarks[i]), i);
	return 0;
}

static int grow_groups(struct writer *writer)
{
	struct index *index = &writer->group_index;

	if (index->room && writer->group_count < index->room / 4 * 3)
		return 0;
	if (make_room(index, index->room ? 2 * index->room : 256))
		return -1;
	for (uint32_t i = 0; i < writer->group_count; i++)
		put_number(index, hash_group(writer->groups[i]), i);
	return 0;
}

/* The offset in the new file of a remark, laid down there once. */
static int share_remark(struct writer *writer, uint32_t part, uint32_t from, uint32_t *to)
{
	struct remark remark = { part, from, 0 };
	uint32_t length = 0, other, hash, at;
	const unsigned char *text = ble_remark(writer, &remark, &length);

	*to = 0;
	if (!text)
		return ble_fail(writer->fault, "text of a group", 0, 0);
	if (!length)
		return 0;
	if (grow_remarks(writer))
		return without_memory(writer);
	hash = hash_remark(writer, &remark);
	for (at = hash; writer->remark_index.slots[at & (writer->remark_index.room - 1)] != BLE_UNSET; at++) {
		const struct remark *known = &writer->remarks[writer->remark_index.slots[at & (writer->remark_index.room - 1)]];
		const unsigned char *same = ble_remark(writer, known, &other);

		if (!ble_compare_texts(text, length, same, other)) {
			*to = known->to;
			return 0;
		}
	}
	writer->remarks = room_for(writer->remarks, writer->remark_count, &writer->remark_room, sizeof(remark));
	if (!writer->remarks)
		return without_memory(writer);
	*to = remark.to = (uint32_t)writer->strings_size;
	writer->strings_size += 2 + (uint64_t)length;
	put_number(&writer->remark_index, hash, writer->remark_count);
	writer->remarks[writer->remark_count++] = remark;
	return writer->strings_size >> 32 ? ble_fail(writer->fault, "size of the texts", 0, 0) : 0;
}

/* The number of a group of the new file, `said` in its terms. */
static int share_group(struct writer *writer, const unsigned char *said, uint32_t *number)
{
	uint32_t hash = hash_group(said), at;

	if (grow_groups(writer))
		return without_memory(writer);
	for (at = hash; writer->group_index.slots[at & (writer->group_index.room - 1)] != BLE_UNSET; at++) {
		*number = writer->group_index.slots[at & (writer->group_index.room - 1)];
		if (!memcmp(writer->groups[*number], said, MAMPLUS_BLE_GROUP_SIZE))
			return 0;
	}
	writer->groups = room_for(writer->groups, writer->group_count, &writer->group_room, MAMPLUS_BLE_GROUP_SIZE);
	if (!writer->groups)
		return without_memory(writer);
	*number = writer->group_count++;
	memcpy(writer->groups[*number], said, MAMPLUS_BLE_GROUP_SIZE);
	put_number(&writer->group_index, hash, *number);
	return 0;
}

static int number_group(struct writer *writer, uint32_t part, uint32_t old)
{
	const struct ble_part *from = &writer->plan->parts[part];
	unsigned char said[MAMPLUS_BLE_GROUP_SIZE] = { 0 };
	const unsigned char *group = from->data + from->file.groups + (uint64_t)old * MAMPLUS_BLE_GROUP_SIZE;

	memcpy(said, group, 3);
	for (uint32_t at = 4; at < 20; at += 4) {
		uint32_t to;

		if (share_remark(writer, part, get32(group + at), &to))
			return -1;
		to = htole32(to);
		memcpy(said + at, &to, sizeof(to));
	}
	return share_group(writer, said, &writer->numbers[part][old]);
}

static int number_groups(struct writer *writer, const struct ble_run *run, const struct mamplus_ble_view *view)
{
	static const unsigned char withdrawn[MAMPLUS_BLE_GROUP_SIZE] = { 0, 1 };
	const struct ble_part *part = &writer->plan->parts[run->part];

	if (run->is_withdrawn)
		return writer->withdrawn == BLE_UNSET ? share_group(writer, withdrawn, &writer->withdrawn) : 0;
	for (uint32_t i = run->first; i < run->first + run->count; i++) {
		uint32_t old = get32(part->data + view->groups + (uint64_t)i * 4);

		if (old >= part->file.group_count)
			return ble_fail(writer->fault, "entry", view->section, i);
		if (writer->numbers[run->part][old] == BLE_UNSET && number_group(writer, run->part, old))
			return -1;
	}
	ble_give_back(part, view->groups + (uint64_t)run->first * 4, view->groups + (uint64_t)(run->first + run->count) * 4);
	return 0;
}

static int measure_texts(struct writer *writer, const struct ble_run *run, const struct mamplus_ble_view *view)
{
	const struct ble_part *part = &writer->plan->parts[run->part];
	struct ble_entry entry;

	for (uint32_t i = run->first; view->texts && i < run->first + run->count; i++) {
		if (ble_entry_at(part->data, &part->file, view, i, &entry))
			return ble_fail(writer->fault, "text", view->section, i);
		writer->strings_size += 2 + (uint64_t)entry.text_length;
	}
	return writer->strings_size >> 32 ? ble_fail(writer->fault, "size of the texts", view->section, 0) : 0;
}

static uint64_t aligned(uint64_t offset)
{
	return (offset + 7) & ~7ULL;
}

static void place_columns(struct layout *layout, const struct mamplus_ble_view *view, uint64_t at)
{
	const uint64_t sizes[BLE_COLUMNS] = { view->key_size, 4, 8, 4, view->texts ? 4 : 0 };

	for (uint32_t i = 0; i < BLE_COLUMNS; i++) {
		layout->at[i] = sizes[i] ? at : 0;
		at = aligned(at + layout->count * sizes[i]);
	}
	layout->next = at;
}

const struct mamplus_ble_view *ble_run_view(const struct writer *writer, uint32_t section, const struct ble_run *run)
{
	return ble_view(&writer->plan->parts[run->part], section);
}

static int measure_section(struct writer *writer, uint32_t section)
{
	const struct ble_runs *runs = &writer->plan->runs[section];
	struct layout *layout = &writer->layout[section];
	uint64_t count = 0;

	for (size_t i = 0; i < runs->count; i++) {
		count += runs->run[i].count;
		if (number_groups(writer, &runs->run[i], ble_run_view(writer, section, &runs->run[i])))
			return -1;
	}
	layout->remarks_end = writer->remark_count;
	for (size_t i = 0; i < runs->count; i++)
		if (measure_texts(writer, &runs->run[i], ble_run_view(writer, section, &runs->run[i])))
			return -1;
	layout->count = (uint32_t)count;
	return count >> 32 ? ble_fail(writer->fault, "number of entries", section, 0) : 0;
}

/* Number the groups, lay out texts and columns. */
static int measure(struct writer *writer)
{
	const struct ble_part *about = writer->plan->about;
	uint64_t at = MAMPLUS_BLE_HEADER;

	writer->strings_size = 2;
	if (share_remark(writer, (uint32_t)(about - writer->plan->parts), about->file.audience, &writer->audience))
		return -1;
	for (uint32_t section = 1; section <= MAMPLUS_BLE_SECTIONS; section++) {
		if (measure_section(writer, section))
			return -1;
		writer->entries += writer->layout[section].count;
		writer->sections += writer->layout[section].count > 0;
	}
	at += (uint64_t)writer->sections * MAMPLUS_BLE_DIRECTORY;
	for (uint32_t section = 1; section <= MAMPLUS_BLE_SECTIONS; section++) {
		writer->layout[section].next = at;
		if (writer->layout[section].count)
			place_columns(&writer->layout[section], ble_run_view(writer, section, writer->plan->runs[section].run), at);
		at = writer->layout[section].next;
	}
	return writer->entries >> 32 ? ble_fail(writer->fault, "number of entries", 0, 0) : 0;
}

static int make_numbers(struct writer *writer)
{
	writer->numbers = calloc(writer->plan->count, sizeof(*writer->numbers));
	for (uint32_t i = 0; writer->numbers && i < writer->plan->count; i++) {
		size_t size = (size_t)writer->plan->parts[i].file.group_count * sizeof(uint32_t);

		writer->numbers[i] = malloc(size ? size : 1);
		if (!writer->numbers[i])
			return without_memory(writer);
		memset(writer->numbers[i], 0xff, size);
	}
	return writer->numbers ? 0 : without_memory(writer);
}

int ble_lay_out(struct writer *writer)
{
	writer->withdrawn = BLE_UNSET;
	return make_numbers(writer) || measure(writer) ? -1 : 0;
}

void ble_layout_free(struct writer *writer)
{
	for (uint32_t i = 0; writer->numbers && i < writer->plan->count; i++)
		free(writer->numbers[i]);
	free(writer->numbers);
	free(writer->groups);
	free(writer->remarks);
	free(writer->group_index.slots);
	free(writer->remark_index.slots);
}
