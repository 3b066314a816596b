/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state root of a list: what all its entries say, in 32 bytes (docs/bundle-format.md).
 *
 * A sum, so that what a delta changes is taken off and added and nothing else is read.
 * Files in memory that mamplus_ble_check() took; libcrypto hashes.
 */
#ifndef MAMPLUS_BLE_ROOT_H
#define MAMPLUS_BLE_ROOT_H

#include "ble_file.h"

/* cffi: begin */
/* A file in memory. Mapped ones are let go of page by page while they are read through. */
struct mamplus_ble_piece {
	const unsigned char *data;
	uint64_t size;
	uint32_t is_mapped;
};

/*
 * Check a list or a delta as mamplus_ble_check() does and sum its entries into `root`, 32 bytes, in
 * one reading; of a delta the sum says nothing. 0, or -1 and *fault.
 */
int mamplus_ble_check_and_sum(const struct mamplus_ble_piece *list, unsigned char *root, struct mamplus_ble_fault *fault);

/* Compute the state root of a checked list into `root`, 32 bytes. 0, or -1 and *fault. */
int mamplus_ble_root(const struct mamplus_ble_piece *list, unsigned char *root, struct mamplus_ble_fault *fault);

/*
 * What `delta` makes of a layer that consists of `parts`, the base first, then deltas by age:
 * `root` holds the root before and gets the one after, `total` likewise the number of entries.
 * 0, or -1 and *fault.
 */
int mamplus_ble_after(const struct mamplus_ble_piece *parts, uint32_t count, const struct mamplus_ble_piece *delta,
		      unsigned char *root, int64_t *total, struct mamplus_ble_fault *fault);
/* cffi: end */

#endif
