/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The one reader of a BPF ring buffer, and its half of the wake-up agreement.
 *
 * While records come, the kernel wakes the reader only for urgent ones; the others are gathered
 * GATHER_MS. When a look finds nothing, `agent_waits` is set and the next record wakes. A
 * producer may have read `agent_waits` just before, so one more look follows after GATHER_MS;
 * then the reader sleeps without a timer, and an idle device is never woken.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/bpf.h>

#include "mamplus_native.h"
#include "mamplus_tables.h"
#include "past.h"

#define GATHER_MS 100

_Static_assert(sizeof(struct mamplus_exec) + BPF_RINGBUF_HDR_SZ <= 4096, "a record may wrap by more than a page");

struct mamplus_ring {
	int epoll_fd;
	uint32_t size;		/* of the data area: a power of two */
	size_t page;
	unsigned long *consumer;	/* a page of its own */
	const unsigned long *producer;	/* a page, then the data and its first page once more */
	const unsigned char *data;
	struct mamplus_waiting *waiting;	/* NULL: none */
	struct mamplus_past *past;	/* NULL: every record is handed over */
	unsigned long next;	/* position after the record that is out */
	bool found;		/* something was drained since the last arm */
	bool more;		/* the last drain ended because its room was used up */
	bool looked_twice;
};

static int ring_size(int fd, uint32_t *size)
{
	struct bpf_map_info info;
	union bpf_attr attr;

	memset(&info, 0, sizeof(info));
	memset(&attr, 0, sizeof(attr));
	attr.info.bpf_fd = fd;
	attr.info.info_len = sizeof(info);
	attr.info.info = (uint64_t)(uintptr_t)&info;
	if (syscall(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)) < 0)
		return -errno;
	*size = info.max_entries;
	return info.type == BPF_MAP_TYPE_RINGBUF ? 0 : -EINVAL;
}

static void *map_shared(int fd, size_t length, int protection, off_t offset)
{
	void *at = mmap(NULL, length, protection, MAP_SHARED, fd, offset);

	return at == MAP_FAILED ? NULL : at;
}

/*
 * The kernel shows the data twice in a row, so that a record that wraps lies in one piece. Our
 * records are shorter than a page, and every page that is mapped counts as resident: one is enough.
 */
static size_t producer_bytes(const struct mamplus_ring *ring)
{
	return 2 * ring->page + ring->size;
}

static int map_all(struct mamplus_ring *ring, int ring_fd, int waiting_fd)
{
	int error = ring_size(ring_fd, &ring->size);

	if (error)
		return error;
	ring->page = sysconf(_SC_PAGESIZE);
	ring->consumer = map_shared(ring_fd, ring->page, PROT_READ | PROT_WRITE, 0);
	ring->producer = map_shared(ring_fd, producer_bytes(ring), PROT_READ, ring->page);
	if (waiting_fd >= 0)
		ring->waiting = map_shared(waiting_fd, ring->page, PROT_READ | PROT_WRITE, 0);
	if (!ring->consumer || !ring->producer || (waiting_fd >= 0 && !ring->waiting))
		return -errno;
	ring->data = (const unsigned char *)ring->producer + ring->page;
	return 0;
}

/* Edge-triggered: readable because of a wake-up, not because of a record that may be gathered. */
static int watch(struct mamplus_ring *ring, int ring_fd)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };

	ring->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (ring->epoll_fd < 0 || epoll_ctl(ring->epoll_fd, EPOLL_CTL_ADD, ring_fd, &event) < 0)
		return -errno;
	return 0;
}

struct mamplus_ring *mamplus_ring_open(int ring_fd, int waiting_fd, int *error)
{
	struct mamplus_ring *ring = calloc(1, sizeof(*ring));

	if (!ring) {
		*error = -ENOMEM;
		return NULL;
	}
	ring->epoll_fd = -1;
	*error = map_all(ring, ring_fd, waiting_fd);
	if (!*error)
		*error = watch(ring, ring_fd);
	if (*error) {
		mamplus_ring_close(ring);
		return NULL;
	}
	ring->found = true;	/* a predecessor may have left records, and `agent_waits` as it was */
	return ring;
}

void mamplus_ring_close(struct mamplus_ring *ring)
{
	if (ring->waiting)
		munmap(ring->waiting, ring->page);
	if (ring->producer)
		munmap((void *)ring->producer, producer_bytes(ring));
	if (ring->consumer)
		munmap(ring->consumer, ring->page);
	if (ring->epoll_fd >= 0)
		close(ring->epoll_fd);
	free(ring);
}

void mamplus_ring_feed(struct mamplus_ring *ring, struct mamplus_past *past)
{
	ring->past = past;
}

int mamplus_ring_fd(const struct mamplus_ring *ring)
{
	return ring->epoll_fd;
}

