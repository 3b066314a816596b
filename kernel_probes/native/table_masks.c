/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Marks in the masks of the table of networks (mamplus_tables.h) which lengths may cover an address. */
#include "table_words.h"

/* Several threads may at once. */
static void mark(uint64_t *mask, uint32_t bit)
{
	if (!(*mask >> bit & 1))
		__atomic_fetch_or(mask, 1ULL << bit, __ATOMIC_RELAXED);
}

void mark_network4(struct mamplus_build *build, uint32_t addr, uint32_t prefix)
{
	uint64_t first = addr >> (32 - build->mask_bits);
	uint64_t count = prefix < build->mask_bits ? 1ULL << (build->mask_bits - prefix) : 1;

	for (uint64_t i = first; i < first + count && i >> build->mask_bits == 0; i++)
		mark(masks_of(build) + i, prefix);
}

void mark_network6(struct mamplus_build *build, uint32_t first, uint32_t prefix)
{
	bool is_everywhere = prefix < MAMPLUS_MASK6_LEAST;
	uint32_t bits = build->mask_bits, bit = mamplus_mask6_bit(prefix);
	uint32_t count = is_everywhere ? 1U << bits : prefix < 32 ? 1U << (32 - prefix) : 1;

	for (uint32_t i = 0; i < count; i++) {
		uint64_t hash = mamplus_mask6_hash(first + i);

		mark(masks_of(build) + (is_everywhere ? i : mamplus_mask6_one(hash, bits)), bit);
		mark(masks_of(build) + (is_everywhere ? i : mamplus_mask6_two(hash, bits)), bit);
	}
}
