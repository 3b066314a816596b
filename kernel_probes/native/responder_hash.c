/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Hashing what a start or an access waits for; responder_open.c says which file that is.
 *
 * With lsm_exec.bpf.c attached every writer is seen: the kernel notes in `known` that the file is being read when
 * it is opened here, a writer that comes later removes that note, and only what replaces it is remembered. So
 * what changes while it is hashed is not believed, whatever its size and times say.
 */
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#include "digest.h"
#include "responder.h"

#define CLOCK_TICKS_NS 50000000LL	/* coarse file times advance by a tick, 1 to 10 ms; with room */
#define NS_PER_S 1000000000LL
#define COARSE_NS (2 * NS_PER_S)	/* vfat keeps every second second; ext4 with inodes of 128 bytes whole ones */
#define GONE " (deleted)"	/* the end of what /proc says of a file without a name */
#define FUSE_MAGIC 0x65735546

static struct pins pins;
static int done;

/* A start that is answered gives way to one that waits. */
static bool goes_on(void *job)
{
	return !job_gives_way(job);
}

/* Where a later change may leave size and ctime as they are, the answer is good once. */
static uint32_t known_flags(const struct found_file *file, const struct mamplus_file *held)
{
	struct timespec now;
	struct statfs fs;
	int64_t age_ns, old_ns = CLOCK_TICKS_NS + (held->ctime_ns ? 0 : COARSE_NS);

	if (fstatfs(file->fd, &fs) || fs.f_type == FUSE_MAGIC)
		return MAMPLUS_KNOWN_ONCE;
	if (file->is_told)	/* whoever opens it for writing from now on is seen, and the entry goes */
		return file->flags ? MAMPLUS_KNOWN_ONCE : 0;
	clock_gettime(CLOCK_REALTIME, &now);
	age_ns = (now.tv_sec - held->ctime_s) * NS_PER_S + now.tv_nsec - held->ctime_ns;
	return age_ns < old_ns || fs.f_type == TMPFS_MAGIC ? MAMPLUS_KNOWN_ONCE : 0;
}

uint32_t born_as(uint64_t dev)
{
	uint32_t at = (uint32_t)dev % MAMPLUS_BIRTHS_MAX, count = 0;

	(void)mamplus_map_lookup(pins.births, &at, &count);
	return count << MAMPLUS_KNOWN_BORN_SHIFT;
}

static void copy_for_user_space(struct mamplus_file_key key, struct mamplus_known known)
{
	key.dev = (uint32_t)key.dev;
	known.flags |= MAMPLUS_KNOWN_COPY;
	(void)mamplus_map_update(pins.known, &key, &known);
}

static enum hash_state remember(const struct found_file *file, const struct mamplus_file *held, const unsigned char *sha256)
{
	struct mamplus_file_key key = { .dev = held->dev, .ino = held->ino };
	struct mamplus_known known = { .size = held->size, .ctime_s = held->ctime_s, .ctime_ns = held->ctime_ns };
	uint32_t once = known_flags(file, held);
	int error;

	known.flags = once | born_as(key.dev);	/* it is open: no other file system can have that number */
	memcpy(known.sha256, sha256, sizeof(known.sha256));
	if (file->is_told && !once)
		error = mamplus_map_replace(pins.known, &key, &known);	/* the note of our reading is gone: it was written */
	else
		error = mamplus_map_update(pins.known, &key, &known);
	if (error)
		return HASH_NONE;
	if (key.dev >> 32)
		copy_for_user_space(key, known);
	return once ? HASH_ONCE : HASH_KEPT;
}

bool hash_remember(int fd, const struct mamplus_file *held, const unsigned char *sha256)
{
	struct found_file file = { .fd = fd };

	return remember(&file, held, sha256) != HASH_NONE;
}

static bool is_remembered(const struct mamplus_file *file)
{
	struct mamplus_file_key key = { .dev = file->dev, .ino = file->ino };
	struct mamplus_known known;

	return mamplus_map_lookup(pins.known, &key, &known) == 0 && known.flags == born_as(key.dev) &&
	       known.size == file->size && known.ctime_s == file->ctime_s && known.ctime_ns == file->ctime_ns;
}

static bool matches(const char *pattern, const char *path)
{
	const char *name = strrchr(path, '/');

	return fnmatch(pattern, strchr(pattern, '/') || !name ? path : name + 1, FNM_PATHNAME) == 0;
}

/* A copy of an interpreter is one, too: it is known by its content from the first time that a file so named is hashed. */
static void note_interpreter(int fd, const struct mamplus_file *file, const unsigned char *sha256)
{
	char link[32], path[4096];
	struct mamplus_pattern pattern;
	uint32_t yes = 1;
	ssize_t length;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = file->mode & 0111 ? readlink(link, path, sizeof(path) - 1) : -1;
	if (length < 0)
		return;
	path[length] = '\0';
	if (length > (ssize_t)strlen(GONE) && strcmp(path + length - strlen(GONE), GONE) == 0)
		path[length - strlen(GONE)] = '\0';	/* it was replaced, and runs on */
	for (uint32_t i = 0; i < MAMPLUS_PATTERNS_MAX; i++) {
		if (mamplus_map_lookup(pins.patterns, &i, &pattern) < 0 || !pattern.text[0])
			return;
		pattern.text[MAMPLUS_PATTERN_LEN - 1] = '\0';
		if (matches(pattern.text, path)) {
			(void)mamplus_map_update(pins.interpreters, sha256, &yes);
			return;
		}
	}
}

typedef void opener(const struct pins *pins, const struct job *job, struct found_file *out);

static enum hash_state hash_file(struct job *job, const struct mamplus_file *held, opener *open_it, struct digest *digest)
{
	struct found_file file = { .fd = -1 };
	unsigned char sha256[EVP_MAX_MD_SIZE];
	enum hash_state state = HASH_NONE;
	struct stat after;

	if (is_remembered(held))
		return HASH_KEPT;	/* another start of the same file was quicker */
	open_it(&pins, job, &file);
	if (file.fd < 0)
		return HASH_NONE;
	if (digest_fd(digest, file.fd, goes_on, job, sha256) && fstat(file.fd, &after) == 0 && is_as_held(&after, held)) {
		note_interpreter(file.fd, held, sha256);
		state = remember(&file, held, sha256);
	}
	close(file.fd);
	return state;
}

/* All that a job needs; as good as the least of it. */
static enum hash_state hash(struct job *job, struct digest *digest)
{
	enum hash_state state, loader;

	if (job->hold.op)
		return hash_file(job, &job->hold.file, open_wanted, digest);
	state = hash_file(job, &job->hold.file, open_start, digest);
	if (state == HASH_NONE || !job->hold.loader.ino)
		return state;
	loader = hash_file(job, &job->hold.loader, open_loader, digest);
	return loader < state ? loader : state;
}

static void *hash_jobs(void *is_small)
{
	struct digest digest;
	bool can_hash = digest_open(&digest);
	struct job *job;

	while ((job = job_take(is_small != NULL))) {
		job_done(job, can_hash ? hash(job, &digest) : HASH_NONE);
		eventfd_write(done, 1);
	}
	return NULL;	/* the process ends: it takes the memory with it */
}

int hash_start(const struct pins *given, int done_fd)
{
	pins = *given;
	done = done_fd;
	for (int i = 0; i < HASH_THREADS; i++) {
		pthread_t thread;
		int error = pthread_create(&thread, NULL, hash_jobs, i ? NULL : &pins);	/* the first: small files only */

		if (error)
			return -error;
		pthread_detach(thread);
	}
	return 0;
}
