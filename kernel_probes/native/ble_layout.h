/* SPDX-License-Identifier: Apache-2.0 */
/* Where everything goes in a file that is to be written: groups and remarks numbered, texts and columns laid out. */
#ifndef MAMPLUS_BLE_LAYOUT_H
#define MAMPLUS_BLE_LAYOUT_H

#include "ble_plan.h"

#define BLE_UNSET UINT32_MAX
#define BLE_COLUMNS 5		/* keys, groups, ids, ends, texts */

/* Numbers of things by their hash; grown before it is three quarters full. */
struct index {
	uint32_t *slots;
	uint32_t room;
};

/* A remark that groups of the new file share: where it comes from, and where it goes. */
struct remark {
	uint32_t part;
	uint32_t from;
	uint32_t to;
};

/* A section of the new file. */
struct layout {
	uint32_t count;
	uint32_t remarks_end;		/* of writer.remarks: those met up to here come before the texts */
	uint64_t at[BLE_COLUMNS];
	uint64_t next;			/* where the columns after these begin */
};

/* All of it. Zeros, but for `plan` and `fault`, before ble_lay_out(). */
struct writer {
	const struct ble_plan *plan;
	struct mamplus_ble_fault *fault;
	uint32_t **numbers;		/* per part: its groups' numbers in the new file */
	unsigned char (*groups)[MAMPLUS_BLE_GROUP_SIZE];
	struct remark *remarks;
	struct index group_index, remark_index;
	uint32_t group_count, group_room, remark_count, remark_room;
	uint32_t withdrawn;		/* the number of that group */
	uint32_t audience;
	uint64_t strings_size;
	uint32_t sections;		/* that have entries */
	uint64_t entries;
	struct layout layout[MAMPLUS_BLE_SECTIONS + 1];
};

/* The text of a remark, which is there: it was looked at when it was laid out. */
const unsigned char *ble_remark(const struct writer *writer, const struct remark *remark, uint32_t *length);

/* The view that a run's part has of the run's section. */
const struct mamplus_ble_view *ble_run_view(const struct writer *writer, uint32_t section, const struct ble_run *run);

/* Lay out what the plan names, in the order in which it is met. 0, or -1 and the fault. */
int ble_lay_out(struct writer *writer);

void ble_layout_free(struct writer *writer);

#endif
