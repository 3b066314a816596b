/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "lru.h"

#include <stdlib.h>
#include <string.h>

#define FACTOR 0x9e3779b97f4a7c15ULL	/* 2^64 by the golden ratio: spreads what differs in a few bits */

/* --- records --------------------------------------------------------------------------------- */

struct kept *kept_of(const void *record, uint32_t size, uint32_t text)
{
	uint32_t length = text ? text + strnlen((const char *)record + text, size - text) : size;
	struct kept *kept = malloc(sizeof(*kept) + length);

	if (kept) {
		kept->refs = 1;
		kept->size = size;
		kept->length = length;
		memcpy(kept->bytes, record, length);
	}
	return kept;
}

void kept_let_go(struct kept *kept)
{
	if (kept && !--kept->refs)
		free(kept);
}

uint32_t kept_give(const struct kept *kept, unsigned char *out)
{
	memcpy(out, kept->bytes, kept->length);
	memset(out + kept->length, 0, kept->size - kept->length);
	return kept->size;
}

/* --- tables ---------------------------------------------------------------------------------- */

bool lru_begin(struct lru *table, uint32_t room, uint16_t at, uint16_t length)
{
	uint32_t heads = 1;

	while (heads < room && heads < 1U << 31)
		heads *= 2;
	*table = (struct lru){ .room = room, .mask = heads - 1, .at = at, .length = length };
	table->heads = calloc(heads, sizeof(*table->heads));
	table->nodes = calloc(room + 1UL, sizeof(*table->nodes));
	return table->heads && table->nodes;
}

void lru_end(struct lru *table)
{
	for (uint32_t n = 1; table->nodes && n <= table->used; n++)
		kept_let_go(table->nodes[n].record);
	free(table->nodes);
	free(table->heads);
}

static uint32_t key_length(const struct lru *table, const struct kept *record)
{
	return table->length ? table->length : (uint32_t)record->length - table->at;
}

uint64_t lru_hash(const struct lru *table, const struct kept *record)
{
	const unsigned char *at = record->bytes + table->at;
	uint32_t left = key_length(table, record);
	uint64_t hash = left, word;

	while (left) {
		uint32_t length = left < sizeof(word) ? left : sizeof(word);

		word = 0;
		memcpy(&word, at, length);
		hash = (hash ^ word) * FACTOR;
		hash ^= hash >> 32;
		at += length;
		left -= length;
	}
	return hash;
}

static bool is_same(const struct lru *table, const struct kept *one, const struct kept *other)
{
	uint32_t length = key_length(table, one);

	return length == key_length(table, other) && !memcmp(one->bytes + table->at, other->bytes + table->at, length);
}

uint32_t lru_find(const struct lru *table, uint64_t hash, const struct kept *like)
{
	const struct lru_node *nodes = table->nodes;
	uint32_t n = table->heads[hash & table->mask];

	while (n && (nodes[n].hash != hash || (table->at && !is_same(table, nodes[n].record, like))))
		n = nodes[n].chain;
	return n;
}

static void leave_order(struct lru_node *nodes, uint32_t n)
{
	nodes[nodes[n].older].newer = nodes[n].newer;
	nodes[nodes[n].newer].older = nodes[n].older;
}

static void make_newest(struct lru_node *nodes, uint32_t n)
{
	nodes[n].newer = 0;
	nodes[n].older = nodes[0].older;
	nodes[nodes[0].older].newer = n;
	nodes[0].older = n;
}

void lru_take_out(struct lru *table, uint32_t number)
{
	struct lru_node *nodes = table->nodes;
	uint32_t *link = &table->heads[nodes[number].hash & table->mask];

	while (*link != number)
		link = &nodes[*link].chain;
	*link = nodes[number].chain;
	leave_order(nodes, number);
	kept_let_go(nodes[number].record);
	nodes[number].record = NULL;
	nodes[number].chain = table->free;
	table->free = number;
}

/* A place for a key that has none. */
static uint32_t put_in(struct lru *table, uint64_t hash)
{
	uint32_t n = table->free, *head = &table->heads[hash & table->mask];

	if (n)
		table->free = table->nodes[n].chain;
	else
		n = ++table->used;
	table->nodes[n].hash = hash;
	table->nodes[n].chain = *head;
	*head = n;
	return n;
}

struct lru_node *lru_use(struct lru *table, uint64_t hash, struct kept *record)
{
	uint32_t n = lru_find(table, hash, record);

	record->refs++;	/* first: what has to go may be all that refers to it */
	if (n) {
		leave_order(table->nodes, n);
		kept_let_go(table->nodes[n].record);
	} else {
		if (!table->free && table->used == table->room) {
			lru_take_out(table, lru_oldest(table));
			table->gone++;
		}
		n = put_in(table, hash);
	}
	make_newest(table->nodes, n);
	table->nodes[n].record = record;
	return &table->nodes[n];
}
