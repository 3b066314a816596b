/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tree of path_globs.c, which path_ask.c walks.
 *
 * An edge is what a pattern says next: a character, `?`, `*`, `**`, a class. Behind `*` and `**` stands a
 * node that stays reached while characters come that the wildcard may cover.
 */
#ifndef MAMPLUS_PATH_TREE_H
#define MAMPLUS_PATH_TREE_H

#include <stdint.h>

#include "path_globs.h"
#include "value_text.h"

#define NONE 0xffffffffU
#define NO_ID 0xffffffffU

/* What an edge says, above all characters. */
#define SAYS_ANY 0x110000U
#define SAYS_STAR 0x110001U
#define SAYS_STARS 0x110002U
#define SAYS_FOLDERS 0x110003U	/* the two stars and the slash of "/" "**" "/": any number of whole components */
#define SAYS_INSIDE 0x110004U	/* from FOLDERS: within such a component */
#define SAYS_CLASS 0x200000U	/* and the number of the class */

enum { HAS_ANY = 1, HAS_STAR = 2, HAS_STARS = 4, HAS_FOLDERS = 8 };

struct node {
	uint32_t says;		/* the edge that leads here */
	uint32_t classes;	/* first child behind a class, or NONE */
	uint32_t next_class;	/* of the same parent */
	uint32_t accepts;	/* last pattern that ends here, or NO_ID */
	uint32_t reached;	/* by which step */
	uint32_t has;
};

struct edge {
	uint64_t key;		/* parent << 32 | says */
	uint32_t child;		/* 0: free; the root is nobody's child */
};

struct class {
	const unsigned char *text;	/* owned: between the brackets, the closing one included */
	uint32_t length;
};

struct mamplus_globs {
	struct node *nodes;
	uint32_t count;
	uint32_t room;
	struct edge *edges;
	uint32_t edge_room;		/* a power of two */
	struct class *classes;
	uint32_t class_count;
	uint32_t class_room;
	uint32_t *same;			/* by pattern: the one that ended at the same node before it */
	uint32_t same_room;
	uint32_t *reached[2];		/* nodes, by turn; room for all */
	uint32_t reached_room;
	uint32_t step;
};

/* The child behind the edge `says`; 0, which is nobody's child, when there is none. */
uint32_t mamplus_globs_child(const struct mamplus_globs *globs, uint32_t parent, uint32_t says);

#endif
