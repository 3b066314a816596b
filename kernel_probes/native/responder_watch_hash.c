/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The two threads that hash: the first for opens that wait alone, the second also for later; between two blocks of such
 * a file it serves whoever waits, here or for the signal tier, and then goes on. A file that several wait for is hashed once.
 */
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "digest.h"
#include "responder_watch_waits.h"

#define STACK_BYTES (256 * 1024)
#define FIRST_BYTES_PER_MS 100000	/* 100 MB/s, until it was measured here */
#define RATE_BYTES (4ULL << 20)	/* a smaller file says little about the rate */
#define NS_PER_MS 1000000ULL
#define PAUSE_US 1000

static uint64_t bytes_per_ms = FIRST_BYTES_PER_MS;
static int done = -1;

uint64_t hash_rate(void)
{
	return __atomic_load_n(&bytes_per_ms, __ATOMIC_RELAXED);
}

static bool is_as(int fd, const struct mamplus_file *file)
{
	struct stat stat;

	return fstat(fd, &stat) == 0 && (uint64_t)stat.st_size == file->size && stat.st_ctim.tv_sec == file->ctime_s &&
	       stat.st_ctim.tv_nsec == file->ctime_ns;
}

static void note_rate(uint64_t bytes, uint64_t took_ns)
{
	uint64_t now = bytes * NS_PER_MS / (took_ns ? took_ns : 1), before = __atomic_load_n(&bytes_per_ms, __ATOMIC_RELAXED);

	if (bytes >= RATE_BYTES)
		__atomic_store_n(&bytes_per_ms, (3 * before + now) / 4 + 1, __ATOMIC_RELAXED);
}

static bool hash_fd(struct digest *digest, int fd, const struct mamplus_file *file, bool (*go_on)(void *), void *argument)
{
	unsigned char sha256[EVP_MAX_MD_SIZE];
	uint64_t begun_ns = boot_ns();

	if (!digest_fd(digest, fd, go_on, argument, sha256) || !is_as(fd, file) || !hash_remember(fd, file, sha256))
		return false;
	watch_count(MAMPLUS_W_HASHED);
	note_rate(file->size, boot_ns() - begun_ns);
	return true;
}

/* A hash, and whether it was broken off. */
struct hashing {
	const struct wait *wait;
	bool gave_way;
};

/* A file whose opens were all answered meanwhile gives way to those who wait. */
static bool goes_on(void *argument)
{
	struct hashing *hashing = argument;

	hashing->gave_way = !waits_want(hashing->wait);
	return !hashing->gave_way;
}

/* Hash for one who waits; false: nobody does. */
static bool serve_one(struct digest *digest)
{
	struct wait *wait = waits_begin(false);
	struct hashing hashing = { .wait = wait };
	bool is_hashed;

	if (!wait)
		return false;
	/* `wait` and its descriptor stay until it is done: only the thread that answers frees, and only then. */
	is_hashed = hash_fd(digest, wait->opening.fd, &wait->opening.file, goes_on, &hashing);
	waits_finish(wait, is_hashed, hashing.gave_way);
	eventfd_write(done, 1);
	return true;
}

static void *hash_for_waiters(void *unused)
{
	static struct digest digest;

	(void)unused;
	if (!digest_open(&digest))
		return NULL;	/* the other thread serves, or every wait ends at its deadline */
	for (;;) {
		if (!serve_one(&digest))
			waits_sleep(false);
	}
	return NULL;
}

/* Between two blocks of a file that nobody waits for. */
static bool give_way(void *digest)
{
	while (serve_one(digest))
		;
	while (jobs_open())
		usleep(PAUSE_US);
	return true;
}

static bool hash_let_go(struct digest *digest, struct digest *nested)
{
	struct wait *wait = waits_begin(true);
	bool is_hashed;

	if (!wait)
		return false;
	is_hashed = hash_fd(digest, wait->opening.fd, &wait->opening.file, give_way, nested);
	waits_finish(wait, is_hashed, false);
	eventfd_write(done, 1);
	return true;
}

static bool hash_written(struct digest *digest, struct digest *nested)
{
	struct later file;

	if (!later_take(&file))
		return false;
	if (is_as(file.fd, &file.file))	/* else it was written again: that is in the queue, too */
		(void)hash_fd(digest, file.fd, &file.file, give_way, nested);
	close(file.fd);
	return true;
}

static void *hash_for_later(void *unused)
{
	static struct digest digest, nested;

	(void)unused;
	if (!digest_open(&digest) || !digest_open(&nested))
		return NULL;
	for (;;) {
		if (!serve_one(&nested) && !hash_let_go(&digest, &nested) && !hash_written(&digest, &nested))
			waits_sleep(true);
	}
	return NULL;
}

int waits_start(int done_fd)
{
	void *(*const work[])(void *) = { hash_for_waiters, hash_for_later };
	static bool is_started;
	pthread_attr_t attributes;

	done = done_fd;
	if (is_started)
		return 0;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	for (int i = 0; i < 2; i++) {
		pthread_t thread;
		int error = pthread_create(&thread, &attributes, work[i], NULL);

		if (error)
			return -error;
		pthread_detach(thread);
	}
	is_started = true;
	return 0;
}
