/* SPDX-License-Identifier: Apache-2.0 */
/* Resolves verdicts over layers: ble_stack.h. */
#include <stdlib.h>

#include "ble_find.h"
#include "ble_stack.h"

/* Walks all parts at once, key by key: what is asked rises, so each place only moves on. */
struct walk {
	const struct mamplus_ble_stack *stack;
	struct ble_part *parts;
	const struct mamplus_ble_view **views;	/* NULL: the part has no such section */
	uint32_t *places;
	uint32_t own;			/* the part that is asked, stack->count when it is none of them */
	uint32_t key_size;
	const unsigned char *next;	/* the least key at the other parts' places; NULL: they are through */
};

struct answer {
	unsigned char verdict;
	uint32_t end;
};

static int is_live(const struct walk *walk, const struct ble_entry *entry)
{
	return entry->group[0] && (!entry->end || entry->end > walk->stack->now_s);
}

/* Of equal verdicts the one that lasts longer. */
static void consider(const struct walk *walk, const struct ble_entry *entry, struct answer *best)
{
	if (!is_live(walk, entry) || entry->group[0] < best->verdict)
		return;
	if (entry->group[0] > best->verdict || !entry->end || (best->end && entry->end > best->end))
		best->end = entry->end;
	best->verdict = entry->group[0];
}

static int is_at(const struct walk *walk, uint32_t part, uint32_t index, const unsigned char *key)
{
	const struct mamplus_ble_view *view = walk->views[part];

	return index < view->count && !memcmp(ble_key(walk->parts[part].data, view, index), key, walk->key_size);
}

/* Whether a newer part of the same layer, up to `last`, mentions the very value of `entry`. */
static int is_overridden(const struct walk *walk, uint32_t part, uint32_t last, const struct ble_entry *entry)
{
	for (uint32_t newer = part + 1; newer <= last; newer++) {
		uint32_t from = walk->places[newer];
		struct ble_entry found;

		if (walk->views[newer] && ble_find(&walk->parts[newer], walk->views[newer], entry, &from, &found) != BLE_NOWHERE)
			return 1;
	}
	return 0;
}

/* Texts that share a hash are values of their own. */
static int is_same_text(const struct ble_entry *one, const struct ble_entry *two)
{
	return !one->text || !two->text || !ble_compare_texts(one->text, one->text_length, two->text, two->text_length);
}

/* Take in what `part`, of a layer whose newest part is `last`, says of the value of `asked`. */
static int ask_part(const struct walk *walk, uint32_t part, uint32_t last, const struct ble_entry *asked, struct answer *best)
{
	const struct mamplus_ble_view *view = walk->views[part];
	struct ble_entry entry;

	if (!view)
		return 0;
	walk->places[part] = ble_lower(&walk->parts[part], view, asked->key, walk->places[part]);
	for (uint32_t at = walk->places[part]; is_at(walk, part, at, asked->key); at++) {
		if (ble_entry_at(walk->parts[part].data, &walk->parts[part].file, view, at, &entry))
			return -1;
		if (is_same_text(&entry, asked) && !is_overridden(walk, part, last, &entry))
			consider(walk, &entry, best);
	}
	return 0;
}

/* Newest parts first, so that their places are right when older ones look for what overrides them. */
static int ask_all(const struct walk *walk, const struct ble_entry *asked, struct answer *best)
{
	uint32_t last = walk->stack->count;

	for (uint32_t part = walk->stack->count; part--;) {
		if (part + 1 == walk->stack->count || walk->stack->layers[part] != walk->stack->layers[part + 1])
			last = part;
		if (ask_part(walk, part, last, asked, best))
			return -1;
	}
	return 0;
}

static void find_next(struct walk *walk)
{
	walk->next = NULL;
	for (uint32_t part = 0; part < walk->stack->count; part++) {
		const struct mamplus_ble_view *view = walk->views[part];
		const unsigned char *key;

		if (part == walk->own || !view || walk->places[part] >= view->count)
			continue;
		key = ble_key(walk->parts[part].data, view, walk->places[part]);
		if (!walk->next || memcmp(key, walk->next, walk->key_size) < 0)
			walk->next = key;
	}
}

/* Whether a part other than the one that is asked may mention `key`. */
static int may_be_elsewhere(const struct walk *walk, const unsigned char *key)
{
	return walk->next && memcmp(key, walk->next, walk->key_size) >= 0;
}

/* Most keys of a long list are in no other part: one comparison tells. */
static int resolve(struct walk *walk, const struct ble_entry *asked, struct answer *best)
{
	*best = (struct answer){ 0 };
	if (may_be_elsewhere(walk, asked->key))
		return ask_all(walk, asked, best);
	return walk->own < walk->stack->count ? ask_part(walk, walk->own, walk->own, asked, best) : 0;
}

