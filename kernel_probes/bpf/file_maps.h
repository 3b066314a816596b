/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps of the file guards. Only their object makes them: a kernel that does not take it pays nothing. */
#ifndef MAMPLUS_FILE_MAPS_H
#define MAMPLUS_FILE_MAPS_H

#include "maps.h"
#include "mamplus_files.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAMPLUS_GUARDED_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mamplus_file_key);
	__type(value, struct mamplus_guarded);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} guards SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAMPLUS_NAMES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mamplus_guard_name);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} guard_names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAMPLUS_WRITERS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mamplus_sha256);
	__type(value, struct mamplus_writer);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} guard_writers SEC(".maps");

MAMPLUS_SINGLE(file_rules, struct mamplus_file_rules, BPF_F_MMAPABLE);

#endif
