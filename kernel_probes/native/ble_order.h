/* SPDX-License-Identifier: Apache-2.0 */
/* Sorts keys for the writer in Python, which took 3 us an entry for it. */
#ifndef MAMPLUS_BLE_ORDER_H
#define MAMPLUS_BLE_ORDER_H

#include "ble_file.h"

/* cffi: begin */
/*
 * Fill `order` with the indexes of `count` keys as they rise by their bytes, equal ones by index.
 * 1 when keys come twice, 0 when none does, -1 and *fault without memory.
 */
int mamplus_ble_order(const unsigned char *keys, uint32_t key_size, uint32_t count, uint32_t *order, struct mamplus_ble_fault *fault);
/* cffi: end */

#endif
