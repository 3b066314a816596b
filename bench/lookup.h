/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The addresses of the table benchmark, for the BPF programs and for those who load the tables. */
#ifndef MAMPLUS_BENCH_LOOKUP_H
#define MAMPLUS_BENCH_LOOKUP_H

/* What a program asks about: one after the other, spread over the whole table. */
struct lookup {
	unsigned long long state;	/* changes with every lookup */
	unsigned int count;		/* entries in the table */
	unsigned int offset;		/* 0: all are in the table; 1: none is */
	unsigned long long found;
};

/* Entry `index` of `count`: they lie evenly over all addresses. Host order. */
static inline __attribute__((always_inline)) unsigned int lookup_address(unsigned int index, unsigned int count)
{
	return (unsigned int)(((unsigned long long)index << 32) / count) + 1;
}

/* The next index, and with it the next state: Knuth's generator, of which the upper half is used. */
static inline __attribute__((always_inline)) unsigned int lookup_next(struct lookup *lookup)
{
	lookup->state = lookup->state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (unsigned int)((lookup->state >> 32) * lookup->count >> 32);
}

/* The first half of an IPv6 address out of what the registries give out: 2400::/12, 2600::/12 and so on to 2c00::/12. */
static inline __attribute__((always_inline)) unsigned long long lookup_high6(unsigned long long random)
{
	return (0x240ULL + 0x20 * ((random >> 32) * 5 >> 32)) << 52 | (random << 12 >> 12);
}

#endif
