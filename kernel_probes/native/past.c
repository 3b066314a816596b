/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the agent keeps of its records: the last ones, who started whom, what was used.
 *
 * Nearly all records need no answer, and most of what is kept is never asked for. So it stays here, as bytes, and
 * each record once: a task that forked refers to what its parent refers to.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "lru.h"
#include "mamplus_events.h"
#include "mamplus_native.h"
#include "past.h"

enum use { CONTENTS, PATHS, DESTINATIONS, NAMES, USES };

struct mamplus_past {
	bool wants_everything, wants_starts;
	struct lru tasks, uses[USES];
	struct kept **last;	/* of `room`, number `seen` in the place after the last one's */
	uint32_t room;
	uint64_t seen, unseen, lost;
};

static const uint16_t sizes[MAMPLUS_KINDS] = {
	[MAMPLUS_KIND_EXEC] = sizeof(struct mamplus_exec),
	[MAMPLUS_KIND_FORK] = sizeof(struct mamplus_fork),
	[MAMPLUS_KIND_EXIT] = sizeof(struct mamplus_exit),
	[MAMPLUS_KIND_CONNECT] = sizeof(struct mamplus_connect),
	[MAMPLUS_KIND_SENDMSG] = sizeof(struct mamplus_connect),
	[MAMPLUS_KIND_PACKET] = sizeof(struct mamplus_packet),
	[MAMPLUS_KIND_DNS] = sizeof(struct mamplus_dns),
	[MAMPLUS_KIND_HELD] = sizeof(struct mamplus_exec),
	[MAMPLUS_KIND_FILE] = sizeof(struct mamplus_access),
	[MAMPLUS_KIND_TAMPER] = sizeof(struct mamplus_tamper),
};

/* The text that a record ends with. */
static const uint16_t texts[MAMPLUS_KINDS] = {
	[MAMPLUS_KIND_EXEC] = offsetof(struct mamplus_exec, path),
	[MAMPLUS_KIND_HELD] = offsetof(struct mamplus_exec, path),
	[MAMPLUS_KIND_FILE] = offsetof(struct mamplus_access, path),
	[MAMPLUS_KIND_DNS] = offsetof(struct mamplus_dns, name),
};

/* As many as recent.py keeps of each. */
static const struct {
	uint16_t room, at, length;
} of_uses[USES] = {
	[CONTENTS] = { 1024, offsetof(struct mamplus_exec, sha256), MAMPLUS_SHA256_LEN },
	[PATHS] = { 1024, offsetof(struct mamplus_exec, path), 0 },
	[DESTINATIONS] = { 256, offsetof(struct mamplus_connect, addr), MAMPLUS_ADDR_LEN + 3 },	/* port and protocol */
	[NAMES] = { 256, offsetof(struct mamplus_dns, name), 0 },
};

_Static_assert(sizeof(struct mamplus_access) == MAMPLUS_RECORD_BYTES, "the longest record has another length");

struct mamplus_past *mamplus_past_new(uint32_t tasks, uint32_t records)
{
	struct mamplus_past *past = calloc(1, sizeof(*past));
	bool is_whole;

	if (!past)
		return NULL;
	past->room = records;
	past->last = calloc(records, sizeof(struct kept *));
	is_whole = lru_begin(&past->tasks, tasks, 0, 0) && past->last;
	for (uint32_t use = 0; use < USES; use++)
		is_whole &= lru_begin(&past->uses[use], of_uses[use].room, of_uses[use].at, of_uses[use].length);
	if (is_whole)
		return past;
	mamplus_past_free(past);
	return NULL;
}

void mamplus_past_free(struct mamplus_past *past)
{
	for (uint32_t n = 0; past->last && n < past->room; n++)
		kept_let_go(past->last[n]);
	free(past->last);
	for (uint32_t use = 0; use < USES; use++)
		lru_end(&past->uses[use]);
	lru_end(&past->tasks);
	free(past);
}

void mamplus_past_wish(struct mamplus_past *past, bool everything, bool starts)
{
	past->wants_everything = everything;
	past->wants_starts = starts;
}

static const struct mamplus_head *head_of(const struct kept *kept)
{
	return (const void *)kept->bytes;
}

/* --- who started whom ------------------------------------------------------------------------ */

static void put_task(struct mamplus_past *past, uint32_t tgid, uint32_t ppid, struct kept *kept, bool is_alive)
{
	struct lru_node *task = lru_use(&past->tasks, tgid, kept);

	task->ppid = ppid;
	task->is_alive = is_alive;
}

static void note_fork(struct mamplus_past *past, struct kept *kept)
{
	const struct mamplus_fork *fork = (const void *)kept->bytes;
	uint32_t parent = lru_find(&past->tasks, fork->head.tgid, NULL);

	put_task(past, fork->child_tgid, fork->head.tgid, parent ? past->tasks.nodes[parent].record : kept, true);
}

static void note_exit(struct mamplus_past *past, struct kept *kept)
{
	uint32_t known = lru_find(&past->tasks, head_of(kept)->tgid, NULL);
	const struct lru_node *task = &past->tasks.nodes[known];

	put_task(past, head_of(kept)->tgid, known ? task->ppid : head_of(kept)->ppid, known ? task->record : kept, false);
}

uint32_t mamplus_past_tasks(const struct mamplus_past *past)
{
	return past->tasks.used;	/* none is taken out but for another one */
}

