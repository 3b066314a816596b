/* SPDX-License-Identifier: Apache-2.0 */
/* Plans what merged files hold: ble_merge.h. */
#include <stdlib.h>

#include "ble_merge.h"
#include "ble_plan.h"

/* A place in a section of a part, with the entry there laid open. */
struct cursor {
	const struct ble_part *part;
	const struct mamplus_ble_view *view;	/* NULL: no such section */
	uint32_t at;
	struct ble_entry entry;
};

int ble_plan_add(struct ble_runs *runs, uint32_t part, uint32_t first, uint32_t count, uint32_t is_withdrawn)
{
	struct ble_run *last = runs->count ? &runs->run[runs->count - 1] : NULL;

	if (!count)
		return 0;
	if (last && last->part == part && last->is_withdrawn == is_withdrawn && last->first + last->count == first) {
		last->count += count;
		return 0;
	}
	if (runs->count == runs->room) {
		size_t room = runs->room ? 2 * runs->room : 64;
		struct ble_run *more = realloc(runs->run, room * sizeof(*more));

		if (!more)
			return -1;
		runs->run = more;
		runs->room = room;
	}
	runs->run[runs->count++] = (struct ble_run){ part, first, count, is_withdrawn };
	return 0;
}

void ble_plan_free(struct ble_plan *plan)
{
	for (uint32_t section = 1; section <= MAMPLUS_BLE_SECTIONS; section++)
		free(plan->runs[section].run);
	free(plan->parts);
}

static int is_through(const struct cursor *cursor)
{
	return !cursor->view || cursor->at >= cursor->view->count;
}

static int look(struct cursor *cursor)
{
	if (is_through(cursor))
		return 0;
	return ble_entry_at(cursor->part->data, &cursor->part->file, cursor->view, cursor->at, &cursor->entry);
}

static int begin(struct cursor *cursor, const struct ble_part *part, uint32_t section)
{
	*cursor = (struct cursor){ .part = part, .view = ble_view(part, section) };
	return look(cursor);
}

static int step(struct cursor *cursor)
{
	cursor->at++;
	return look(cursor);
}

/* By key, then by text. */
static int compare(const struct ble_entry *one, const struct ble_entry *two, uint32_t key_size)
{
	int order = memcmp(one->key, two->key, key_size);

	if (order || !one->text)
		return order;
	return ble_compare_texts(one->text, one->text_length, two->text, two->text_length);
}

/* Move to the first entry that is not less than `wanted`. */
static int advance(struct cursor *cursor, const struct ble_entry *wanted)
{
	if (is_through(cursor))
		return 0;
	cursor->at = ble_lower(cursor->part, cursor->view, wanted->key, cursor->at);
	if (look(cursor))
		return -1;
	while (!is_through(cursor) && compare(&cursor->entry, wanted, cursor->view->key_size) < 0)
		if (step(cursor))
			return -1;
	return 0;
}

static int is_at(const struct cursor *cursor, const struct ble_entry *wanted)
{
	return !is_through(cursor) && !compare(&cursor->entry, wanted, cursor->view->key_size);
}

/* The delta whose entry comes first; of several with the same value the newest. NULL: all are through. */
static struct cursor *least(struct cursor *cursors, uint32_t count)
{
	struct cursor *best = NULL;

	for (uint32_t i = 1; i < count; i++)
		if (!is_through(&cursors[i]) &&
		    (!best || compare(&cursors[i].entry, &best->entry, best->view->key_size) <= 0))
			best = &cursors[i];
	return best;
}

/* Runs of the base between what the deltas mention, and the newest of what they say. */
static int merge_section(struct ble_plan *plan, struct cursor *cursors, uint32_t section)
{
	struct ble_runs *runs = &plan->runs[section];
	struct cursor *base = cursors, *next;

	for (uint32_t i = 0; i < plan->count; i++)
		if (begin(&cursors[i], &plan->parts[i], section))
			return -1;
	while ((next = least(cursors, plan->count))) {
		struct ble_entry wanted = next->entry;
		uint32_t first = base->at;

		if (advance(base, &wanted) || ble_plan_add(runs, 0, first, base->at - first, 0))
			return -1;
		if (wanted.group[0] && ble_plan_add(runs, (uint32_t)(next - cursors), next->at, 1, 0))
			return -1;
		for (uint32_t i = 0; i < plan->count; i++)
			if (is_at(&cursors[i], &wanted) && step(&cursors[i]))
				return -1;
	}
	return is_through(base) ? 0 : ble_plan_add(runs, 0, base->at, base->view->count - base->at, 0);
}

