/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many patterns of paths, asked at once: a tree in which patterns share what they begin with.
 * Between the two marks stands what cffi reads: plain declarations only.
 */
#ifndef MAMPLUS_PATH_GLOBS_H
#define MAMPLUS_PATH_GLOBS_H

#include <stdint.h>

/* cffi: begin */
struct mamplus_globs;

/* An empty set, or NULL without memory. One thread at a time: asking marks the tree. */
struct mamplus_globs *mamplus_globs_new(void);
void mamplus_globs_free(struct mamplus_globs *globs);

/*
 * Add those of `count` texts that have a wildcard: `offsets` (u32, little-endian) say where in `strings` each lies, as in
 * the file of a generation. A pattern is known by first + its index. Returns how many were added; -EINVAL: a text is
 * damaged; -ENOMEM; -ENOSPC: the tree would grow beyond its bound. Those before it stay.
 */
int mamplus_globs_add(struct mamplus_globs *globs, const unsigned char *strings, uint64_t strings_size, const unsigned char *offsets, uint32_t count, uint32_t first);

/* Write up to `max` of the patterns that cover `path` (bytes as the kernel has them) to `found`; returns how many do. */
uint32_t mamplus_globs_ask(struct mamplus_globs *globs, const unsigned char *path, uint32_t length, uint32_t *found, uint32_t max);

/* Bytes of memory that the set holds. */
uint64_t mamplus_globs_bytes(const struct mamplus_globs *globs);
/* cffi: end */

#endif
