/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The form of values that are texts: paths, packages, users, groups, USB devices, rules.
 * Memory in, an answer out; nothing here allocates, so it can be fed anything.
 *
 * Between the two marks stands what cffi reads: plain declarations only.
 */
#ifndef MAMPLUS_VALUE_TEXT_H
#define MAMPLUS_VALUE_TEXT_H

#include <stdint.h>

/* cffi: begin */
/* Which versions are compared: Debian's order (deb-version(7)) or that of rpm (rpm-version(7)). */
enum mamplus_version_scheme {
	MAMPLUS_VERSION_DEB = 1,
	MAMPLUS_VERSION_RPM = 2,
};

/*
 * -1, 0 or 1 as version `one` is older than, level with or newer than `two`: [epoch:]version[-revision]. In rpm's order
 * a revision counts only where both have one.
 */
int mamplus_version_order(uint32_t scheme, const unsigned char *one, uint32_t one_length, const unsigned char *two, uint32_t two_length);

/* Whether a text has the form of a value of `section` (enum mamplus_ble_section); UTF-8 is the caller's to check. */
int mamplus_text_fits(uint16_t section, const unsigned char *text, uint32_t length);

/* How many bytes of a package's text are its name with the scheme, `deb:openssl`: what its key is the hash of. */
uint32_t mamplus_package_name(const unsigned char *text, uint32_t length);
/* cffi: end */

/* What stands at a place of a path's text. */
enum mamplus_path_item {
	MAMPLUS_PATH_END,
	MAMPLUS_PATH_BAD,
	MAMPLUS_PATH_BYTE,	/* one byte of the path: as it is, or escaped */
	MAMPLUS_PATH_ANY,	/* ? */
	MAMPLUS_PATH_STAR,	/* * */
	MAMPLUS_PATH_STARS,	/* ** and more */
	MAMPLUS_PATH_CLASS,	/* [...] */
};

/* What a class of a path's text begins with, and what a range is written with. */
#define MAMPLUS_CLASS_NOT '!'
#define MAMPLUS_CLASS_TO '-'

/*
 * Read the item at *at and move *at behind it; *byte is set for MAMPLUS_PATH_BYTE. Of a class only the end is looked
 * for: its items are read with mamplus_path_in_class().
 */
enum mamplus_path_item mamplus_path_next(const unsigned char *text, uint32_t length, uint32_t *at, unsigned char *byte);
/* The same between the brackets of a class: MAMPLUS_PATH_BYTE, MAMPLUS_PATH_END at the closing one. *escaped: `\-`, not `-`. */
enum mamplus_path_item mamplus_path_in_class(const unsigned char *text, uint32_t length, uint32_t *at, unsigned char *byte, int *escaped);

/* The number of the character at `at` (RFC 3629) and its size in *size; a byte that begins none: 0xdc00 and it, size 1. */
uint32_t mamplus_character(const unsigned char *at, uint32_t left, uint32_t *size);

#endif
