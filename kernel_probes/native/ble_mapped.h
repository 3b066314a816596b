/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists that are mapped while their files may become shorter, or their disk fails or is pulled out.
 *
 * A read of what is gone is SIGBUS, which ends the process. Of a mapping that is watched it is a fault of that list:
 * the whole of it becomes zeros, which whoever reads on takes for what it is worth, and it is lost from then on.
 */
#ifndef MAMPLUS_BLE_MAPPED_H
#define MAMPLUS_BLE_MAPPED_H

#include <stdint.h>

/* cffi: begin */
struct mamplus_ble_mapping {
	const unsigned char *data;	/* NULL: not in use */
	uint64_t size;			/* bytes */
	uint32_t is_lost;		/* 1: what was read may be zeros that nobody wrote */
	struct mamplus_ble_mapping *next;
};

/* Watch a mapping, until before it is unmapped. NULL without memory. */
struct mamplus_ble_mapping *mamplus_ble_watch(const unsigned char *data, uint64_t size);
void mamplus_ble_unwatch(struct mamplus_ble_mapping *mapping);
/* cffi: end */

#endif
