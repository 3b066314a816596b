/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ignore marks: of a file that was found good the kernel asks no more, until somebody writes to it.
 *
 * The kernel drops a mark at write(2), truncation and their like. A write through a shared mapping it does not see;
 * FAN_CLOSE_WRITE comes when the last writable descriptor or mapping goes, and until then execve() fails with
 * ETXTBSY, but dlopen() and an interpreter read on. So only files that nobody but root may write are marked:
 * the others are asked about at every open, and answered from `known`.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "responder_watch.h"

#ifndef FAN_MARK_EVICTABLE
#define FAN_MARK_EVICTABLE 0x00000200
#endif
#define CLOCK_TICKS_NS 50000000LL	/* as in responder_hash.c: two writes in one tick show one ctime */
#define NS_PER_S 1000000000LL
#define FUSE_MAGIC 0x65735546
#define PERMISSIONS (FAN_OPEN_PERM | FAN_OPEN_EXEC_PERM)

static int group = -1;
static unsigned int evictable;

/* Asked with a file that nobody else can open. */
void marks_open(int group_fd)
{
	int fd = memfd_create("mamplus-probe", MFD_CLOEXEC);

	group = group_fd;
	evictable = FAN_MARK_EVICTABLE;
	if (fanotify_mark(group, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK | FAN_MARK_EVICTABLE, PERMISSIONS, fd, NULL) < 0)
		evictable = 0;	/* before 5.19: a mark keeps its inode in memory */
	else
		watch_pins.watch->features |= MAMPLUS_WATCH_EVICTABLE;
	(void)fanotify_mark(group, FAN_MARK_FLUSH, 0, AT_FDCWD, NULL);
	if (fd >= 0)
		close(fd);
}

static bool is_roots_alone(const struct stat *stat)
{
	return stat->st_uid == 0 && (stat->st_gid == 0 || !(stat->st_mode & S_IWGRP)) && !(stat->st_mode & S_IWOTH);
}

static bool is_settled(int fd, const struct stat *stat)
{
	struct timespec now;
	struct statfs fs;

	clock_gettime(CLOCK_REALTIME, &now);
	return (now.tv_sec - stat->st_ctim.tv_sec) * NS_PER_S + now.tv_nsec - stat->st_ctim.tv_nsec >= CLOCK_TICKS_NS &&
	       fstatfs(fd, &fs) == 0 && fs.f_type != FUSE_MAGIC;	/* a FUSE server answers as it likes */
}

static bool is_same(const struct stat *stat, const struct mamplus_file *file)
{
	return (uint64_t)stat->st_size == file->size && stat->st_ctim.tv_sec == file->ctime_s &&
	       stat->st_ctim.tv_nsec == file->ctime_ns;
}

static int mark(int fd)
{
	return fanotify_mark(group, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK | evictable, PERMISSIONS, fd, NULL);
}

void mark_good(const struct opening *opening)
{
	struct stat stat;

	if (fstat(opening->fd, &stat) < 0 || !is_roots_alone(&stat) || !is_settled(opening->fd, &stat))
		return;
	if (mark(opening->fd) < 0) {
		watch_count(MAMPLUS_W_UNMARKED);
		if (errno == ENOSPC)
			marks_drop();	/* as many as one user may have: begin anew */
		return;
	}
	/* Written between the hash and the mark: then the mark came too late to be dropped. */
	if (fstat(opening->fd, &stat) < 0 || !is_same(&stat, &opening->file))
		mark_remove(opening->fd);
	else
		watch_count(MAMPLUS_W_MARKED);
}

void mark_remove(int fd)
{
	(void)fanotify_mark(group, FAN_MARK_REMOVE | FAN_MARK_IGNORED_MASK, PERMISSIONS, fd, NULL);
}

void marks_drop(void)
{
	(void)fanotify_mark(group, FAN_MARK_FLUSH, 0, AT_FDCWD, NULL);	/* those of inodes: there are no others but ours */
	watch_count(MAMPLUS_W_DROPPED);
}
