/* SPDX-License-Identifier: Apache-2.0 */
/* Finds entries in lists that mamplus_ble_check() took: by key, from a place on, without reading what lies between. */
#ifndef MAMPLUS_BLE_FIND_H
#define MAMPLUS_BLE_FIND_H

#include "ble_read.h"
#include "ble_root.h"

#define BLE_NOWHERE UINT32_MAX

/* A piece, laid open. */
struct ble_part {
	const unsigned char *data;
	uint64_t size;
	uint32_t is_mapped;
	struct mamplus_ble_file file;
};

/* Lay open one piece. 0, or -1 and *fault. */
int ble_open_part(const struct mamplus_ble_piece *piece, struct ble_part *part, struct mamplus_ble_fault *fault);

/* Lay open all of them and, unless it is NULL, `last` behind them; the caller frees. NULL and *fault. */
struct ble_part *ble_open_parts(const struct mamplus_ble_piece *pieces, uint32_t count, const struct mamplus_ble_piece *last, struct mamplus_ble_fault *fault);

/* The view of a section, NULL when the part has none. */
const struct mamplus_ble_view *ble_view(const struct ble_part *part, uint32_t section);

/* The first index from `from` on whose key is not less than `key`; view->count when there is none. */
uint32_t ble_lower(const struct ble_part *part, const struct mamplus_ble_view *view, const unsigned char *key, uint32_t from);

/*
 * The index of the entry with the key and, where keys are hashes, the text of `wanted`, laid open in *found; BLE_NOWHERE.
 * *from is where to begin, and becomes where keys go on that are not less.
 */
uint32_t ble_find(const struct ble_part *part, const struct mamplus_ble_view *view, const struct ble_entry *wanted,
		  uint32_t *from, struct ble_entry *found);

/* Let go of the pages of a mapped part between two offsets: ten million entries must not stay resident. */
void ble_give_back(const struct ble_part *part, uint64_t begin, uint64_t end);

/* The same of the columns and texts of entries, from `first` to before `end`. */
void ble_give_back_entries(const struct ble_part *part, const struct mamplus_ble_view *view, uint64_t first, uint64_t end);

#endif
