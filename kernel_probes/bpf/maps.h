/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map that the probes share, pinned by name: the first object that is loaded makes them,
 * the others find them. mamplus_tables.h says what keys and values mean.
 */
#ifndef MAMPLUS_MAPS_H
#define MAMPLUS_MAPS_H

#include "kernel_types.h"
#include "mamplus_tables.h"

#define MAMPLUS_KEYED(name, type_, entries, key_, value_, flags_) \
	struct {                                                  \
		__uint(type, BPF_MAP_TYPE_##type_);               \
		__uint(max_entries, entries);                     \
		__uint(map_flags, flags_);                        \
		__type(key, key_);                                \
		__type(value, value_);                            \
		__uint(pinning, LIBBPF_PIN_BY_NAME);              \
	} name SEC(".maps")

/* One element, read by all, written by user space. */
#define MAMPLUS_SINGLE(name, type_, flags_) MAMPLUS_KEYED(name, ARRAY, 1, __u32, type_, flags_)

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

MAMPLUS_KEYED(counters, PERCPU_ARRAY, MAMPLUS_C_MAX, __u32, __u64, 0);

MAMPLUS_KEYED(scope, CGROUP_ARRAY, 1, __u32, __u32, 0);

MAMPLUS_KEYED(known, LRU_HASH, MAMPLUS_KNOWN_MAX, struct mamplus_file_key, struct mamplus_known, 0);

MAMPLUS_KEYED(births, ARRAY, MAMPLUS_BIRTHS_MAX, __u32, __u32, 0);

MAMPLUS_KEYED(held, HASH, MAMPLUS_HELD_MAX, __u32, struct mamplus_held, 0);

/* LRU: one that is lost asks again. */
MAMPLUS_KEYED(waits, LRU_HASH, MAMPLUS_HELD_MAX, __u32, struct mamplus_wait, 0);

/* ELF interpreters that are mapped while their program starts and are not known, by thread. */
MAMPLUS_KEYED(loaders, LRU_HASH, MAMPLUS_HELD_MAX, __u32, struct mamplus_file, 0);

MAMPLUS_KEYED(opened, LRU_HASH, MAMPLUS_OPENED_MAX, __u32, struct mamplus_opened, 0);

/* No LRU: a thousand programs that are called sh must not push out the one that is. */
MAMPLUS_KEYED(interpreters, HASH, MAMPLUS_INTERPRETERS_MAX, struct mamplus_content, __u32, 0);

MAMPLUS_KEYED(patterns, ARRAY, MAMPLUS_PATTERNS_MAX, __u32, struct mamplus_pattern, 0);

MAMPLUS_KEYED(guard, HASH, MAMPLUS_GUARD_MAX, struct mamplus_guard_key, __u32, 0);

MAMPLUS_KEYED(refused, HASH, MAMPLUS_REFUSED_MAX, struct mamplus_refused_key, __u64, 0);

/* LRU: what is lost was asked for long ago. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAMPLUS_QUESTIONS_MAX);
	__type(key, struct mamplus_question);
	__type(value, struct mamplus_asker);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} names SEC(".maps");

MAMPLUS_SINGLE(active, struct mamplus_active, 0);
MAMPLUS_SINGLE(refusing, struct mamplus_refusing, 0);
MAMPLUS_SINGLE(posture, struct mamplus_posture, 0);
MAMPLUS_SINGLE(heartbeat, struct mamplus_heartbeat, BPF_F_MMAPABLE);
MAMPLUS_SINGLE(waiting, struct mamplus_waiting, BPF_F_MMAPABLE);

/* The tables of the BLE, those of side 0 first. Sizes are those of the generation, so the inner 1 is no bound. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAMPLUS_SIDES * MAMPLUS_T_MAX * MAMPLUS_PARTS);
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

MAMPLUS_KEYED(shape, ARRAY, MAMPLUS_SIDES, __u32, struct mamplus_shape, 0);

#endif
