/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Opens that wait for a hash, and files that are hashed for the next time.
 *
 * Both tables have fixed sizes. Two threads hash: the first for those who wait alone, the second also for later;
 * between two blocks of such a file it serves whoever waits, here or for the signal tier, and then goes on.
 * A file that several wait for is hashed once.
 */
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "digest.h"
#include "responder_watch.h"

#define LATER_MAX 256
#define STACK_BYTES (256 * 1024)
#define FIRST_BYTES_PER_MS 100000	/* 100 MB/s, until it was measured here */
#define RATE_BYTES (4ULL << 20)	/* a smaller file says little about the rate */
#define NS_PER_MS 1000000ULL
#define PAUSE_US 1000

enum wait_state { WAIT_FREE, WAIT_QUEUED, WAIT_HASHING, WAIT_DONE };

struct wait {
	struct opening opening;
	enum wait_state state;	/* guarded by the lock */
	bool is_hashed, is_let_go;
	uint64_t begun_ns;
};

struct later {
	struct mamplus_file file;
	int fd;	/* -1: free */
};

static struct wait waits[MAMPLUS_WATCH_WAITS];
static struct later later[LATER_MAX];
static unsigned int later_first, later_count;	/* a ring */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t queued = PTHREAD_COND_INITIALIZER;
static uint64_t bytes_per_ms = FIRST_BYTES_PER_MS;
static int done = -1;

static bool same_file(const struct mamplus_file *one, const struct mamplus_file *other)
{
	return one->ino == other->ino && one->dev == other->dev && one->size == other->size &&
	       one->ctime_s == other->ctime_s && one->ctime_ns == other->ctime_ns;
}

/* --- hashing ------------------------------------------------------------------------------- */

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

/* With the lock: the wait that began first and that nobody hashes the file of. */
static struct wait *oldest(void)
{
	struct wait *found = NULL;

	for (unsigned int i = 0; i < MAMPLUS_WATCH_WAITS; i++)
		if (waits[i].state == WAIT_QUEUED && !waits[i].is_let_go &&
		    (!found || waits[i].opening.since_ns < found->opening.since_ns))
			found = &waits[i];
	return found;
}

/* The others that wait for the same file wait for this hash, too: they began before it did. None waits for one that has time. */
static void begin(struct wait *wait)
{
	uint64_t now = boot_ns();

	for (unsigned int i = 0; i < MAMPLUS_WATCH_WAITS; i++)
		if (waits[i].state == WAIT_QUEUED && same_file(&waits[i].opening.file, &wait->opening.file) &&
		    (waits[i].is_let_go || !wait->is_let_go)) {
			waits[i].state = WAIT_HASHING;
			waits[i].begun_ns = now;
		}
}

static bool is_joined(const struct wait *one, const struct wait *wait)
{
	return one->state == WAIT_HASHING && one->begun_ns == wait->begun_ns &&
	       same_file(&one->opening.file, &wait->opening.file);
}

/* `gave_way`: it was not read to its end, which must not cost anybody who joined it his time. */
static void finish(const struct wait *wait, bool is_hashed, bool gave_way)
{
	struct wait one = *wait;

	for (unsigned int i = 0; i < MAMPLUS_WATCH_WAITS; i++)
		if (is_joined(&waits[i], &one)) {
			waits[i].is_hashed = is_hashed;
			waits[i].state = gave_way ? WAIT_QUEUED : WAIT_DONE;
		}
	if (gave_way)
		pthread_cond_broadcast(&queued);	/* the other thread has time for it */
}

/* With the lock: the open that a hash was begun for, or another one of the same file, still waits. */
static bool is_waited_for(const struct wait *wait)
{
	for (unsigned int i = 0; i < MAMPLUS_WATCH_WAITS; i++)
		if (is_joined(&waits[i], wait) && !waits[i].is_let_go)
			return true;
	return false;
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

	pthread_mutex_lock(&lock);
	hashing->gave_way = !is_waited_for(hashing->wait) && oldest();
	pthread_mutex_unlock(&lock);
	return !hashing->gave_way;
}

