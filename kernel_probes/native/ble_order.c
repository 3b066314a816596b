/* SPDX-License-Identifier: Apache-2.0 */
/* Sorts keys: ble_order.h. */
#include <endian.h>
#include <stdlib.h>

#include "ble_order.h"
#include "ble_read.h"

/* The first bytes decide mostly, and lie beside each other. */
struct place {
	uint64_t first;			/* eight bytes as a number that rises as they do */
	const unsigned char *key;
	uint32_t key_size;
	uint32_t index;
};

static int compare(const void *one_place, const void *two_place)
{
	const struct place *one = one_place, *two = two_place;
	int order = (one->first > two->first) - (one->first < two->first);

	if (!order)
		order = memcmp(one->key, two->key, one->key_size);
	return order ? order : (one->index > two->index) - (one->index < two->index);
}

static uint64_t first_bytes(const unsigned char *key, uint32_t key_size)
{
	uint64_t first = 0;

	memcpy(&first, key, key_size < sizeof(first) ? key_size : sizeof(first));
	return be64toh(first);
}

int mamplus_ble_order(const unsigned char *keys, uint32_t key_size, uint32_t count, uint32_t *order, struct mamplus_ble_fault *fault)
{
	struct place *places = malloc(((size_t)count + 1) * sizeof(*places));
	int is_twice = 0;

	if (!places)
		return ble_fail(fault, "memory", 0, 0);
	for (uint32_t i = 0; i < count; i++) {
		const unsigned char *key = keys + (uint64_t)i * key_size;

		places[i] = (struct place){ first_bytes(key, key_size), key, key_size, i };
	}
	qsort(places, count, sizeof(*places), compare);
	for (uint32_t i = 0; i < count; i++) {
		order[i] = places[i].index;
		is_twice |= i && !memcmp(places[i - 1].key, places[i].key, key_size);
	}
	free(places);
	return is_twice;
}