/* Past this key in all other parts, so that the next one is compared with what comes. */
static void move_past(struct walk *walk, const unsigned char *key)
{
	if (!may_be_elsewhere(walk, key))
		return;
	for (uint32_t part = 0; part < walk->stack->count; part++)
		while (part != walk->own && walk->views[part] && is_at(walk, part, walk->places[part], key))
			walk->places[part]++;
	find_next(walk);
}

static int answer_all(struct walk *walk, const struct ble_part *asked, const struct mamplus_ble_view *view, unsigned char *verdicts, uint32_t *ends, struct mamplus_ble_fault *fault)
{
	struct answer best = { 0 };

	walk->key_size = view->key_size;
	find_next(walk);
	for (uint32_t i = 0; i < view->count; i++) {
		struct ble_entry entry;

		if (ble_entry_at(asked->data, &asked->file, view, i, &entry) || resolve(walk, &entry, &best))
			return ble_fail(fault, "entry", view->section, i);
		if (i + 1 == view->count || memcmp(entry.key, entry.key + view->key_size, view->key_size))
			move_past(walk, entry.key);
		verdicts[i] = best.verdict;
		ends[i] = best.end;
	}
	return 0;
}

static int begin(struct walk *walk, const struct mamplus_ble_piece *asked, uint32_t section, struct mamplus_ble_fault *fault)
{
	uint32_t count = walk->stack->count;

	walk->parts = ble_open_parts(walk->stack->parts, count, asked, fault);
	walk->views = calloc((size_t)count + 1, sizeof(*walk->views));
	walk->places = calloc((size_t)count + 1, sizeof(*walk->places));
	if (!walk->parts)
		return -1;
	if (!walk->views || !walk->places)
		return ble_fail(fault, "memory", 0, 0);
	walk->own = count;
	for (uint32_t i = 0; i < count; i++) {
		walk->views[i] = ble_view(&walk->parts[i], section);
		if (walk->parts[i].data == asked->data)
			walk->own = i;
	}
	return 0;
}

static void drop(struct walk *walk)
{
	free(walk->parts);
	free(walk->views);
	free(walk->places);
}

int mamplus_ble_verdicts(const struct mamplus_ble_stack *stack, const struct mamplus_ble_piece *asked, uint32_t section,
			 unsigned char *verdicts, uint32_t *ends, struct mamplus_ble_fault *fault)
{
	struct walk walk = { .stack = stack };
	int result = begin(&walk, asked, section, fault);
	const struct mamplus_ble_view *view = result ? NULL : ble_view(&walk.parts[stack->count], section);

	if (view)
		result = answer_all(&walk, &walk.parts[stack->count], view, verdicts, ends, fault);
	drop(&walk);
	return result;
}

/* Whether a newer part mentions the value of `entry`; asked with keys that rise. */
static int is_mentioned_later(struct walk *walk, uint32_t part, const struct ble_entry *entry)
{
	struct ble_entry found;

	while (++part < walk->stack->count)
		if (walk->views[part] && ble_find(&walk->parts[part], walk->views[part], entry, &walk->places[part], &found) != BLE_NOWHERE)
			return 1;
	return 0;
}

static int count_ended(struct walk *walk, uint32_t part, const struct mamplus_ble_view *view, uint64_t *ended)
{
	const struct ble_part *opened = &walk->parts[part];
	struct ble_entry entry;

	memset(walk->places, 0, walk->stack->count * sizeof(*walk->places));
	for (uint32_t i = 0; i < view->count; i++) {
		uint32_t end = get32(opened->data + view->ends + (uint64_t)i * 4);

		if (!end || end > walk->stack->now_s)
			continue;
		if (ble_entry_at(opened->data, &opened->file, view, i, &entry))
			return -1;
		*ended += entry.group[0] && !is_mentioned_later(walk, part, &entry);
	}
	ble_give_back_entries(opened, view, 0, view->count);
	return 0;
}

int mamplus_ble_count_ended(const struct mamplus_ble_stack *layer, uint32_t section, uint64_t *ended, struct mamplus_ble_fault *fault)
{
	struct walk walk = { .stack = layer };
	int result = begin(&walk, layer->parts, section, fault);

	for (uint32_t part = 0; !result && part < layer->count; part++)
		if (walk.views[part] && count_ended(&walk, part, walk.views[part], ended))
			result = ble_fail(fault, "entry", section, 0);
	drop(&walk);
	return result;
}

int64_t mamplus_ble_find_id(const struct mamplus_ble_piece *list, uint64_t id)
{
	struct mamplus_ble_fault fault;
	struct ble_part part;
	int64_t slot = 0;

	if (ble_open_part(list, &part, &fault))
		return -1;
	for (uint32_t s = 0; s < part.file.sections; s++) {
		const struct mamplus_ble_view *view = &part.file.view[s];

		for (uint32_t i = 0; i < view->count; i++, slot++)
			if (get64(part.data + view->ids + (uint64_t)i * 8) == id)
				return slot;
	}
	return -1;
}
