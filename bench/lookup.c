/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The table benchmark's hands: fills the kernel's own maps, and runs lookups against them or ours.
 *
 *   lookup OBJECT PINS ours|networks COUNT REPEAT
 *   lookup OBJECT PINS hash|hash_no_prealloc|trie|trie_networks COUNT REPEAT [CHANGES] <NETWORKS
 *
 * PINS: directory with our maps. NETWORKS, of trie_networks: records of prefix (u32) and address (u32,
 * network order). Prints one line: name=value ..., times in nanoseconds, memory in bytes.
 */
#include <arpa/inet.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "lookup.h"

#define BATCH 65536

struct trie_key {
	uint32_t prefix, addr_be;
};

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static double memory_of(int fd)
{
	char path[64], line[256];
	double bytes = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	file = fopen(path, "r");
	while (file && fgets(line, sizeof(line), file))
		sscanf(line, "memlock: %lf", &bytes);
	if (file)
		fclose(file);
	return bytes;
}

/* Keys of 4 bytes (hash) or 8 (trie), values of 4. */
static void update(int map_fd, const unsigned char *keys, size_t key_size, uint32_t count)
{
	static uint32_t values[BATCH];
	LIBBPF_OPTS(bpf_map_batch_opts, opts);

	for (uint32_t i = 0; i < BATCH; i++)
		values[i] = 2;
	for (uint32_t done = 0, step; done < count; done += step) {
		uint32_t moved = step = count - done < BATCH ? count - done : BATCH;

		if (bpf_map_update_batch(map_fd, keys + done * key_size, values, &moved, &opts))
			fail("update");
	}
}

static void *hosts(int is_trie, uint32_t count, uint32_t offset)
{
	uint32_t *plain = malloc((size_t)count * 8);
	struct trie_key *keys = (struct trie_key *)plain;

	for (uint32_t i = 0; plain && i < count; i++) {
		uint32_t addr = lookup_address(i, count) + offset;

		if (is_trie)
			keys[i] = (struct trie_key){ 32, htonl(addr) };
		else
			plain[i] = addr;
	}
	return plain;
}

static void *networks(uint32_t count)
{
	void *keys = malloc((size_t)count * 8);

	if (!keys || fread(keys, 8, count, stdin) != count)
		fail("networks");
	return keys;
}

static void run(int prog_fd, uint32_t repeat)
{
	unsigned char packet[64] = { 0 };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = sizeof(packet), .repeat = (int)repeat);

	if (bpf_prog_test_run_opts(prog_fd, &opts))
		fail("test run");
}

/* Returns nanoseconds a lookup; *found: the share that was found. */
static double cost(struct bpf_object *object, const char *program, uint32_t count, uint32_t offset, uint32_t repeat,
		   double *found)
{
	int lookups = bpf_object__find_map_fd_by_name(object, "lookups");
	int prog_fd = bpf_program__fd(bpf_object__find_program_by_name(object, program));
	struct lookup lookup = { .state = 12345, .count = count, .offset = offset };
	uint32_t zero = 0;
	double begin;

	if (bpf_map_update_elem(lookups, &zero, &lookup, 0))
		fail("lookups");
	run(prog_fd, repeat / 10);	/* warm */
	bpf_map_lookup_elem(lookups, &zero, &lookup);
	lookup.found = 0;
	bpf_map_update_elem(lookups, &zero, &lookup, 0);
	begin = now_ns();
	run(prog_fd, repeat);
	begin = now_ns() - begin;
	bpf_map_lookup_elem(lookups, &zero, &lookup);
	*found = (double)lookup.found / repeat;
	return begin / repeat;
}

static int quiet(enum libbpf_print_level level, const char *format, va_list arguments)
{
	return level == LIBBPF_WARN ? vfprintf(stderr, format, arguments) : 0;
}

int main(int argc, char **argv)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .pin_root_path = argc > 2 ? argv[2] : "");
	const char *kind = argc > 5 ? argv[3] : "";
	int is_trie = !strncmp(kind, "trie", 4), is_peer = is_trie || !strncmp(kind, "hash", 4), map_fd;
	const char *program = is_trie ? "ask_trie" : is_peer ? "ask_hash" : !strcmp(kind, "ours") ? "ask_ours" : "ask_networks";
	uint32_t count, repeat, changes;
	struct bpf_object *object;
	struct bpf_map *map;
	double found[3], spent[3], begin;
	unsigned char *keys;

	if (argc < 6)
		return 2;
	libbpf_set_print(quiet);
	count = (uint32_t)atol(argv[4]);
	repeat = (uint32_t)atol(argv[5]);
	changes = argc > 6 ? (uint32_t)atol(argv[6]) : 0;
	object = bpf_object__open_file(argv[1], &opts);
	if (!object)
		fail("open");
	map = bpf_object__find_map_by_name(object, is_trie ? "peer_trie" : "peer_hash");
	if (is_peer)
		bpf_map__set_max_entries(map, count + changes);
	if (!strcmp(kind, "hash_no_prealloc"))
		bpf_map__set_map_flags(map, BPF_F_NO_PREALLOC);
	keys = !is_peer ? NULL : !strcmp(kind, "trie_networks") ? networks(count) : hosts(is_trie, count, 0);
	if (is_peer) {	/* once without the rest of the object: what its creation costs */
		LIBBPF_OPTS(bpf_map_create_opts, create, .map_flags = bpf_map__map_flags(map));

		begin = now_ns();
		map_fd = bpf_map_create(bpf_map__type(map), "peer", bpf_map__key_size(map), 4, count + changes, &create);
		if (map_fd < 0)
			fail("create");
		update(map_fd, keys, bpf_map__key_size(map), count);
		printf("load=%.0f memory=%.0f ", now_ns() - begin, memory_of(map_fd));
		bpf_map__reuse_fd(map, map_fd);
		if (changes) {
			free(keys);
			keys = hosts(is_trie, count, 2);
			begin = now_ns();
			update(map_fd, keys, bpf_map__key_size(map), changes);
			printf("patch=%.0f ", now_ns() - begin);
		}
	}
	if (bpf_object__load(object))
		fail("load");
	spent[0] = cost(object, "ask_nothing", count, 0, repeat, &found[0]);
	spent[1] = cost(object, program, count, 0, repeat, &found[1]);
	spent[2] = cost(object, program, count, 1, repeat, &found[2]);
	printf("nothing=%.2f hit=%.2f miss=%.2f hits_found=%.4f misses_found=%.4f\n", spent[0], spent[1], spent[2],
	       found[1], found[2]);
	return 0;
}
