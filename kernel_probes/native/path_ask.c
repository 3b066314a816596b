/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Walks the tree of path_globs.c with the characters of a path, all nodes that are reached at a time:
 * a path is read once, however many patterns there are.
 */
#include "path_tree.h"

/* The bytes that stand at `at` between brackets, up to four: enough to tell a character. */
static uint32_t class_bytes_at(const unsigned char *text, uint32_t length, uint32_t at, unsigned char *bytes, uint32_t *ends)
{
	uint32_t count = 0;
	int escaped;

	while (count < 4 && mamplus_path_in_class(text, length, &at, &bytes[count], &escaped) == MAMPLUS_PATH_BYTE)
		ends[count++] = at;
	return count;
}

static uint32_t class_character(const struct class *class, uint32_t *at)
{
	unsigned char bytes[4];
	uint32_t ends[4], size, count = class_bytes_at(class->text, class->length, *at, bytes, ends);
	uint32_t character = mamplus_character(bytes, count, &size);

	*at = ends[size - 1];
	return character;
}

static int class_covers(const struct class *class, uint32_t character)
{
	int inverted = class->text[0] == MAMPLUS_CLASS_NOT;
	uint32_t at = (uint32_t)inverted, low, high;

	if (character == '/')
		return 0;
	while (class->text[at] != ']') {
		low = high = class_character(class, &at);
		if (class->text[at] == MAMPLUS_CLASS_TO && class->text[at + 1] != ']') {
			at++;
			high = class_character(class, &at);
		}
		if (character >= low && character <= high)
			return !inverted;
	}
	return inverted;
}

struct walk {
	struct mamplus_globs *globs;
	uint32_t *nodes;
	uint32_t count;
};

static void reach(struct walk *walk, uint32_t node)
{
	if (walk->globs->nodes[node].reached == walk->globs->step)
		return;
	walk->globs->nodes[node].reached = walk->globs->step;
	walk->nodes[walk->count++] = node;
}

/* Wildcards that may cover nothing: what stands behind them is reached with them. */
static void reach_further(struct walk *walk)
{
	static const uint32_t further[][2] = {
		{ HAS_STAR, SAYS_STAR }, { HAS_STARS, SAYS_STARS }, { HAS_FOLDERS, SAYS_FOLDERS },
	};

	for (uint32_t i = 0; i < walk->count; i++)
		for (uint32_t j = 0; j < 3; j++)
			if (walk->globs->nodes[walk->nodes[i]].has & further[j][0])
				reach(walk, mamplus_globs_child(walk->globs, walk->nodes[i], further[j][1]));
}

/* The node that `node` itself turns into when `character` comes: wildcards stay. */
static uint32_t stays(const struct mamplus_globs *globs, uint32_t node, uint32_t character)
{
	uint32_t inside;

	switch (globs->nodes[node].says) {
	case SAYS_STAR:
		return character == '/' ? NONE : node;
	case SAYS_STARS:
		return node;
	case SAYS_FOLDERS:
		inside = mamplus_globs_child(globs, node, SAYS_INSIDE);
		return character == '/' ? node : inside ? inside : NONE;
	default:
		return NONE;
	}
}

/* Within a component that "**" covers: the parent is reached again at its end. INSIDE is made right after its parent. */
static uint32_t stays_inside(uint32_t node, uint32_t character)
{
	return character == '/' ? node - 1 : node;
}

static void follow(struct walk *walk, uint32_t node, uint32_t character)
{
	const struct mamplus_globs *globs = walk->globs;
	const struct node *at = &globs->nodes[node];
	uint32_t next = at->says == SAYS_INSIDE ? stays_inside(node, character) : stays(globs, node, character);

	if (next != NONE)
		reach(walk, next);
	next = mamplus_globs_child(globs, node, character);
	if (next)
		reach(walk, next);
	if ((at->has & HAS_ANY) && character != '/')
		reach(walk, mamplus_globs_child(globs, node, SAYS_ANY));
	for (next = at->classes; next != NONE; next = globs->nodes[next].next_class)
		if (class_covers(&globs->classes[globs->nodes[next].says - SAYS_CLASS], character))
			reach(walk, next);
}

/* Steps are numbered on, so that marks need not be wiped; after four thousand million, they are. */
static void next_step(struct mamplus_globs *globs)
{
	if (++globs->step)
		return;
	for (uint32_t i = 0; i < globs->count; i++)
		globs->nodes[i].reached = 0;
	globs->step = 1;
}

static uint32_t tell(const struct walk *walk, uint32_t *found, uint32_t max)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < walk->count; i++)
		for (uint32_t id = walk->globs->nodes[walk->nodes[i]].accepts; id != NO_ID; id = walk->globs->same[id], count++)
			if (count < max)
				found[count] = id;
	return count;
}

uint32_t mamplus_globs_ask(struct mamplus_globs *globs, const unsigned char *path, uint32_t length, uint32_t *found, uint32_t max)
{
	struct walk walk = { .globs = globs, .nodes = globs->reached[0] };
	uint32_t at = 0, size, character, turn = 0;

	if (globs->reached_room < globs->count || !globs->edge_room)
		return 0;	/* nothing was added, or without memory */
	next_step(globs);
	reach(&walk, 0);
	reach_further(&walk);
	while (at < length && walk.count) {
		struct walk next = { .globs = globs, .nodes = globs->reached[turn ^= 1] };

		character = mamplus_character(path + at, length - at, &size);
		at += size;
		next_step(globs);
		for (uint32_t i = 0; i < walk.count; i++)
			follow(&next, walk.nodes[i], character);
		reach_further(&next);
		walk = next;
	}
	return walk.count ? tell(&walk, found, max) : 0;
}
