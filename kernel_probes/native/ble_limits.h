/* SPDX-License-Identifier: Apache-2.0 */
/* What a layer of the list may hold, checked entry by entry: docs/trust.md, "Limits of the online layers". */
#ifndef MAMPLUS_BLE_LIMITS_H
#define MAMPLUS_BLE_LIMITS_H

#include <stdint.h>

#include "ble_file.h"

/* cffi: begin */
struct mamplus_ble_limits {
	uint32_t entries;	/* at most */
	uint32_t verdicts;	/* bit n: verdict n may be said */
	uint32_t sections;	/* bit n: section n may be there */
	uint32_t life_s;	/* an end is wanted, at most so long after the list was made; 0: none is wanted */
	uint32_t prefix4;	/* networks are at least this long; 0: any, and ports too */
	uint32_t prefix6;
};

/*
 * Every entry of a file is within `limits`. 0, or -1 and *fault. Withdrawn entries (a delta's, verdict 0)
 * take something off the layer and are always within.
 */
int mamplus_ble_within(const unsigned char *data, uint64_t size, const struct mamplus_ble_limits *limits,
		       struct mamplus_ble_fault *fault);
/* cffi: end */

#endif
