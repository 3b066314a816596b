/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of a BLE generation, version 2 (docs/bundle-format.md), as memory: nothing here opens,
 * maps or allocates, so it can be fed anything.
 *
 * Between the two marks stands what cffi reads: plain declarations only.
 */
#ifndef MAMPLUS_BLE_FILE_H
#define MAMPLUS_BLE_FILE_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
/* Sections, by number on disk. Never renumbered or reused. */
enum mamplus_ble_section {
	MAMPLUS_BLE_SHA256 = 1,
	MAMPLUS_BLE_IP4 = 2,
	MAMPLUS_BLE_IP6 = 3,
	MAMPLUS_BLE_NET = 4,
	MAMPLUS_BLE_DOMAIN = 5,
	MAMPLUS_BLE_PATH = 6,
	MAMPLUS_BLE_PACKAGE = 7,
	MAMPLUS_BLE_USER = 8,
	MAMPLUS_BLE_GROUP = 9,
	MAMPLUS_BLE_USB = 10,
	MAMPLUS_BLE_TLS = 11,
	MAMPLUS_BLE_YARA = 12,
	MAMPLUS_BLE_SIGMA = 13,
	MAMPLUS_BLE_SECTIONS = 13,
};

enum mamplus_ble_flag {
	MAMPLUS_BLE_MAY_SHRINK = 1,	/* meant to be empty or much smaller than the one before */
	MAMPLUS_BLE_DELTA = 2,		/* changes to another list, not a list */
};

enum mamplus_ble_bound {
	MAMPLUS_BLE_FEW = 100000,	/* entries of a section whose kind user space searches one by one */
};

/* Where a section's columns begin, in bytes from the start of the file. */
struct mamplus_ble_view {
	uint16_t section;
	uint16_t key_size;	/* bytes */
	uint32_t count;
	uint64_t keys;
	uint64_t groups;
	uint64_t ids;
	uint64_t ends;
	uint64_t texts;		/* 0: the key says the value */
};

struct mamplus_ble_file {
	uint32_t flags;
	uint32_t sections;
	uint32_t entries;
	uint32_t group_count;
	uint64_t number;
	uint64_t created_s;
	uint64_t groups;	/* the group table */
	uint64_t strings;
	uint64_t strings_size;
	uint64_t before;		/* of a delta: the number of the list that it changes; else 0 */
	unsigned char root[32];	/* state root of the list, or of what a delta makes of it */
	uint32_t total;		/* entries of that list */
	uint32_t audience;	/* string offset */
	struct mamplus_ble_view view[13];
};

/* What is wrong: a text that does not change, where in the file's terms. */
struct mamplus_ble_fault {
	const char *what;
	uint32_t section;	/* 0: none in particular */
	uint32_t index;		/* of the entry in its section */
};

/* Lay open the header and the directory. 0, or -1 and *fault. */
int mamplus_ble_open(const unsigned char *data, uint64_t size, struct mamplus_ble_file *file, struct mamplus_ble_fault *fault);

/*
 * Read everything once: order and form of all keys, groups, numbers, texts. 0, or -1 and *fault.
 * What is left to the caller: the canonical spelling of texts other than domain names.
 */
int mamplus_ble_check(const unsigned char *data, uint64_t size, struct mamplus_ble_fault *fault);

/* FNV-1a, 64 bits: of a name's bytes from the last to the first, and of a text's from the first to the last. */
uint64_t mamplus_ble_name_hash(const unsigned char *name, uint32_t length);
uint64_t mamplus_ble_text_hash(const unsigned char *text, uint32_t length);
/* cffi: end */

#define MAMPLUS_BLE_HEADER 128
#define MAMPLUS_BLE_DIRECTORY 48	/* bytes a section */
#define MAMPLUS_BLE_GROUP_SIZE 32

#endif
