/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the layers of a device say together. In a layer the newest part that mentions a key
 * counts; of the layers the greatest verdict that has not ended.
 */
#ifndef MAMPLUS_BLE_STACK_H
#define MAMPLUS_BLE_STACK_H

#include "ble_root.h"

/* cffi: begin */
/* The parts of all layers, layer by layer; in each the base first, then its deltas by age. */
struct mamplus_ble_stack {
	const struct mamplus_ble_piece *parts;
	const uint32_t *layers;		/* of each part; rising */
	uint32_t count;
	uint32_t now_s;			/* entries that ended by then are silent */
};

/*
 * For each value in `section` of `asked` (one of the parts, or any other file), in order: the
 * verdict, 0 for nothing, and when it ends, 0 for never. 0, or -1 and *fault.
 */
int mamplus_ble_verdicts(const struct mamplus_ble_stack *stack, const struct mamplus_ble_piece *asked, uint32_t section,
			 unsigned char *verdicts, uint32_t *ends, struct mamplus_ble_fault *fault);

/* Count the entries in `section` that stand in a stack of one layer, but ended. 0, or -1 and *fault. */
int mamplus_ble_count_ended(const struct mamplus_ble_stack *layer, uint32_t section, uint64_t *ended, struct mamplus_ble_fault *fault);

/* The slot of the entry with this id, -1 when there is none. */
int64_t mamplus_ble_find_id(const struct mamplus_ble_piece *list, uint64_t id);
/* cffi: end */

#endif
