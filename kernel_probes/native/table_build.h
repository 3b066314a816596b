/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fills the memory of a BLE table (mamplus_tables.h) from the columns of a generation's file.
 * Memory in, memory out: nothing here calls the kernel, so it can be fed anything.
 *
 * A table is made in this order: begin, scatter for every part of every section, settle. From
 * then on single keys can be set, in a copy of it too.
 */
#ifndef MAMPLUS_TABLE_BUILD_H
#define MAMPLUS_TABLE_BUILD_H

#include <stdint.h>

/* cffi: begin */
struct mamplus_fill;			/* what is only alive between begin and settle */

struct mamplus_build {
	uint64_t *words;		/* mamplus_build_words of them, zero at first; aligned to 64 bytes */
	uint32_t blocks;
	uint32_t block_buckets;		/* at most MAMPLUS_BLOCK_BUCKETS */
	uint32_t stashed;		/* words in the stash */
	uint32_t threads;		/* as many fill the table; 1 to 4 */
	uint32_t mask_bits;		/* of the table of networks, 3 to 24: 2^bits masks follow the filters; 0: none do */
	uint64_t salt[2];
	uint64_t now_s;			/* entries that ended by then are left out */
	uint64_t entries;		/* in the table: one a key; 0 at begin, as all that counts */
	uint64_t added;			/* keys that came in after it was settled: each leaves bits in the filters for good */
	uint64_t expired;		/* left out of what was scattered: they ended */
	uint64_t over_budget;		/* left out: verdict 4, or beyond the cut */
	uint64_t next_end_s;		/* when the first entry ends; 0: none does */
	uint64_t probes4[132];		/* prefix length x 4 + qualifier (MAMPLUS_Q_): networks that came in, gone ones too */
	uint64_t probes6[516];
	uint8_t skip6[516];		/* 1: leave these out */
	uint64_t ports[4];		/* the same of entries that name a port only, by qualifier */
	struct mamplus_fill *fill;
};

/* Part of a section's columns, from its file. */
struct mamplus_columns {
	const unsigned char *keys;
	const unsigned char *groups;
	const unsigned char *ends;
	const unsigned char *texts;	/* of the section domain alone */
	const unsigned char *strings;
	uint64_t strings_size;
	const uint8_t *verdicts;	/* by group; 4: over the budget; 0: withdrawn, damaged where nothing can be */
	uint32_t group_count;
	uint32_t count;
	uint32_t cut_group;		/* of this group only the first `cut` of this part; */
	uint32_t cut;
	uint16_t section;		/* sha256, ip4, ip6, net or domain: enum mamplus_ble_section */
	uint8_t has_cut;		/* 0: no group is cut */
	uint8_t is_mapped;		/* 1: of a file that is open under `fd`, and mapped at `file` */
	int32_t fd;
	const unsigned char *file;
};

/* Words of a table of this size, a multiple of 8. blocks 0: of one that is empty, which has room for a block. */
uint64_t mamplus_build_words(uint32_t blocks, uint32_t block_buckets, uint32_t mask_bits);

/* Make room for filling. 0 or -ENOMEM. Whatever happens afterwards: settle or drop. */
int mamplus_build_begin(struct mamplus_build *build);
/* Add what `columns` hold. 0; -EINVAL: damaged; -ENOSPC: no room, take more buckets and begin anew. */
int mamplus_build_scatter(struct mamplus_build *build, const struct mamplus_columns *columns);
/* Put all in its place. Of two with one key the greater verdict stays. 0, -ENOSPC or -ENOMEM. */
int mamplus_build_settle(struct mamplus_build *build);
void mamplus_build_drop(struct mamplus_build *build);

/*
 * In a settled table, give each key of `columns` the verdict in `resolved`, 0: remove it; `ends`: when
 * it ends, 4 bytes each. A key that only the budget leaves out does not come in, and is counted; what the
 * table holds already gets its verdict. 0; -EINVAL or -ENOSPC: some are set, so throw the table away.
 */
int mamplus_build_set(struct mamplus_build *build, const struct mamplus_columns *columns, const uint8_t *resolved,
		      const unsigned char *ends);
/* Set one domain by its name: `is_alone`: without its sub-domains. 0, -EINVAL or -ENOSPC. */
int mamplus_build_set_name(struct mamplus_build *build, const unsigned char *name, uint32_t length, uint32_t is_alone,
			   uint32_t verdict);

/*
 * Count in probes6, which is 0 before the first of them, the IPv6 networks of a part's section `net` that a
 * settled table holds, each once. seen: a bit for each word of the table, of all parts.
 */
void mamplus_build_recount6(struct mamplus_build *build, const struct mamplus_columns *columns, uint8_t *seen);

/* Count the live entries of each group, for a budget. 0 or -EINVAL. counts: one a group, added to. */
int mamplus_count_groups(const struct mamplus_columns *columns, uint64_t now_s, uint64_t *counts);
/* Return how many entries from the first on hold *wanted live ones of `group`; *wanted becomes what is missing. */
uint32_t mamplus_count_until(const struct mamplus_columns *columns, uint64_t now_s, uint32_t group, uint64_t *wanted);

/* Copy a table, by as many threads. */
void mamplus_build_copy(uint64_t *to, const uint64_t *from, uint64_t words, uint32_t threads);
/* cffi: end */

#endif
