/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map that the probes share, pinned by name: the first object that is loaded makes them,
 * the others find them. mamplus_tables.h says what keys and values mean.
 */
#ifndef MAMPLUS_MAPS_H
#define MAMPLUS_MAPS_H

#include "kernel_types.h"
#include "mamplus_tables.h"

/* One element, read by all, written by user space. */
#define MAMPLUS_SINGLE(name, type_, flags_)           \
	struct {                                      \
		__uint(type, BPF_MAP_TYPE_ARRAY);     \
		__uint(max_entries, 1);               \
		__uint(map_flags, flags_);            \
		__type(key, __u32);                   \
		__type(value, type_);                 \
		__uint(pinning, LIBBPF_PIN_BY_NAME);  \
	} name SEC(".maps")

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, MAMPLUS_EVENTS_BYTES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, MAMPLUS_HOLDS_BYTES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} holds SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAMPLUS_C_MAX);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} scope SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAMPLUS_KNOWN_MAX);
	__type(key, struct mamplus_file_key);
	__type(value, struct mamplus_known);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} known SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAMPLUS_HELD_MAX);
	__type(key, __u32);
	__type(value, struct mamplus_held);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} held SEC(".maps");

/* LRU: one that is lost asks again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAMPLUS_HELD_MAX);
	__type(key, __u32);
	__type(value, struct mamplus_wait);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} waits SEC(".maps");

/* ELF interpreters that are mapped while their program starts and are not known, by thread. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAMPLUS_HELD_MAX);
	__type(key, __u32);
	__type(value, struct mamplus_file);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} loaders SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAMPLUS_OPENED_MAX);
	__type(key, __u32);
	__type(value, struct mamplus_opened);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} opened SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAMPLUS_INTERPRETERS_MAX);
	__type(key, struct mamplus_content);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} interpreters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAMPLUS_PATTERNS_MAX);
	__type(key, __u32);
	__type(value, struct mamplus_pattern);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} patterns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAMPLUS_GUARD_MAX);
	__type(key, struct mamplus_guard_key);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} guard SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAMPLUS_REFUSED_MAX);
	__type(key, struct mamplus_refused_key);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} refused SEC(".maps");

MAMPLUS_SINGLE(active, struct mamplus_active, 0);
MAMPLUS_SINGLE(refusing, struct mamplus_refusing, 0);
MAMPLUS_SINGLE(posture, struct mamplus_posture, 0);
MAMPLUS_SINGLE(heartbeat, struct mamplus_heartbeat, BPF_F_MMAPABLE);
MAMPLUS_SINGLE(waiting, struct mamplus_waiting, BPF_F_MMAPABLE);

/* The tables of the BLE, those of side 0 first. Sizes are those of the generation, so the inner 1 is no bound. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAMPLUS_SIDES * MAMPLUS_T_MAX);
	__type(key, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, 1);
		__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct mamplus_bucket));
	});
} ble SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAMPLUS_SIDES);
	__type(key, __u32);
	__type(value, struct mamplus_shape);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} shape SEC(".maps");

#endif