/* Hash for one who waits; false: nobody does. */
static bool serve_one(struct digest *digest)
{
	struct hashing hashing = { .gave_way = false };
	struct wait *wait;
	bool is_hashed;

	pthread_mutex_lock(&lock);
	wait = oldest();
	if (wait)
		begin(wait);
	pthread_mutex_unlock(&lock);
	if (!wait)
		return false;
	hashing.wait = wait;
	/* `wait` and its descriptor stay until it is done: only the thread that answers frees, and only then. */
	is_hashed = hash_fd(digest, wait->opening.fd, &wait->opening.file, goes_on, &hashing);
	pthread_mutex_lock(&lock);
	finish(wait, is_hashed, hashing.gave_way);
	pthread_mutex_unlock(&lock);
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
		if (serve_one(&digest))
			continue;
		pthread_mutex_lock(&lock);
		while (!oldest())
			pthread_cond_wait(&queued, &lock);
		pthread_mutex_unlock(&lock);
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

/* With the lock: those who were let go on, for what they opened is to be known the next time. */
static struct wait *oldest_let_go(void)
{
	for (unsigned int i = 0; i < MAMPLUS_WATCH_WAITS; i++)
		if (waits[i].state == WAIT_QUEUED && waits[i].is_let_go)
			return &waits[i];
	return NULL;
}

static bool hash_let_go(struct digest *digest, struct digest *nested)
{
	struct wait *wait;
	bool is_hashed;

	pthread_mutex_lock(&lock);
	wait = oldest_let_go();
	if (wait)
		begin(wait);
	pthread_mutex_unlock(&lock);
	if (!wait)
		return false;
	is_hashed = hash_fd(digest, wait->opening.fd, &wait->opening.file, give_way, nested);
	pthread_mutex_lock(&lock);
	finish(wait, is_hashed, false);
	pthread_mutex_unlock(&lock);
	eventfd_write(done, 1);
	return true;
}

static bool hash_written(struct digest *digest, struct digest *nested)
{
	struct later file;

	pthread_mutex_lock(&lock);
	file.fd = -1;
	if (later_count) {
		file = later[later_first];
		later_first = (later_first + 1) % LATER_MAX;
		later_count--;
	}
	pthread_mutex_unlock(&lock);
	if (file.fd < 0)
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
		if (serve_one(&nested) || hash_let_go(&digest, &nested) || hash_written(&digest, &nested))
			continue;
		pthread_mutex_lock(&lock);
		while (!oldest() && !oldest_let_go() && !later_count)
			pthread_cond_wait(&queued, &lock);
		pthread_mutex_unlock(&lock);
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

/* --- what the thread that answers does -------------------------------------------------------- */

/* The keeper's copy: without it an open that waits would wait for ever when this process is stopped. */
static void note_for_keeper(unsigned int at, uint64_t deadline_ns, bool refuses_late)
{
	struct mamplus_watch_wait *noted = &watch_pins.watch->wait[at];

	noted->deadline_ns = deadline_ns;
	noted->answer = refuses_late ? MAMPLUS_WATCH_DENY : MAMPLUS_WATCH_ALLOW;
	__atomic_store_n(&noted->fd, waits[at].opening.fd, __ATOMIC_RELEASE);
}

/* With the lock. Half of the room is for those who really wait. */
static bool has_room_for(bool is_let_go)
{
	unsigned int taken = 0;

	for (unsigned int i = 0; i < MAMPLUS_WATCH_WAITS; i++)
		taken += waits[i].state != WAIT_FREE;
	return taken < (is_let_go ? MAMPLUS_WATCH_WAITS / 2 : MAMPLUS_WATCH_WAITS);
}

bool wait_add(const struct opening *opening, uint64_t deadline_ns, bool refuses_late, bool is_let_go)
{
	bool has_room;

	pthread_mutex_lock(&lock);
	has_room = has_room_for(is_let_go);
	for (unsigned int i = 0; has_room && i < MAMPLUS_WATCH_WAITS; i++) {
		if (waits[i].state != WAIT_FREE)
			continue;
		waits[i] = (struct wait){ .opening = *opening, .state = WAIT_QUEUED, .is_let_go = is_let_go };
		if (!is_let_go)
			note_for_keeper(i, deadline_ns, refuses_late);
		break;
	}
	if (has_room)
		pthread_cond_broadcast(&queued);
	pthread_mutex_unlock(&lock);
	return has_room;
}

bool wait_can_end(uint64_t size, uint64_t within_ns)
{
	uint64_t ahead = 0;

	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; i < MAMPLUS_WATCH_WAITS; i++)
		if ((waits[i].state == WAIT_QUEUED || waits[i].state == WAIT_HASHING) && !waits[i].is_let_go)
			ahead += waits[i].opening.file.size;
	pthread_mutex_unlock(&lock);
	/* Two threads: half of what is ahead is done by the other one. */
	return (size + ahead / 2) / __atomic_load_n(&bytes_per_ms, __ATOMIC_RELAXED) <= within_ns / NS_PER_MS;
}

bool later_add(int fd, const struct mamplus_file *file)
{
	bool has_room;

	pthread_mutex_lock(&lock);
	has_room = later_count < LATER_MAX;
	if (has_room) {
		later[(later_first + later_count++) % LATER_MAX] = (struct later){ .file = *file, .fd = fd };
		pthread_cond_broadcast(&queued);
	}
	pthread_mutex_unlock(&lock);
	if (!has_room)
		close(fd);
	return has_room;
}

/* Whether the answer is still ours to give; the keeper gives it when we are late. */
static bool claim(unsigned int at)
{
	return __atomic_exchange_n(&watch_pins.watch->wait[at].fd, 0, __ATOMIC_ACQ_REL) != 0;
}

static void free_wait(struct wait *wait)
{
	close(wait->opening.fd);	/* only now may its number be another event's */
	pthread_mutex_lock(&lock);
	wait->state = WAIT_FREE;
	pthread_mutex_unlock(&lock);
}

static void let_go(struct wait *wait)
{
	pthread_mutex_lock(&lock);
	wait->is_let_go = true;
	pthread_mutex_unlock(&lock);
}

void waits_each(void (*settle)(const struct opening *opening, bool is_hashed, bool is_let_go), uint64_t now_ns, uint64_t *next_ns)
{
	for (unsigned int i = 0; i < MAMPLUS_WATCH_WAITS; i++) {
		struct mamplus_watch_wait *noted = &watch_pins.watch->wait[i];
		enum wait_state state;

		pthread_mutex_lock(&lock);
		state = waits[i].state;
		pthread_mutex_unlock(&lock);
		if (state == WAIT_FREE)
			continue;
		if (state == WAIT_DONE) {
			settle(&waits[i].opening, waits[i].is_hashed, waits[i].is_let_go || !claim(i));
			free_wait(&waits[i]);
		} else if (!waits[i].is_let_go && noted->deadline_ns <= now_ns) {
			bool is_ours = claim(i);

			let_go(&waits[i]);	/* and hashed on, for the next time */
			if (is_ours)
				settle(&waits[i].opening, false, false);
		} else if (!waits[i].is_let_go && noted->deadline_ns < *next_ns) {
			*next_ns = noted->deadline_ns;
		}
	}
}
