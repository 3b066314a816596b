/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The table of starts that wait: as many as `held` has room for, so nothing is ever allocated.
 *
 * A job that passed its deadline is answered but stays until its thread is done with it.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "responder.h"

/* One thread takes nothing larger, so that no two large files can keep all others waiting. */
#define SMALL_BYTES (64ULL << 20)

static struct job jobs[MAMPLUS_HELD_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t queued = PTHREAD_COND_INITIALIZER;
static bool ended;
static struct job known;	/* stands for "that start is here already" */

static bool is_one(const struct job *job, const struct job *other)
{
	return job->hold.tgid == other->hold.tgid && job->pid == other->pid && job->hold.boot_ns == other->hold.boot_ns;
}

static bool same_file(const struct mamplus_file *one, const struct mamplus_file *other)
{
	return one->ino && one->ino == other->ino && one->dev == other->dev;
}

static bool share_a_file(const struct mamplus_hold *one, const struct mamplus_hold *other)
{
	return same_file(&one->file, &other->file) || same_file(&one->file, &other->loader) ||
	       same_file(&one->loader, &other->file) || same_file(&one->loader, &other->loader);
}

struct job *job_add(const struct job *wanted)
{
	struct job *room = NULL;

	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; i < MAMPLUS_HELD_MAX; i++) {
		if (jobs[i].state == JOB_FREE) {
			room = room ? room : &jobs[i];
		} else if (is_one(&jobs[i], wanted)) {
			pthread_mutex_unlock(&lock);
			return &known;
		}
	}
	if (room) {
		*room = *wanted;
		room->state = JOB_QUEUED;
		pthread_cond_broadcast(&queued);	/* not every thread takes every job */
	}
	pthread_mutex_unlock(&lock);
	return room;
}

bool job_is_known(const struct job *job)
{
	return job == &known;
}

/* Of two readers of one file, neither could tell whose note a writer removed (MAMPLUS_KNOWN_PENDING). */
static bool is_being_read(const struct job *job)
{
	for (unsigned int i = 0; i < MAMPLUS_HELD_MAX; i++)
		if (jobs[i].state == JOB_HASHING && share_a_file(&jobs[i].hold, &job->hold))
			return true;
	return false;
}

/* The oldest first. */
static struct job *oldest_queued(bool small_only)
{
	struct job *oldest = NULL;

	for (unsigned int i = 0; i < MAMPLUS_HELD_MAX; i++)
		if (jobs[i].state == JOB_QUEUED && (!small_only || jobs[i].hold.file.size <= SMALL_BYTES) &&
		    (!oldest || jobs[i].hold.boot_ns < oldest->hold.boot_ns) && !is_being_read(&jobs[i]))
			oldest = &jobs[i];
	return oldest;
}

struct job *job_take(bool small_only)
{
	struct job *job;

	pthread_mutex_lock(&lock);
	while (!(job = oldest_queued(small_only)) && !ended)
		pthread_cond_wait(&queued, &lock);
	if (job)
		job->state = JOB_HASHING;
	pthread_mutex_unlock(&lock);
	return job;
}

void job_done(struct job *job, enum hash_state hashed)
{
	pthread_mutex_lock(&lock);
	job->hashed = hashed;
	job->state = JOB_DONE;
	pthread_cond_broadcast(&queued);	/* one that waits for this file can be taken now */
	pthread_mutex_unlock(&lock);
}

void jobs_each(void (*visit)(struct job *job, enum job_state state))
{
	for (unsigned int i = 0; i < MAMPLUS_HELD_MAX; i++) {
		enum job_state state;

		pthread_mutex_lock(&lock);
		state = jobs[i].state;
		pthread_mutex_unlock(&lock);
		if (state != JOB_FREE)
			visit(&jobs[i], state);
	}
}

static void empty(struct job *job)
{
	free(job->path);
	job->path = NULL;
	job->state = JOB_FREE;
}

void job_answered(struct job *job)
{
	pthread_mutex_lock(&lock);
	job->is_answered = true;
	if (job->state == JOB_QUEUED)
		empty(job);
	pthread_mutex_unlock(&lock);
}

/* Not for whom nobody waits either: of many such files none would be hashed. */
static bool somebody_waits(void)
{
	for (unsigned int i = 0; i < MAMPLUS_HELD_MAX; i++)
		if (jobs[i].state == JOB_QUEUED && !jobs[i].is_answered && !is_being_read(&jobs[i]))
			return true;
	return false;
}

bool job_gives_way(const struct job *job)
{
	bool gives_way;

	pthread_mutex_lock(&lock);
	gives_way = job->is_answered && somebody_waits();
	pthread_mutex_unlock(&lock);
	return gives_way;
}

void job_free(struct job *job)
{
	pthread_mutex_lock(&lock);
	empty(job);
	pthread_mutex_unlock(&lock);
}

unsigned int jobs_open(void)
{
	unsigned int open = 0;

	for (unsigned int i = 0; i < MAMPLUS_HELD_MAX; i++)
		open += jobs[i].state != JOB_FREE && jobs[i].pidfd >= 0;
	return open;
}

void jobs_end(void)
{
	pthread_mutex_lock(&lock);
	ended = true;
	pthread_cond_broadcast(&queued);
	pthread_mutex_unlock(&lock);
}
