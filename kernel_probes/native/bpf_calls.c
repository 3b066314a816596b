/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * bpf(2), as far as a process needs it that works on pinned objects only.
 *
 * libbpf is not linked here: relocating and loading objects is the loader's business, which
 * ends when it is done, so its memory is never part of the agent's.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/bpf.h>

#include "mamplus_native.h"

static int call(int command, union bpf_attr *attr)
{
	long result = syscall(SYS_bpf, command, attr, sizeof(*attr));

	return result < 0 ? -errno : (int)result;
}

static uint64_t address(const void *pointer)
{
	return (uint64_t)(uintptr_t)pointer;
}

int mamplus_obj_get(const char *path)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.pathname = address(path);
	return call(BPF_OBJ_GET, &attr);
}

int mamplus_obj_pin(int fd, const char *path)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.pathname = address(path);
	attr.bpf_fd = fd;
	return call(BPF_OBJ_PIN, &attr);
}

/* A tp_btf program knows its tracepoint since it was loaded; this makes the link. */
int mamplus_attach_tracing(int prog_fd)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.raw_tracepoint.prog_fd = prog_fd;
	return call(BPF_RAW_TRACEPOINT_OPEN, &attr);
}

/* One of raw_tp was loaded for any. */
int mamplus_attach_raw_tracepoint(int prog_fd, const char *name)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.raw_tracepoint.prog_fd = prog_fd;
	attr.raw_tracepoint.name = address(name);
	return call(BPF_RAW_TRACEPOINT_OPEN, &attr);
}

int mamplus_attach_cgroup(int prog_fd, int cgroup_fd, uint32_t attach_type)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.link_create.prog_fd = prog_fd;
	attr.link_create.target_fd = cgroup_fd;
	attr.link_create.attach_type = attach_type;
	return call(BPF_LINK_CREATE, &attr);
}

/* The link lives on, but its program is not called any more once this returns; ENOTSUPP: a link of another kind. */
int mamplus_link_detach(int link_fd)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.link_detach.link_fd = link_fd;
	return call(BPF_LINK_DETACH, &attr);
}

static int info(int fd, void *out, uint32_t size)
{
	union bpf_attr attr;

	memset(out, 0, size);
	memset(&attr, 0, sizeof(attr));
	attr.info.bpf_fd = fd;
	attr.info.info_len = size;
	attr.info.info = address(out);
	return call(BPF_OBJ_GET_INFO_BY_FD, &attr);
}

int mamplus_link_about(int link_fd, struct mamplus_link *about)
{
	struct bpf_link_info found;
	int error = info(link_fd, &found, sizeof(found));

	if (error < 0)
		return error;
	about->id = found.id;
	about->program = found.prog_id;
	about->cgroup = found.type == BPF_LINK_TYPE_CGROUP ? found.cgroup.cgroup_id : 0;
	return 0;
}

int mamplus_map_id(int map_fd)
{
	struct bpf_map_info found;
	int error = info(map_fd, &found, sizeof(found));

	return error < 0 ? error : (int)found.id;
}

int mamplus_map_value_size(int map_fd)
{
	struct bpf_map_info found;
	int error = info(map_fd, &found, sizeof(found));

	return error < 0 ? error : (int)found.value_size;
}

int mamplus_program_id(int prog_fd)
{
	struct bpf_prog_info found;
	int error = info(prog_fd, &found, sizeof(found));

	return error < 0 ? error : (int)found.id;
}

int mamplus_run(int prog_fd, const void *context, uint32_t size, uint32_t *result)
{
	union bpf_attr attr;
	int error;

	memset(&attr, 0, sizeof(attr));
	attr.test.prog_fd = prog_fd;
	attr.test.ctx_in = address(context);
	attr.test.ctx_size_in = size;
	error = call(BPF_PROG_TEST_RUN, &attr);
	*result = attr.test.retval;
	return error;
}

int mamplus_map_create(uint32_t type, uint32_t key_size, uint32_t value_size, uint32_t max_entries, uint32_t flags,
		       const char *name)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_type = type;
	attr.key_size = key_size;
	attr.value_size = value_size;
	attr.max_entries = max_entries;
	attr.map_flags = flags;
	strncpy(attr.map_name, name, sizeof(attr.map_name) - 1);
	return call(BPF_MAP_CREATE, &attr);
}

unsigned char *mamplus_reserve(uint64_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

int mamplus_map_at(unsigned char *at, int map_fd, uint64_t bytes, int is_read_only)
{
	int wanted = is_read_only ? PROT_READ : PROT_READ | PROT_WRITE;

	return mmap(at, bytes, wanted, MAP_SHARED | MAP_FIXED, map_fd, 0) == MAP_FAILED ? -errno : 0;
}

int mamplus_unmap(unsigned char *at, uint64_t bytes)
{
	return munmap(at, bytes) ? -errno : 0;
}

static int element(int command, int map_fd, const void *key, const void *value, uint64_t flags)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_fd = map_fd;
	attr.key = address(key);
	attr.value = address(value);
	attr.flags = flags;
	return call(command, &attr);
}

int mamplus_map_lookup(int map_fd, const void *key, void *value)
{
	return element(BPF_MAP_LOOKUP_ELEM, map_fd, key, value, 0);
}

int mamplus_map_update(int map_fd, const void *key, const void *value)
{
	return element(BPF_MAP_UPDATE_ELEM, map_fd, key, value, BPF_ANY);
}

int mamplus_map_replace(int map_fd, const void *key, const void *value)
{
	return element(BPF_MAP_UPDATE_ELEM, map_fd, key, value, BPF_EXIST);
}

int mamplus_map_delete(int map_fd, const void *key)
{
	return element(BPF_MAP_DELETE_ELEM, map_fd, key, NULL, 0);
}

/* `next` has the place of `value` in the kernel's union. */
int mamplus_map_next(int map_fd, const void *key, void *next)
{
	return element(BPF_MAP_GET_NEXT_KEY, map_fd, key, next, 0);
}

static int batch(int command, int map_fd, const void *keys, const void *values, uint32_t count)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.batch.map_fd = map_fd;
	attr.batch.keys = address(keys);
	attr.batch.values = address(values);
	attr.batch.count = count;
	return call(command, &attr);
}

int mamplus_map_update_batch(int map_fd, const void *keys, const void *values, uint32_t count)
{
	return batch(BPF_MAP_UPDATE_BATCH, map_fd, keys, values, count);
}

int mamplus_map_delete_batch(int map_fd, const void *keys, uint32_t count)
{
	return batch(BPF_MAP_DELETE_BATCH, map_fd, keys, NULL, count);
}
