/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fills the memory of a BLE table (mamplus_tables.h) from the columns of a generation's file.
 * Memory in, memory out: nothing here calls the kernel, so it can be fed anything.
 */
#ifndef MAMPLUS_TABLE_BUILD_H
#define MAMPLUS_TABLE_BUILD_H

#include <stdint.h>

/* cffi: begin */
struct mamplus_build {
	uint64_t *words;		/* (buckets + 1) x 8, zero at first; the last bucket is the stash */
	uint32_t buckets;
	uint32_t stashed;		/* words in the stash */
	uint64_t salt[2];
	const unsigned char *groups;	/* the file's group table */
	uint32_t group_count;
	uint64_t now_s;			/* entries that ended by then are left out */
	uint64_t entries;		/* put in */
	uint64_t next_end_s;		/* when the first of them ends; 0: none does */
	uint8_t probes4[33];		/* by prefix length: bit q, networks with qualifier q (MAMPLUS_Q_) came in */
	uint8_t probes6[129];
	uint8_t ports;			/* the same of entries that name a port only */
};

/* Part of a section's columns, from its file. */
struct mamplus_columns {
	const unsigned char *keys;
	const unsigned char *groups;
	const unsigned char *ends;
	uint32_t count;
	uint16_t section;		/* sha256, ip4, ip6, net or domain: enum mamplus_ble_section */
};

/* Add what `columns` hold. 0; -EINVAL: damaged; -ENOSPC: no room, take more buckets and begin anew. */
int mamplus_build_add(struct mamplus_build *build, const struct mamplus_columns *columns);
/* Add one domain, by its key. 0 or -ENOSPC. */
int mamplus_build_add_domain(struct mamplus_build *build, uint64_t key, uint32_t verdict);
/* cffi: end */

#endif
