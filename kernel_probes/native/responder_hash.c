/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Hashing the program of a start that waits.
 *
 * The file is opened through /proc/<tgid>/exe, so no path is ever followed. That the process is
 * still the one that waits is asked after the open: `held` loses its entry before a pid can be
 * used again. Device and inode are not compared: on btrfs and overlayfs stat(2) shows others
 * than the kernel's inode has. While the program runs, nobody can open it for writing.
 */
#include <fcntl.h>
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
#define FUSE_MAGIC 0x65735546

static struct pins pins;
static int done;

static bool still_waits(const struct mamplus_hold *hold)
{
	struct mamplus_held entry;

	return mamplus_map_lookup(pins.held, &hold->tgid, &entry) == 0 && entry.boot_ns == hold->boot_ns;
}

static bool is_as_held(const struct stat *stat, const struct mamplus_file *file)
{
	return (uint64_t)stat->st_size == file->size && stat->st_ctim.tv_sec == file->ctime_s &&
	       stat->st_ctim.tv_nsec == file->ctime_ns;
}

static int open_program(const struct mamplus_hold *hold)
{
	char path[32];
	struct stat stat;
	int fd;

	snprintf(path, sizeof(path), "/proc/%u/exe", hold->tgid);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd >= 0 && still_waits(hold) && fstat(fd, &stat) == 0 && is_as_held(&stat, &hold->file))
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

/* A start that is answered gives way to one that waits. */
static bool goes_on(void *job)
{
	return !job_gives_way(job);
}

/* Where a later change may leave size and ctime as they are, the answer is good once. */
static uint32_t known_flags(int fd, const struct mamplus_file *file)
{
	struct timespec now;
	struct statfs fs;
	int64_t age_ns, old_ns = CLOCK_TICKS_NS + (file->ctime_ns ? 0 : COARSE_NS);

	clock_gettime(CLOCK_REALTIME, &now);
	age_ns = (now.tv_sec - file->ctime_s) * NS_PER_S + now.tv_nsec - file->ctime_ns;
	if (age_ns < old_ns || fstatfs(fd, &fs) || fs.f_type == TMPFS_MAGIC || fs.f_type == FUSE_MAGIC)
		return MAMPLUS_KNOWN_ONCE;
	return 0;
}

bool hash_remember(int fd, const struct mamplus_file *file, const unsigned char *sha256)
{
	struct mamplus_file_key key = { .dev = file->dev, .ino = file->ino };
	struct mamplus_known known = { .size = file->size, .ctime_s = file->ctime_s, .ctime_ns = file->ctime_ns };

	known.flags = known_flags(fd, file);
	memcpy(known.sha256, sha256, sizeof(known.sha256));
	return mamplus_map_update(pins.known, &key, &known) == 0;
}

static bool is_remembered(const struct mamplus_file *file)
{
	struct mamplus_file_key key = { .dev = file->dev, .ino = file->ino };
	struct mamplus_known known;

	return mamplus_map_lookup(pins.known, &key, &known) == 0 && !(known.flags & MAMPLUS_KNOWN_ONCE) &&
	       known.size == file->size && known.ctime_s == file->ctime_s && known.ctime_ns == file->ctime_ns;
}

static bool hash(struct job *job, struct digest *digest)
{
	const struct mamplus_hold *hold = &job->hold;
	unsigned char sha256[EVP_MAX_MD_SIZE];
	struct stat after;
	bool good;
	int fd;

	if (is_remembered(&hold->file))
		return true;	/* another start of the same file was quicker */
	fd = open_program(hold);
	if (fd < 0)
		return false;
	good = digest_fd(digest, fd, goes_on, job, sha256) && fstat(fd, &after) == 0 && is_as_held(&after, &hold->file) &&
	       hash_remember(fd, &hold->file, sha256);
	close(fd);
	return good;
}

static void *hash_jobs(void *is_small)
{
	struct digest digest;
	bool can_hash = digest_open(&digest);
	struct job *job;

	while ((job = job_take(is_small != NULL))) {
		job_done(job, can_hash && hash(job, &digest));
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
