/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Patterns of paths become a tree, in which they share what they begin with: ten thousand that begin
 * alike cost a path as much as one. path_ask.c walks it.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "path_tree.h"

#define MAX_NODES (4U << 20)	/* 36 bytes each: 150 MB, some 200,000 patterns */
#define MAX_CLASSES 4096U

/* --- the tree ------------------------------------------------------------------------------ */

static void *resized(void *old, uint64_t count, uint64_t size)
{
	return realloc(old, count * size);
}

static int grow_nodes(struct mamplus_globs *globs)
{
	uint32_t room = globs->room ? globs->room * 2 : 256;
	struct node *nodes;

	if (globs->count < globs->room)
		return 0;
	if (globs->count >= MAX_NODES)
		return -ENOSPC;
	nodes = resized(globs->nodes, room, sizeof(*nodes));
	if (!nodes)
		return -ENOMEM;
	globs->nodes = nodes;
	globs->room = room;
	return 0;
}

static int new_node(struct mamplus_globs *globs, uint32_t says, uint32_t *number)
{
	int error = grow_nodes(globs);

	if (error)
		return error;
	*number = globs->count++;
	globs->nodes[*number] = (struct node){
		.says = says, .classes = NONE, .next_class = NONE, .accepts = NO_ID, .reached = 0, .has = 0,
	};
	return 0;
}

static uint64_t mixed(uint64_t key)
{
	key ^= key >> 32;
	key *= 0x9e3779b97f4a7c15ULL;
	return key ^ key >> 29;
}

static struct edge *edge_at(struct edge *edges, uint32_t room, uint64_t key)
{
	uint64_t at = mixed(key) & (room - 1);

	while (edges[at].child && edges[at].key != key)
		at = (at + 1) & (room - 1);
	return &edges[at];
}

/* Three quarters full at most: every node but the root has one edge. */
static int grow_edges(struct mamplus_globs *globs)
{
	uint32_t room = globs->edge_room ? globs->edge_room * 2 : 512;
	struct edge *edges;

	if (globs->edge_room && globs->count < globs->edge_room / 4 * 3)
		return 0;
	edges = calloc(room, sizeof(*edges));
	if (!edges)
		return -ENOMEM;
	for (uint32_t i = 0; i < globs->edge_room; i++)
		if (globs->edges[i].child)
			*edge_at(edges, room, globs->edges[i].key) = globs->edges[i];
	free(globs->edges);
	globs->edges = edges;
	globs->edge_room = room;
	return 0;
}

uint32_t mamplus_globs_child(const struct mamplus_globs *globs, uint32_t parent, uint32_t says)
{
	return edge_at(globs->edges, globs->edge_room, (uint64_t)parent << 32 | says)->child;
}

static void tell_parent(struct mamplus_globs *globs, uint32_t parent, uint32_t says, uint32_t child)
{
	struct node *node = &globs->nodes[parent];

	node->has |= says == SAYS_ANY ? HAS_ANY : says == SAYS_STAR ? HAS_STAR : says == SAYS_STARS ? HAS_STARS :
		     says == SAYS_FOLDERS ? HAS_FOLDERS : 0;
	if (says >= SAYS_CLASS) {
		globs->nodes[child].next_class = node->classes;
		node->classes = child;
	}
}

/* Move *at along the edge that says `says`, which is made when it is missing. */
static int go(struct mamplus_globs *globs, uint32_t *at, uint32_t says)
{
	uint32_t child, inside;
	int error = grow_edges(globs);

	if (error)
		return error;
	child = mamplus_globs_child(globs, *at, says);
	if (!child) {
		error = new_node(globs, says, &child);
		if (error)
			return error;
		*edge_at(globs->edges, globs->edge_room, (uint64_t)*at << 32 | says) =
			(struct edge){ .key = (uint64_t)*at << 32 | says, .child = child };
		tell_parent(globs, *at, says, child);
		if (says == SAYS_FOLDERS) {
			inside = child;
			error = go(globs, &inside, SAYS_INSIDE);
			if (error)
				return error;
		}
	}
	*at = child;
	return 0;
}

/* --- patterns in --------------------------------------------------------------------------- */

/* The bytes that stand at `at`, up to four: enough to tell a character. */
static uint32_t bytes_at(const unsigned char *text, uint32_t length, uint32_t at, unsigned char *bytes, uint32_t *ends)
{
	uint32_t count = 0;

	while (count < 4 && mamplus_path_next(text, length, &at, &bytes[count]) == MAMPLUS_PATH_BYTE)
		ends[count++] = at;
	return count;
}

/* The number of the class whose text this is; equal texts have one number. */
static int class_number(struct mamplus_globs *globs, const unsigned char *text, uint32_t length, uint32_t *number)
{
	unsigned char *own;

	for (*number = 0; *number < globs->class_count; (*number)++)
		if (globs->classes[*number].length == length && !memcmp(globs->classes[*number].text, text, length))
			return 0;
	if (globs->class_count == MAX_CLASSES)
		return -ENOSPC;
	if (globs->class_count == globs->class_room) {
		uint32_t room = globs->class_room ? globs->class_room * 2 : 16;
		struct class *classes = resized(globs->classes, room, sizeof(*classes));

		if (!classes)
			return -ENOMEM;
		globs->classes = classes;
		globs->class_room = room;
	}
	own = malloc(length);
	if (!own)
		return -ENOMEM;
	memcpy(own, text, length);
	globs->classes[globs->class_count++] = (struct class){ .text = own, .length = length };
	return 0;
}

