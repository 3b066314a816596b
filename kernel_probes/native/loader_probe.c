/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What this kernel lets us load, found by loading: a two-instruction program of each type, an
 * empty map of each kind. Nothing is attached, nothing stays.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

#include "loader.h"

#ifndef ARRAY_SIZE
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#endif

static const struct {
	const char *feature;
	enum bpf_prog_type type;
	enum bpf_attach_type attach;
	const char *target;	/* in the kernel's BTF; NULL: none is needed */
} programs[] = {
	{ "exec-tracepoint", BPF_PROG_TYPE_TRACING, BPF_TRACE_RAW_TP, "sched_process_exec" },
	{ "cgroup-connect", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, NULL },
	{ "cgroup-sendmsg", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UDP4_SENDMSG, NULL },
	{ "cgroup-skb", BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS, NULL },
	{ "socket-filter", BPF_PROG_TYPE_SOCKET_FILTER, 0, NULL },
	{ "fentry", BPF_PROG_TYPE_TRACING, BPF_TRACE_FENTRY, "do_exit" },
};

static const struct {
	const char *feature;
	enum bpf_map_type type;
	__u32 key, value, entries, flags;
} maps[] = {
	{ "ring-buffer", BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0 },
	{ "lru-hash", BPF_MAP_TYPE_LRU_HASH, 4, 4, 64, 0 },
	{ "lpm-trie", BPF_MAP_TYPE_LPM_TRIE, 8, 4, 1, BPF_F_NO_PREALLOC },
	{ "mappable-array", BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_MMAPABLE },
};

static void tell(const char *feature, int fd, const char *what)
{
	if (fd >= 0) {
		printf("%s yes\n", feature);
		close(fd);
		return;
	}
	printf("%s no %s: %s\n", feature, what, strerror(-fd));
}

static int try_program(size_t i)
{
	LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = programs[i].attach);
	/* r0 = 1; exit. 0 for LSM: there 1 is no legal answer. */
	struct bpf_insn code[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = programs[i].type != BPF_PROG_TYPE_LSM },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	int fd;

	if (programs[i].target) {
		int id = libbpf_find_vmlinux_btf_id(programs[i].target, programs[i].attach);

		if (id < 0)
			return id;
		options.attach_btf_id = id;
		if (programs[i].type == BPF_PROG_TYPE_TRACING)
			code[0].imm = 0;
	}
	fd = bpf_prog_load(programs[i].type, NULL, "GPL", code, ARRAY_SIZE(code), &options);
	return fd < 0 ? -errno : fd;
}

/* Load a program at file_open that leaves a mark in `map`, as small as it can be. */
static int load_marker(int map)
{
	LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = BPF_LSM_MAC);
	struct bpf_insn code[] = {
		/* r1 = the first element of map (two halves); *r1 = 1; return 0 */
		{ .code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_VALUE, .imm = map },
		{ 0 },
		{ .code = BPF_ST | BPF_MEM | BPF_DW, .dst_reg = 1, .imm = 1 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	int id = libbpf_find_vmlinux_btf_id("file_open", BPF_LSM_MAC), fd;

	if (id < 0)
		return id;
	options.attach_btf_id = id;
	fd = bpf_prog_load(BPF_PROG_TYPE_LSM, NULL, "GPL", code, ARRAY_SIZE(code), &options);
	return fd < 0 ? -errno : fd;
}

/* Open a file with the marker attached, and look for its mark. */
static int mark_comes(int program, int map)
{
	int link = bpf_raw_tracepoint_open(NULL, program), file;
	__u64 mark = 0;
	__u32 zero = 0;

	if (link < 0)
		return -errno;
	file = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (file >= 0)
		close(file);
	close(link);
	bpf_map_lookup_elem(map, &zero, &mark);
	return mark != 0;
}

int lsm_is_called(void)
{
	int map = bpf_map_create(BPF_MAP_TYPE_ARRAY, NULL, 4, 8, 1, NULL), program, answer;

	if (map < 0)
		return -errno;
	program = load_marker(map);
	answer = program < 0 ? program : mark_comes(program, map);
	if (program >= 0)
		close(program);
	close(map);
	return answer;
}

static void tell_lsm(void)
{
	int answer = lsm_is_called();

	if (answer > 0)
		printf("lsm yes\n");
	else
		printf("lsm no %s\n", answer ? strerror(-answer) : LSM_NOT_CALLED);
}

/* A kernel function that programs may call; only its name is looked up. */
static void tell_function(const char *feature, const char *name)
{
	int id = libbpf_find_vmlinux_btf_id(name, BPF_TRACE_FENTRY);

	if (id > 0)
		printf("%s yes\n", feature);
	else
		printf("%s no the kernel has no %s()\n", feature, name);
}

int probe_all(void)
{
	tell_lsm();
	tell_function("signal-other", "bpf_send_signal_task");
	for (size_t i = 0; i < ARRAY_SIZE(programs); i++)
		tell(programs[i].feature, try_program(i), "load a program");
	for (size_t i = 0; i < ARRAY_SIZE(maps); i++) {
		LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = maps[i].flags);
		int fd = bpf_map_create(maps[i].type, NULL, maps[i].key, maps[i].value, maps[i].entries, &options);

		tell(maps[i].feature, fd < 0 ? -errno : fd, "create a map");
	}
	return fflush(stdout) ? 1 : 0;
}