static int plan_merge(struct ble_plan *plan, struct mamplus_ble_fault *fault)
{
	struct cursor *cursors = calloc(plan->count, sizeof(*cursors));
	int result = cursors ? 0 : ble_fail(fault, "memory", 0, 0);

	for (uint32_t section = 1; !result && section <= MAMPLUS_BLE_SECTIONS; section++)
		if (merge_section(plan, cursors, section))
			result = ble_fail(fault, "entry", section, 0);
	free(cursors);
	return result;
}

int mamplus_ble_merge(const struct mamplus_ble_piece *parts, uint32_t count, int fd, struct mamplus_ble_fault *fault)
{
	struct ble_plan plan = { .parts = ble_open_parts(parts, count, NULL, fault), .count = count };
	int result;

	if (!plan.parts || !count)
		return plan.parts ? ble_fail(fault, "number of parts", 0, 0) : -1;
	plan.about = &plan.parts[count - 1];
	plan.flags = plan.about->file.flags & MAMPLUS_BLE_MAY_SHRINK;
	result = plan_merge(&plan, fault);
	if (!result)
		result = ble_plan_write(&plan, fd, fault);
	ble_plan_free(&plan);
	return result;
}

static int is_same_group(const struct ble_part *one, const unsigned char *one_group, const struct ble_part *two, const unsigned char *two_group)
{
	if (memcmp(one_group, two_group, 3))
		return 0;
	for (uint32_t at = 4; at < 20; at += 4) {
		uint32_t one_length, two_length;
		const unsigned char *one_text = ble_text(one->data, &one->file, get32(one_group + at), &one_length);
		const unsigned char *two_text = ble_text(two->data, &two->file, get32(two_group + at), &two_length);

		if (!one_text || !two_text || ble_compare_texts(one_text, one_length, two_text, two_length))
			return 0;
	}
	return 1;
}

static int says_the_same(const struct cursor *one, const struct cursor *two)
{
	return one->entry.id == two->entry.id && one->entry.end == two->entry.end &&
	       is_same_group(one->part, one->entry.group, two->part, two->entry.group);
}

/* What stands only in the first list goes; what the second says anew comes. */
static int diff_section(struct ble_runs *runs, struct cursor *old, struct cursor *new)
{
	while (!is_through(old) || !is_through(new)) {
		int order = is_through(old) ? 1 : is_through(new) ? -1 : compare(&old->entry, &new->entry, old->view->key_size);

		if (order < 0 && ble_plan_add(runs, 0, old->at, 1, 1))
			return -1;
		if (order >= 0 && (order || !says_the_same(old, new)) && ble_plan_add(runs, 1, new->at, 1, 0))
			return -1;
		if ((order <= 0 && step(old)) || (order >= 0 && step(new)))
			return -1;
	}
	return 0;
}

/* What is withdrawn must stand, what is added must be new, what is replaced must say something else. */
static int trim_section(struct ble_runs *runs, struct cursor *list, struct cursor *delta)
{
	for (; !is_through(delta);) {
		int is_there, is_needed;

		if (advance(list, &delta->entry))
			return -1;
		is_there = is_at(list, &delta->entry);
		is_needed = delta->entry.group[0] ? !is_there || !says_the_same(list, delta) : is_there;
		if (is_needed && ble_plan_add(runs, 1, delta->at, 1, 0))
			return -1;
		if (step(delta))
			return -1;
	}
	return 0;
}

static int compare_two(const struct mamplus_ble_piece *pair, int (*plan_section)(struct ble_runs *, struct cursor *, struct cursor *), int fd, struct mamplus_ble_fault *fault)
{
	struct ble_plan plan = { .parts = ble_open_parts(pair, 2, NULL, fault), .count = 2 };
	int result = plan.parts ? 0 : -1;

	for (uint32_t section = 1; !result && section <= MAMPLUS_BLE_SECTIONS; section++) {
		struct cursor one, two;

		if (begin(&one, &plan.parts[0], section) || begin(&two, &plan.parts[1], section) ||
		    plan_section(&plan.runs[section], &one, &two))
			result = ble_fail(fault, "entry", section, 0);
	}
	if (!result) {
		plan.about = &plan.parts[1];
		plan.before = plan.parts[0].file.number;
		plan.flags = MAMPLUS_BLE_DELTA | (plan.about->file.flags & MAMPLUS_BLE_MAY_SHRINK);
		result = ble_plan_write(&plan, fd, fault);
	}
	ble_plan_free(&plan);
	return result;
}

int mamplus_ble_diff(const struct mamplus_ble_piece *pair, int fd, struct mamplus_ble_fault *fault)
{
	return compare_two(pair, diff_section, fd, fault);
}

int mamplus_ble_trim(const struct mamplus_ble_piece *pair, int fd, struct mamplus_ble_fault *fault)
{
	return compare_two(pair, trim_section, fd, fault);
}
