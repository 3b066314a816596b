/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The table benchmark's hands: fills the kernel's own maps, and runs lookups against them or ours.
 *
 *   lookup OBJECT PINS ours|networks|networks6 COUNT REPEAT
 *   lookup OBJECT PINS hash|hash_no_prealloc|trie|trie_networks|trie_networks6 COUNT REPEAT [CHANGES] [<NETWORKS]
 *
 * PINS: directory with our maps. NETWORKS, of trie_networks: records of prefix (u32) and address (4 bytes,
 * or 16 of trie_networks6; network order). Prints one line: name=value ..., times in nanoseconds, memory in bytes.
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

/* Keys of 4 bytes (hash), 8 (trie) or 20 (of IPv6), values of 4. */
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

static void *networks(uint32_t count, uint32_t key_size)
{
	void *keys = malloc((size_t)count * key_size);

	if (!keys || fread(keys, key_size, count, stdin) != count)
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

/* What the command line asks for. */
struct task {
	const char *object, *pins, *kind;
	uint32_t count, repeat, changes;
	int is_trie, is_peer, is_networks, is_six;
};

/* Create and fill the peer's map, and let the programs use it. */
static void fill_peer(const struct task *task, struct bpf_map *map)
{
	uint32_t key_size = bpf_map__key_size(map), entries = task->count + task->changes;
	void *keys = task->is_networks ? networks(task->count, key_size) : hosts(task->is_trie, task->count, 0);
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = bpf_map__map_flags(map));
	double begin = now_ns();
	int fd = bpf_map_create(bpf_map__type(map), "peer", key_size, 4, entries, &opts);

	if (fd < 0)
		fail("create");
	update(fd, keys, key_size, task->count);
	printf("load=%.0f memory=%.0f ", now_ns() - begin, memory_of(fd));
	free(keys);
	bpf_map__reuse_fd(map, fd);
	if (!task->changes)
		return;
	keys = hosts(task->is_trie, task->count, 2);
	begin = now_ns();
	update(fd, keys, key_size, task->changes);
	printf("patch=%.0f ", now_ns() - begin);
	free(keys);
}

static void ask(const struct task *task, struct bpf_object *object)
{
	const char *program = task->is_six ? (task->is_trie ? "ask_trie6" : "ask_networks6") :
			      task->is_trie ? "ask_trie" : task->is_peer ? "ask_hash" :
			      task->is_networks ? "ask_networks" : "ask_ours";
	double found[3];

	printf("nothing=%.2f ", cost(object, "ask_nothing", task->count, 0, task->repeat, &found[0]));
	printf("hit=%.2f ", cost(object, program, task->count, 0, task->repeat, &found[1]));
	printf("miss=%.2f ", cost(object, program, task->count, 1, task->repeat, &found[2]));
	printf("hits_found=%.4f misses_found=%.4f\n", found[1], found[2]);
}

int main(int argc, char **argv)
{
	struct bpf_object *object;
	struct bpf_map *map;
	struct task task;

	if (argc < 6)
		return 2;
	task = (struct task){ argv[1], argv[2], argv[3], (uint32_t)atol(argv[4]), (uint32_t)atol(argv[5]),
			      argc > 6 ? (uint32_t)atol(argv[6]) : 0, !strncmp(argv[3], "trie", 4), 0, 0, 0 };
	task.is_networks = strstr(task.kind, "networks") != NULL;
	task.is_six = strstr(task.kind, "networks6") != NULL;
	task.is_peer = task.is_trie || !strncmp(task.kind, "hash", 4);
	libbpf_set_print(quiet);
	LIBBPF_OPTS(bpf_object_open_opts, opts, .pin_root_path = task.pins);
	object = bpf_object__open_file(task.object, &opts);
	if (!object)
		fail("open");
	map = bpf_object__find_map_by_name(object, task.is_six ? "peer_trie6" : task.is_trie ? "peer_trie" : "peer_hash");
	if (!strcmp(task.kind, "hash_no_prealloc"))
		bpf_map__set_map_flags(map, BPF_F_NO_PREALLOC);
	if (task.is_peer)
		fill_peer(&task, map);
	if (bpf_object__load(object))
		fail("load");
	ask(&task, object);
	return 0;
}
