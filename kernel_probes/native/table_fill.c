/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fills an inner map of a BLE table straight from the generation's file, in batches.
 *
 * The file was checked when it was opened (mamplus_host/ble/format.py); slots are checked here
 * once more, because they index memory.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/bpf.h>

#include "mamplus_native.h"
#include "mamplus_tables.h"

#define BATCH 2048
#define ENTRY_SIZE 48
#define ENTRY_VALID_UNTIL 8
#define ENTRY_VERDICT 16
#define CIDR_PREFIX 16		/* in a cidr record: after the network */
#define DOMAIN_FLAGS 8		/* in a domain record: after the hash */
#define KEY_MAX 32
#define ENOTSUPP_KERNEL 524	/* leaks out of kernels whose map type has no batches */

enum { SHA256 = 1, IP, CIDR, DOMAIN };

static const struct {
	uint32_t record, key;
} sizes[] = { [SHA256] = { 36, 32 }, [IP] = { 20, 16 }, [CIDR] = { 24, 20 }, [DOMAIN] = { 16, 8 } };

struct batch {
	unsigned char keys[BATCH * KEY_MAX];
	struct mamplus_hit hits[BATCH];
	uint32_t count;
	uint64_t next_end_s;
};

static uint32_t read32(const unsigned char *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return le32toh(value);
}

static uint64_t read64(const unsigned char *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return le64toh(value);
}

static void put_key(unsigned char *key, uint16_t kind, const unsigned char *record)
{
	uint32_t prefix;
	uint64_t hash;

	switch (kind) {
	case CIDR:
		prefix = record[CIDR_PREFIX];
		memcpy(key, &prefix, sizeof(prefix));
		memcpy(key + sizeof(prefix), record, MAMPLUS_ADDR_LEN);
		break;
	case DOMAIN:
		hash = read64(record);
		if (read32(record + DOMAIN_FLAGS) & MAMPLUS_DOMAIN_EXACT_ONLY)
			hash = ~hash;
		memcpy(key, &hash, sizeof(hash));
		break;
	default:
		memcpy(key, record, sizes[kind].key);
	}
}

/* 1: put in; 0: left out because its time is over; -EINVAL: the file is damaged. */
static int put(struct batch *batch, const struct mamplus_section *section, const unsigned char *record)
{
	uint32_t slot = read32(record + sizes[section->kind].record - sizeof(slot));
	struct mamplus_hit *hit = &batch->hits[batch->count];
	const unsigned char *entry;
	uint64_t end_s;

	if (slot >= section->entry_count)
		return -EINVAL;
	entry = section->entries + (size_t)slot * ENTRY_SIZE;
	end_s = read64(entry + ENTRY_VALID_UNTIL);
	if (end_s && end_s <= section->now_s)
		return 0;
	if (end_s && (!batch->next_end_s || end_s < batch->next_end_s))
		batch->next_end_s = end_s;
	put_key(batch->keys + (size_t)batch->count * sizes[section->kind].key, section->kind, record);
	hit->slot = slot;
	hit->verdict = entry[ENTRY_VERDICT];
	hit->pad = 0;
	batch->count++;
	return 1;
}

static int flush_one_by_one(int map_fd, struct batch *batch, uint32_t key_size)
{
	int error = 0;

	for (uint32_t i = 0; i < batch->count && !error; i++)
		error = mamplus_map_update(map_fd, batch->keys + (size_t)i * key_size, &batch->hits[i]);
	return error;
}

static int flush(int map_fd, struct batch *batch, uint32_t key_size)
{
	union bpf_attr attr;
	int error = 0;

	memset(&attr, 0, sizeof(attr));
	attr.batch.map_fd = map_fd;
	attr.batch.keys = (uint64_t)(uintptr_t)batch->keys;
	attr.batch.values = (uint64_t)(uintptr_t)batch->hits;
	attr.batch.count = batch->count;
	if (batch->count && syscall(SYS_bpf, BPF_MAP_UPDATE_BATCH, &attr, sizeof(attr)) < 0)
		error = -errno;
	if (error == -EINVAL || error == -EOPNOTSUPP || error == -ENOTSUPP_KERNEL)
		error = flush_one_by_one(map_fd, batch, key_size);
	batch->count = 0;
	return error;
}

int mamplus_table_fill(int map_fd, const struct mamplus_section *section, uint64_t *next_end_s)
{
	struct batch *batch;
	int put_in = 0, error = 0;

	if (section->kind < SHA256 || section->kind > DOMAIN)
		return -EINVAL;
	batch = calloc(1, sizeof(*batch));
	if (!batch)
		return -ENOMEM;
	for (uint32_t i = 0; i < section->count && error >= 0; i++) {
		error = put(batch, section, section->records + (size_t)i * sizes[section->kind].record);
		put_in += error == 1;
		if (error >= 0 && batch->count == BATCH)
			error = flush(map_fd, batch, sizes[section->kind].key);
	}
	if (error >= 0)
		error = flush(map_fd, batch, sizes[section->kind].key);
	*next_end_s = batch->next_end_s;
	free(batch);
	return error < 0 ? error : put_in;
}
