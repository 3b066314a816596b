/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the agent's Python and the responder share in C: thin bpf(2) calls, and the ring
 * reader. Between the two marks stands what cffi reads: plain declarations only.
 *
 * Every int result is a descriptor or count (>= 0), or -errno.
 */
#ifndef MAMPLUS_NATIVE_H
#define MAMPLUS_NATIVE_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
int mamplus_obj_get(const char *path);
int mamplus_obj_pin(int fd, const char *path);
int mamplus_attach_tracing(int prog_fd);
int mamplus_attach_raw_tracepoint(int prog_fd, const char *name);
int mamplus_attach_cgroup(int prog_fd, int cgroup_fd, uint32_t attach_type);
int mamplus_link_detach(int link_fd);

struct mamplus_link {
	uint32_t id;
	uint32_t program;	/* the id of what it calls; another one after BPF_LINK_UPDATE */
	uint64_t cgroup;	/* 0: a link of another kind, or detached */
};

int mamplus_link_about(int link_fd, struct mamplus_link *about);
int mamplus_map_id(int map_fd);
int mamplus_map_value_size(int map_fd);
int mamplus_program_id(int prog_fd);
int mamplus_run(int prog_fd, const void *context, uint32_t size, uint32_t *result);

int mamplus_map_create(uint32_t type, uint32_t key_size, uint32_t value_size, uint32_t max_entries, uint32_t flags,
		       const char *name);
/* Address space, NULL without any; into it maps that may be mapped, whose size or place is that of pages; and back. */
unsigned char *mamplus_reserve(uint64_t bytes);
int mamplus_map_at(unsigned char *at, int map_fd, uint64_t bytes, int is_read_only);
int mamplus_unmap(unsigned char *at, uint64_t bytes);
int mamplus_map_lookup(int map_fd, const void *key, void *value);
int mamplus_map_update(int map_fd, const void *key, const void *value);
int mamplus_map_replace(int map_fd, const void *key, const void *value);	/* -ENOENT (2): the key is not there */
int mamplus_map_delete(int map_fd, const void *key);
int mamplus_map_next(int map_fd, const void *key, void *next);
/* Many at once; the kernel waits for running programs once. -EINVAL or -ENOTSUPP (524): this kernel cannot. */
int mamplus_map_update_batch(int map_fd, const void *keys, const void *values, uint32_t count);
int mamplus_map_delete_batch(int map_fd, const void *keys, uint32_t count);

/* rules_about.c. `netns`: a path, or "" for the caller's own. family: AF_INET or AF_INET6; AF_NETLINK: news of nftables. */
int mamplus_rules_socket(const char *netns, int family);
int mamplus_rules_about(int socket_fd, int family, uint32_t *entries, uint32_t *bytes);

#define MAMPLUS_KINDS 16	/* enum mamplus_kind, and room; a record of no such kind counts as kind 0 */

/* A run: records of one kind, in the order in which they came, without gaps. */
struct mamplus_run {
	uint32_t kind;
	uint32_t count;
	uint32_t bytes;
};

struct mamplus_ring;
struct mamplus_past;	/* past.h */

/* waiting_fd: the `waiting` map, or -1. NULL: *error holds -errno. */
struct mamplus_ring *mamplus_ring_open(int ring_fd, int waiting_fd, int *error);
void mamplus_ring_close(struct mamplus_ring *ring);
int mamplus_ring_fd(const struct mamplus_ring *ring);	/* an epoll descriptor: readable when the kernel sent a wake-up */
/* From here on every record is noted in `past`, and those that it does not want are not handed over; NULL: all are. */
void mamplus_ring_feed(struct mamplus_ring *ring, struct mamplus_past *past);
/*
 * Returns how many records are handed over, or -1: there was none at all. `order` is the kind of each, `out` has them by
 * kind, one of `runs` (MAMPLUS_KINDS) for each.
 */
int mamplus_ring_drain(struct mamplus_ring *ring, unsigned char *out, uint32_t size, unsigned char *order,
		       uint32_t max_records, struct mamplus_run *runs);
int mamplus_ring_arm(struct mamplus_ring *ring);	/* ms after which to look again unwoken; -1: sleep until woken */
int mamplus_ring_wait(struct mamplus_ring *ring, int timeout_ms);	/* 1: worth a drain; 0: the time is over */
/* cffi: end */

/* The next record, or NULL; give it back before the next call. */
const void *mamplus_ring_next(struct mamplus_ring *ring, uint32_t *size);
void mamplus_ring_done(struct mamplus_ring *ring);

#endif