/* Whether the stars that end at `at` are a whole component with another one behind it. */
static int is_folders(const unsigned char *text, uint32_t length, uint32_t first, uint32_t at)
{
	return first && text[first - 1] == '/' && at < length && text[at] == '/';
}

/* What the pattern says next; *at moves behind it. SAYS_CLASS and a number, a character, or another SAYS_. */
static int next_edge(struct mamplus_globs *globs, const unsigned char *text, uint32_t length, uint32_t *at, uint32_t *says)
{
	uint32_t first = *at, size, count, number, ends[4];
	unsigned char byte = 0, bytes[4];
	int error;

	switch (mamplus_path_next(text, length, at, &byte)) {
	case MAMPLUS_PATH_ANY:
		*says = SAYS_ANY;
		return 0;
	case MAMPLUS_PATH_STAR:
		*says = SAYS_STAR;
		return 0;
	case MAMPLUS_PATH_STARS:
		*says = is_folders(text, length, first, *at) ? SAYS_FOLDERS : SAYS_STARS;
		*at += *says == SAYS_FOLDERS;
		return 0;
	case MAMPLUS_PATH_CLASS:
		error = class_number(globs, text + first + 1, *at - first - 1, &number);
		*says = SAYS_CLASS + number;
		return error;
	case MAMPLUS_PATH_BYTE:
		count = bytes_at(text, length, first, bytes, ends);
		*says = mamplus_character(bytes, count, &size);
		*at = ends[size - 1];
		return 0;
	default:
		return -EINVAL;
	}
}

static int note_end(struct mamplus_globs *globs, uint32_t node, uint32_t id)
{
	uint32_t room = globs->same_room ? globs->same_room : 256;
	uint32_t *same;

	while (room <= id)
		room *= 2;
	if (room != globs->same_room) {
		same = resized(globs->same, room, sizeof(*same));
		if (!same)
			return -ENOMEM;
		globs->same = same;
		globs->same_room = room;
	}
	globs->same[id] = globs->nodes[node].accepts;
	globs->nodes[node].accepts = id;
	return 0;
}

static int add_pattern(struct mamplus_globs *globs, const unsigned char *text, uint32_t length, uint32_t id)
{
	uint32_t at = 0, node = 0, says;
	int error = 0;

	while (at < length && !error) {
		error = next_edge(globs, text, length, &at, &says);
		if (!error)
			error = go(globs, &node, says);
	}
	return error ? error : note_end(globs, node, id);
}

static int has_wildcard(const unsigned char *text, uint32_t length)
{
	enum mamplus_path_item item;
	unsigned char byte;
	uint32_t at = 0;

	while ((item = mamplus_path_next(text, length, &at, &byte)) == MAMPLUS_PATH_BYTE)
		;
	return item != MAMPLUS_PATH_END;
}

static int make_room_to_ask(struct mamplus_globs *globs)
{
	for (int i = 0; i < 2; i++) {
		uint32_t *reached = resized(globs->reached[i], globs->count, sizeof(*reached));

		if (!reached)
			return -ENOMEM;
		globs->reached[i] = reached;
	}
	globs->reached_room = globs->count;
	return 0;
}

static const unsigned char *text_at(const unsigned char *strings, uint64_t size, uint32_t offset, uint32_t *length)
{
	uint16_t stored;

	if ((uint64_t)offset + 2 > size)
		return NULL;
	memcpy(&stored, strings + offset, sizeof(stored));
	*length = le16toh(stored);
	return (uint64_t)offset + 2 + *length <= size ? strings + offset + 2 : NULL;
}

int mamplus_globs_add(struct mamplus_globs *globs, const unsigned char *strings, uint64_t strings_size, const unsigned char *offsets, uint32_t count, uint32_t first)
{
	int added = 0, error = 0;

	for (uint32_t i = 0; i < count && !error; i++) {
		const unsigned char *text;
		uint32_t offset, length;

		memcpy(&offset, offsets + (uint64_t)i * 4, sizeof(offset));
		text = text_at(strings, strings_size, le32toh(offset), &length);
		if (!text || first + i >= NO_ID)
			error = -EINVAL;
		else if (has_wildcard(text, length))
			error = add_pattern(globs, text, length, first + i);
		else
			continue;
		added += !error;
	}
	if (make_room_to_ask(globs))
		return -ENOMEM;
	return error ? error : added;
}

/* --- the set itself ------------------------------------------------------------------------ */

struct mamplus_globs *mamplus_globs_new(void)
{
	struct mamplus_globs *globs = calloc(1, sizeof(*globs));
	uint32_t root;

	if (globs && new_node(globs, SAYS_ANY, &root)) {
		free(globs);
		return NULL;
	}
	return globs;
}

void mamplus_globs_free(struct mamplus_globs *globs)
{
	if (!globs)
		return;
	for (uint32_t i = 0; i < globs->class_count; i++)
		free((void *)globs->classes[i].text);
	free(globs->classes);
	free(globs->nodes);
	free(globs->edges);
	free(globs->same);
	free(globs->reached[0]);
	free(globs->reached[1]);
	free(globs);
}

uint64_t mamplus_globs_bytes(const struct mamplus_globs *globs)
{
	return sizeof(*globs) + (uint64_t)globs->room * sizeof(*globs->nodes) + (uint64_t)globs->edge_room * sizeof(*globs->edges) +
	       (uint64_t)globs->class_room * sizeof(*globs->classes) + (uint64_t)globs->same_room * sizeof(*globs->same) +
	       2ULL * globs->reached_room * sizeof(uint32_t);
}
