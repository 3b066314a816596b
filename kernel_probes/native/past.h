/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the agent keeps of its records, and which of them it wants to see: nearly none. One thread.
 *
 * What gives a record puts the whole of it into `out` (MAMPLUS_RECORD_BYTES) and returns its size; 0: there is none.
 */
#ifndef MAMPLUS_PAST_H
#define MAMPLUS_PAST_H

#include <stdbool.h>
#include <stdint.h>

/* cffi: begin */
#define MAMPLUS_RECORD_BYTES 416	/* the longest */

struct mamplus_past;

/* tasks, records: how many are kept, at least one. NULL: no memory. */
struct mamplus_past *mamplus_past_new(uint32_t tasks, uint32_t records);
void mamplus_past_free(struct mamplus_past *past);
/* What is wanted besides what may need an answer: every record, every start. */
void mamplus_past_wish(struct mamplus_past *past, bool everything, bool starts);
/* Whether a record is to be seen. What does not fit is, too: it is to be told. */
bool mamplus_past_wants(const struct mamplus_past *past, const void *record, uint32_t size);
void mamplus_past_note(struct mamplus_past *past, const void *record, uint32_t size);

uint64_t mamplus_past_unseen(const struct mamplus_past *past);	/* records that were not wanted */
uint64_t mamplus_past_forgotten(const struct mamplus_past *past);	/* tasks that had to go */
uint64_t mamplus_past_lost(const struct mamplus_past *past);	/* records that found no memory */
uint32_t mamplus_past_tasks(const struct mamplus_past *past);
/* What is known of `tgid`: the start that made it what it is, or the fork or exit that it was first seen by. */
uint32_t mamplus_past_task(const struct mamplus_past *past, uint32_t tgid, unsigned char *out, uint32_t *ppid,
			   bool *is_alive);
/* The last records; number 0 is the oldest. */
uint32_t mamplus_past_recent(const struct mamplus_past *past, uint32_t number, unsigned char *out);
/* Takes out a record of what was used: of each sort first what was used longest ago. */
uint32_t mamplus_past_use(struct mamplus_past *past, unsigned char *out);
/* cffi: end */

/* Notes a record as it comes from the ring; returns whether it is to be seen. */
bool mamplus_past_take(struct mamplus_past *past, const void *record, uint32_t size);

#endif
