/* SPDX-License-Identifier: Apache-2.0 */
/* What a file is to hold, as runs of entries of other files; and the writer that makes it so. */
#ifndef MAMPLUS_BLE_PLAN_H
#define MAMPLUS_BLE_PLAN_H

#include "ble_find.h"

/* Entries that follow each other in a section of a part. */
struct ble_run {
	uint32_t part;
	uint32_t first;
	uint32_t count;
	uint32_t is_withdrawn;		/* their values alone: a delta takes them off */
};

struct ble_runs {
	struct ble_run *run;
	size_t count, room;
};

struct ble_plan {
	struct ble_part *parts;
	uint32_t count;
	struct ble_runs runs[MAMPLUS_BLE_SECTIONS + 1];
	/* For the header. */
	uint32_t flags;
	uint64_t before;
	const struct ble_part *about;	/* number, creation time, audience, root and total are this part's */
};

/* Add entries behind those before. 0, or -1 without memory. */
int ble_plan_add(struct ble_runs *runs, uint32_t part, uint32_t first, uint32_t count, uint32_t is_withdrawn);

/* As the functions of ble_merge.h. */
int ble_plan_write(const struct ble_plan *plan, int fd, struct mamplus_ble_fault *fault);

void ble_plan_free(struct ble_plan *plan);

#endif
