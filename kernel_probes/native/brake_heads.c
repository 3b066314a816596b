/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who changed which files of late: for each process the last `limit` different ones, so it is over the limit when all of
 * them lie within the window. One who was quiet longest is forgotten for a new one.
 */
#include <stdlib.h>
#include <string.h>

#include "brake.h"

bool brake_heads_make(struct brake_heads *heads, uint32_t limit, uint64_t window_ns)
{
	struct brake_seen *seen = calloc((size_t)BRAKE_HEADS * limit, sizeof(*seen));

	heads->limit = limit;
	heads->window_ns = window_ns;
	for (int number = 0; seen && number < BRAKE_HEADS; number++)
		heads->all[number].seen = seen + (size_t)number * limit;
	return seen != NULL;
}

void brake_heads_free(struct brake_heads *heads)
{
	free(heads->all[0].seen);
}

void brake_begin_anew(struct brake_heads *heads, struct brake_head *head)
{
	memset(head->seen, 0, heads->limit * sizeof(*head->seen));
	head->verdict = BRAKE_UNKNOWN;
}

void brake_begin_all_anew(struct brake_heads *heads)
{
	for (struct brake_head *head = heads->all; head < heads->all + BRAKE_HEADS; head++) {
		if (head->tgid)
			brake_begin_anew(heads, head);
	}
}

struct brake_head *brake_head_of(struct brake_heads *heads, pid_t tgid)
{
	struct brake_head *oldest = &heads->all[0];

	for (struct brake_head *head = heads->all; head < heads->all + BRAKE_HEADS; head++) {
		if (head->tgid == tgid)
			return head;
		if (head->last_ns < oldest->last_ns)
			oldest = head;
	}
	oldest->tgid = tgid;
	brake_begin_anew(heads, oldest);
	return oldest;
}

bool brake_saw(const struct brake_heads *heads, struct brake_head *head, uint64_t file, uint64_t now)
{
	struct brake_seen *oldest = head->seen;

	head->last_ns = now;
	for (struct brake_seen *seen = head->seen; seen < head->seen + heads->limit; seen++) {
		if (seen->at_ns && seen->file == file) {
			bool is_new = now - seen->at_ns > heads->window_ns;

			seen->at_ns = now;
			return is_new;
		}
		if (seen->at_ns < oldest->at_ns)
			oldest = seen;
	}
	*oldest = (struct brake_seen){ .file = file, .at_ns = now };
	return true;
}

uint32_t brake_within(const struct brake_heads *heads, const struct brake_head *head, uint64_t now)
{
	uint32_t count = 0;

	for (const struct brake_seen *seen = head->seen; seen < head->seen + heads->limit; seen++)
		count += seen->at_ns && now - seen->at_ns <= heads->window_ns;
	return count;
}
