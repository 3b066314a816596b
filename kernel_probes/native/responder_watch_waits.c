/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The tables of opens that wait for a hash and of files to hash for the next time; both have fixed sizes. The thread
 * that answers adds and frees, those that hash (responder_watch_hash.c) take and give back.
 */
#include <pthread.h>
#include <unistd.h>

#include "responder_watch_waits.h"

#define LATER_MAX 256
#define NS_PER_MS 1000000ULL

static struct wait waits[MAMPLUS_WATCH_WAITS];
static struct later later[LATER_MAX];
static unsigned int later_first, later_count;	/* a ring */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t queued = PTHREAD_COND_INITIALIZER;

static bool same_file(const struct mamplus_file *one, const struct mamplus_file *other)
{
	return one->ino == other->ino && one->dev == other->dev && one->size == other->size &&
	       one->ctime_s == other->ctime_s && one->ctime_ns == other->ctime_ns;
}

/* --- what the threads that hash do --------------------------------------------------------- */

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
static void finish_all(const struct wait *wait, bool is_hashed, bool gave_way)
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

/* With the lock: those who were let go on, for what they opened is to be known the next time. */
static struct wait *oldest_let_go(void)
{
	for (unsigned int i = 0; i < MAMPLUS_WATCH_WAITS; i++)
		if (waits[i].state == WAIT_QUEUED && waits[i].is_let_go)
			return &waits[i];
	return NULL;
}

struct wait *waits_begin(bool is_let_go)
{
	struct wait *wait;

	pthread_mutex_lock(&lock);
	wait = is_let_go ? oldest_let_go() : oldest();
	if (wait)
		begin(wait);
	pthread_mutex_unlock(&lock);
	return wait;
}

void waits_finish(const struct wait *wait, bool is_hashed, bool gave_way)
{
	pthread_mutex_lock(&lock);
	finish_all(wait, is_hashed, gave_way);
	pthread_mutex_unlock(&lock);
}

bool waits_want(const struct wait *wait)
{
	bool is_wanted;

	pthread_mutex_lock(&lock);
	is_wanted = is_waited_for(wait) || !oldest();
	pthread_mutex_unlock(&lock);
	return is_wanted;
}

bool later_take(struct later *file)
{
	bool is_there;

	pthread_mutex_lock(&lock);
	is_there = later_count;
	if (is_there) {
		*file = later[later_first];
		later_first = (later_first + 1) % LATER_MAX;
		later_count--;
	}
	pthread_mutex_unlock(&lock);
	return is_there;
}

void waits_sleep(bool wakes_for_later)
{
	pthread_mutex_lock(&lock);
	while (!oldest() && !(wakes_for_later && (oldest_let_go() || later_count)))
		pthread_cond_wait(&queued, &lock);
	pthread_mutex_unlock(&lock);
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
	return (size + ahead / 2) / hash_rate() <= within_ns / NS_PER_MS;
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

/* Its deadline stays what it was. */
static void hash_again(unsigned int at, bool is_let_go)
{
	pthread_mutex_lock(&lock);
	waits[at].state = WAIT_QUEUED;
	waits[at].is_let_go = is_let_go;
	if (!is_let_go)
		__atomic_store_n(&watch_pins.watch->wait[at].fd, waits[at].opening.fd, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&queued);
	pthread_mutex_unlock(&lock);
}

static void let_go(struct wait *wait)
{
	pthread_mutex_lock(&lock);
	wait->is_let_go = true;
	pthread_mutex_unlock(&lock);
}

/* A hash is there, or there will be none. False: it is to be hashed again, and there is time for that. */
static bool ends(unsigned int at, wait_settle *settle, uint64_t now_ns)
{
	struct wait *wait = &waits[at];
	bool is_let_go = wait->is_let_go || !claim(at);

	if (settle(&wait->opening, wait->is_hashed, is_let_go))
		return true;
	if (now_ns >= (is_let_go ? UINT64_MAX : watch_pins.watch->wait[at].deadline_ns))
		return settle(&wait->opening, false, is_let_go);
	hash_again(at, is_let_go);
	return false;
}

/* It is hashed on, for the next time. */
static void end_late(unsigned int at, wait_settle *settle)
{
	bool is_ours = claim(at);

	let_go(&waits[at]);
	if (is_ours)
		(void)settle(&waits[at].opening, false, false);
}

static enum wait_state state_of(unsigned int at)
{
	enum wait_state state;

	pthread_mutex_lock(&lock);
	state = waits[at].state;
	pthread_mutex_unlock(&lock);
	return state;
}

void waits_each(wait_settle *settle, uint64_t now_ns, uint64_t *next_ns)
{
	for (unsigned int i = 0; i < MAMPLUS_WATCH_WAITS; i++) {
		uint64_t deadline_ns = watch_pins.watch->wait[i].deadline_ns;
		enum wait_state state = state_of(i);

		if (state == WAIT_FREE)
			continue;
		if (state == WAIT_DONE && ends(i, settle, now_ns)) {
			free_wait(&waits[i]);
			continue;
		}
		if (waits[i].is_let_go)
			continue;
		if (deadline_ns <= now_ns)
			end_late(i, settle);
		else if (deadline_ns < *next_ns)
			*next_ns = deadline_ns;
	}
}