/* The record at `*at`, which moves behind it, and over what was discarded before it. NULL: none is finished. */
static const void *record_at(const struct mamplus_ring *ring, unsigned long *at, uint32_t *size)
{
	while (*at < __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE)) {
		const unsigned char *record = ring->data + (*at & (ring->size - 1));
		uint32_t header = __atomic_load_n((const uint32_t *)record, __ATOMIC_ACQUIRE);
		uint32_t length = header & ~(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);

		if (header & BPF_RINGBUF_BUSY_BIT)
			return NULL;
		*at += (length + BPF_RINGBUF_HDR_SZ + 7) & ~7UL;
		if (!(header & BPF_RINGBUF_DISCARD_BIT)) {
			*size = length;
			return record + BPF_RINGBUF_HDR_SZ;
		}
	}
	return NULL;
}

static void read_until(struct mamplus_ring *ring, unsigned long at)
{
	__atomic_store_n(ring->consumer, at, __ATOMIC_RELEASE);
}

const void *mamplus_ring_next(struct mamplus_ring *ring, uint32_t *size)
{
	const void *record;

	ring->next = *ring->consumer;
	record = record_at(ring, &ring->next, size);
	if (!record)
		read_until(ring, ring->next);	/* what was discarded */
	return record;
}

void mamplus_ring_done(struct mamplus_ring *ring)
{
	read_until(ring, ring->next);
}

static void take_wake_up(struct mamplus_ring *ring)
{
	struct epoll_event event;

	(void)epoll_wait(ring->epoll_fd, &event, 1, 0);
}

/*
 * Of the records that are to be handed over: how many fit into `size` bytes, and of each kind how many, in how many
 * bytes. *end: where the first one lies that does not fit; it stands at what is to be looked at, and moves.
 */
static uint32_t look_ahead(struct mamplus_ring *ring, uint32_t size, unsigned char *order, uint32_t max_records,
			   struct mamplus_run *of, unsigned long *end)
{
	unsigned long at = *end, stop = __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE);
	const struct mamplus_head *head;
	uint32_t used = 0, length, count = 0;

	while (*end < stop && (head = record_at(ring, &at, &length))) {
		unsigned char kind = head->kind < MAMPLUS_KINDS ? head->kind : 0;

		if (!ring->past || mamplus_past_wants(ring->past, head, length)) {
			ring->more = used + length > size || count == max_records;
			if (ring->more)
				break;
			used += length;
			of[kind].count++;
			of[kind].bytes += length;
			order[count++] = kind;
		}
		*end = at;
	}
	return count;
}

/*
 * By kind, for programs start and end in turn: a run of each record would cost who reads them in Python more than the
 * records do.
 */
int mamplus_ring_drain(struct mamplus_ring *ring, unsigned char *out, uint32_t size, unsigned char *order,
		       uint32_t max_records, struct mamplus_run *runs)
{
	struct mamplus_run of[MAMPLUS_KINDS] = { 0 };
	unsigned char *to[MAMPLUS_KINDS];
	unsigned long begin = *ring->consumer, at = begin, end = begin;
	const struct mamplus_head *head;
	uint32_t count, length, next = 0;

	take_wake_up(ring);
	ring->more = false;
	count = look_ahead(ring, size, order, max_records, of, &end);
	for (uint32_t kind = 0; kind < MAMPLUS_KINDS; kind++) {
		to[kind] = out;
		out += of[kind].bytes;
		of[kind].kind = kind;
		if (of[kind].count)
			*runs++ = of[kind];
	}
	while (at < end && (head = record_at(ring, &at, &length))) {
		if (ring->past && !mamplus_past_take(ring->past, head, length))
			continue;
		memcpy(to[order[next]], head, length);
		to[order[next++]] += length;
	}
	read_until(ring, end);
	ring->found |= end > begin;
	return end > begin ? (int)count : -1;
}

int mamplus_ring_arm(struct mamplus_ring *ring)
{
	uint32_t size;

	if (ring->more)
		return 0;
	if (ring->found || !ring->waiting) {
		ring->found = false;
		ring->looked_twice = false;
		if (ring->waiting)
			__atomic_store_n(&ring->waiting->agent_waits, 0, __ATOMIC_SEQ_CST);
		return GATHER_MS;
	}
	__atomic_store_n(&ring->waiting->agent_waits, 1, __ATOMIC_SEQ_CST);
	if (mamplus_ring_next(ring, &size))
		return 0;
	if (ring->looked_twice)
		return -1;
	ring->looked_twice = true;
	return GATHER_MS;
}

int mamplus_ring_wait(struct mamplus_ring *ring, int timeout_ms)
{
	struct epoll_event event;
	int own_ms = mamplus_ring_arm(ring);
	bool own = own_ms >= 0 && (timeout_ms < 0 || own_ms < timeout_ms);
	int ready = epoll_wait(ring->epoll_fd, &event, 1, own ? own_ms : timeout_ms);

	if (ready < 0)
		return -errno;
	return ready > 0 || own;
}
