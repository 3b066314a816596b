/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes lists and deltas out of lists and deltas, as streams: memory grows with what changes and
 * with the number of groups and remarks, not with the number of entries.
 *
 * What comes out is what encode.py would write for the same entries, byte for byte. Results go to
 * `fd`, an empty file open for writing. 0; -1 and *fault; -2 and errno when `fd` cannot be written.
 */
#ifndef MAMPLUS_BLE_MERGE_H
#define MAMPLUS_BLE_MERGE_H

#include "ble_root.h"

/* cffi: begin */
/* The whole list that `parts` make, the base first, then deltas by age; what the header says comes from the last. */
int mamplus_ble_merge(const struct mamplus_ble_piece *parts, uint32_t count, int fd, struct mamplus_ble_fault *fault);

/* The delta that leads from one whole list, pair[0], to another, pair[1]. */
int mamplus_ble_diff(const struct mamplus_ble_piece *pair, int fd, struct mamplus_ble_fault *fault);

/* The delta pair[1] without what changes nothing in the whole list pair[0]. */
int mamplus_ble_trim(const struct mamplus_ble_piece *pair, int fd, struct mamplus_ble_fault *fault);
/* cffi: end */

#endif