uint32_t mamplus_past_task(const struct mamplus_past *past, uint32_t tgid, unsigned char *out, uint32_t *ppid,
			   bool *is_alive)
{
	const struct lru_node *task = &past->tasks.nodes[lru_find(&past->tasks, tgid, NULL)];

	*ppid = task->ppid;
	*is_alive = task->is_alive;
	return task->record ? kept_give(task->record, out) : 0;
}

/* --- what was used --------------------------------------------------------------------------- */

/* What was suspected or refused is no use. */
static bool is_unsaid(const struct mamplus_head *head)
{
	return head->verdict == MAMPLUS_NOTHING || head->verdict == MAMPLUS_ALLOW;
}

static void note_use(struct mamplus_past *past, enum use use, struct kept *kept)
{
	lru_use(&past->uses[use], lru_hash(&past->uses[use], kept), kept);
}

static void note_program(struct mamplus_past *past, struct kept *kept)
{
	static const unsigned char unknown[MAMPLUS_SHA256_LEN];
	const struct mamplus_exec *exec = (const void *)kept->bytes;

	if (memcmp(exec->sha256, unknown, sizeof(unknown)))
		note_use(past, CONTENTS, kept);
	if (kept->length > offsetof(struct mamplus_exec, path) && exec->path[0] == '/')
		note_use(past, PATHS, kept);
}

uint32_t mamplus_past_use(struct mamplus_past *past, unsigned char *out)
{
	for (struct lru *table = past->uses; table < past->uses + USES; table++) {
		uint32_t oldest = lru_oldest(table), size;

		if (!oldest)
			continue;
		size = kept_give(table->nodes[oldest].record, out);
		if (table == &past->uses[PATHS])	/* of the content a later start may tell, which was given already */
			memset(out + offsetof(struct mamplus_exec, sha256), 0, MAMPLUS_SHA256_LEN);
		lru_take_out(table, oldest);
		return size;
	}
	return 0;
}

/* --- all of them ----------------------------------------------------------------------------- */

static void note_by_kind(struct mamplus_past *past, struct kept *kept)
{
	const struct mamplus_head *head = head_of(kept);
	bool is_use = is_unsaid(head);

	switch (head->kind) {
	case MAMPLUS_KIND_FORK:
		note_fork(past, kept);
		break;
	case MAMPLUS_KIND_EXIT:
		note_exit(past, kept);
		break;
	case MAMPLUS_KIND_EXEC:
	case MAMPLUS_KIND_HELD:
		put_task(past, head->tgid, head->ppid, kept, true);
		if (is_use)
			note_program(past, kept);
		break;
	case MAMPLUS_KIND_CONNECT:
	case MAMPLUS_KIND_SENDMSG:
		if (is_use)
			note_use(past, DESTINATIONS, kept);
		break;
	case MAMPLUS_KIND_DNS:
		if (is_use)
			note_use(past, NAMES, kept);
	}
}

static bool fits(const struct mamplus_head *head, uint32_t size)
{
	return size >= sizeof(*head) && head->kind < MAMPLUS_KINDS && size == sizes[head->kind] &&
	       head->verdict <= MAMPLUS_GUARD;
}

void mamplus_past_note(struct mamplus_past *past, const void *record, uint32_t size)
{
	const struct mamplus_head *head = record;
	struct kept **place, *kept;

	if (!fits(head, size))
		return;
	kept = kept_of(record, size, texts[head->kind]);
	if (!kept) {
		past->lost++;	/* no memory, and nothing waits for it */
		return;
	}
	note_by_kind(past, kept);
	place = &past->last[past->seen++ % past->room];
	kept_let_go(*place);
	*place = kept;
}

uint32_t mamplus_past_recent(const struct mamplus_past *past, uint32_t number, unsigned char *out)
{
	uint64_t count = past->seen < past->room ? past->seen : past->room;

	return number < count ? kept_give(past->last[(past->seen - count + number) % past->room], out) : 0;
}

/* As Pipeline._is_quiet() has it, as far as the head tells. */
static bool is_quiet(const struct mamplus_head *head)
{
	switch (head->kind) {
	case MAMPLUS_KIND_FORK:
	case MAMPLUS_KIND_EXIT:
		return true;
	case MAMPLUS_KIND_HELD:
	case MAMPLUS_KIND_FILE:
	case MAMPLUS_KIND_TAMPER:
		return false;
	default:
		return is_unsaid(head) && !head->flags;
	}
}

bool mamplus_past_wants(const struct mamplus_past *past, const void *record, uint32_t size)
{
	const struct mamplus_head *head = record;

	if (past->wants_everything || !fits(head, size) || !is_quiet(head))
		return true;
	return past->wants_starts && head->kind == MAMPLUS_KIND_EXEC;
}

bool mamplus_past_take(struct mamplus_past *past, const void *record, uint32_t size)
{
	bool is_wanted = mamplus_past_wants(past, record, size);

	mamplus_past_note(past, record, size);
	past->unseen += !is_wanted;
	return is_wanted;
}

uint64_t mamplus_past_unseen(const struct mamplus_past *past)
{
	return past->unseen;
}

uint64_t mamplus_past_forgotten(const struct mamplus_past *past)
{
	return past->tasks.gone;
}

uint64_t mamplus_past_lost(const struct mamplus_past *past)
{
	return past->lost;
}
