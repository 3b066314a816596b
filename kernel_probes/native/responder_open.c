/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Opening the file that somebody waits for, and no other.
 *
 * A program that has started is /proc/PID/exe, and what a task has open or mapped hangs below /proc/PID, too: no
 * path is followed. A file that is about to be opened has nothing but its path, which whoever owns the directory
 * may turn to another file. So the kernel is asked what was opened: with lsm_exec.bpf.c attached, `opened` holds
 * device and inode as the kernel has them (stat(2) shows others on btrfs and overlayfs). Without it only starts
 * are asked for here. Where the path leads to nothing, or to another file, the task's directories are tried.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "responder.h"

#define CLIMB_MAX 64		/* directories above one that the task has */
#define DIRECTORIES_MAX 256	/* descriptors of the task that are looked at */
#define READING (O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)

bool is_as_held(const struct stat *stat, const struct mamplus_file *file)
{
	return (uint64_t)stat->st_size == file->size && stat->st_ctim.tv_sec == file->ctime_s &&
	       stat->st_ctim.tv_nsec == file->ctime_ns;
}

static uint32_t own_thread(void)
{
	return syscall(SYS_gettid);
}

static bool is_one(const struct mamplus_file *file, const struct mamplus_file *other)
{
	return file->dev == other->dev && file->ino == other->ino;
}

/* What the kernel says of the file that this thread has just opened. */
static bool is_it(const struct pins *pins, int fd, const struct mamplus_file *file, struct found_file *out)
{
	uint32_t thread = own_thread();
	struct mamplus_opened said;
	struct stat stat;

	if (fstat(fd, &stat) < 0 || !is_as_held(&stat, file))
		return false;
	out->is_told = mamplus_map_lookup(pins->opened, &thread, &said) == 0;
	out->flags = out->is_told ? said.flags : 0;
	return !out->is_told || is_one(&said.file, file) || is_one(&said.backing, file);
}

/* By a name in /proc, whose links lead to the file itself. */
static bool try_name(const struct pins *pins, int dir, const char *name, const struct mamplus_file *file,
		     struct found_file *out)
{
	uint32_t thread = own_thread();
	struct stat stat;

	/* Looked at before it is opened: opening a device or a FIFO can do things. */
	if (fstatat(dir, name, &stat, 0) < 0 || !S_ISREG(stat.st_mode) || !is_as_held(&stat, file))
		return false;
	(void)mamplus_map_delete(pins->opened, &thread);	/* of an earlier open */
	out->fd = openat(dir, name, READING);
	if (out->fd >= 0 && is_it(pins, out->fd, file, out))
		return true;
	if (out->fd >= 0)
		close(out->fd);
	out->fd = -1;
	return false;
}

/* Any of the links in a directory of /proc. */
static bool try_all(const struct pins *pins, const char *path, const struct mamplus_file *file, struct found_file *out)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	bool found = false;

	while (dir && !found && (entry = readdir(dir)))
		found = entry->d_name[0] != '.' && try_name(pins, dirfd(dir), entry->d_name, file, out);
	if (dir)
		closedir(dir);
	return found;
}

/* A file below a directory, by a path in which no link is followed: only the kernel's own word on what that is counts. */
static bool try_below(const struct pins *pins, int dir, const char *path, uint64_t resolve, const struct mamplus_file *file,
		      struct found_file *out)
{
	struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = resolve | RESOLVE_NO_SYMLINKS };
	int fd = syscall(SYS_openat2, dir, path, &how, sizeof(how));
	char name[32];
	bool found;

	if (fd < 0)
		return false;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	found = try_name(pins, AT_FDCWD, name, file, out);
	close(fd);
	if (found && !out->is_told) {	/* a path is nobody's word */
		close(out->fd);
		out->fd = -1;
	}
	return out->fd >= 0;
}

/* By the path that the kernel named, in the task's own root: it has no links in it. */
static bool try_path(const struct pins *pins, const struct job *job, struct found_file *out)
{
	char name[64];
	int root;
	bool found;

	snprintf(name, sizeof(name), "/proc/%u/task/%u/root", job->hold.tgid, job->pid ? job->pid : job->hold.tgid);
	root = open(name, O_PATH | O_CLOEXEC);
	found = root >= 0 && try_below(pins, root, job->path, RESOLVE_IN_ROOT, &job->hold.file, out);
	if (root >= 0)
		close(root);
	return found;
}

/* Without asking the file system's server: a FUSE server could be one that never answers. */
static bool is_one_directory(int one, int other)
{
	struct statx first, second;

	return statx(one, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &first) == 0 &&
	       statx(other, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &second) == 0 &&
	       first.stx_ino == second.stx_ino && first.stx_dev_major == second.stx_dev_major &&
	       first.stx_dev_minor == second.stx_dev_minor;
}

/* The top of what `dir` lies in: of a mount that hangs in no tree, its own root. Takes `dir`; -1: too deep. */
static int top_of(int dir)
{
	for (int i = 0; i < CLIMB_MAX; i++) {
		int above = openat(dir, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
		bool is_top = above >= 0 && is_one_directory(dir, above);

		close(dir);
		if (is_top || above < 0)
			return above;
		dir = above;
	}
	close(dir);
	return -1;
}

/*
 * From a directory that the task has: where no path leads to the file (a mount that hangs in no tree), or none that is
 * short enough to be told (then the kernel names the file alone).
 */
static bool try_from(const struct pins *pins, int at, const char *link, const struct job *job, struct found_file *out)
{
	const char *slash = strrchr(job->path, '/'), *name = slash ? slash + 1 : job->path;
	int dir = openat(at, link, O_PATH | O_DIRECTORY | O_CLOEXEC);
	bool found;

	if (dir < 0)
		return false;
	found = try_below(pins, dir, name, RESOLVE_BENEATH, &job->hold.file, out);
	if (found || !slash) {
		close(dir);
		return found;
	}
	dir = top_of(dir);
	found = dir >= 0 && try_below(pins, dir, job->path, RESOLVE_IN_ROOT, &job->hold.file, out);
	if (dir >= 0)
		close(dir);
	return found;
}

static bool try_directories(const struct pins *pins, const struct job *job, struct found_file *out)
{
	unsigned int left = DIRECTORIES_MAX;
	struct dirent *entry;
	bool found;
	char name[64];
	DIR *fds;

	snprintf(name, sizeof(name), "/proc/%u/task/%u/cwd", job->hold.tgid, job->pid ? job->pid : job->hold.tgid);
	found = try_from(pins, AT_FDCWD, name, job, out);
	snprintf(name, sizeof(name), "/proc/%u/task/%u/fd", job->hold.tgid, job->pid ? job->pid : job->hold.tgid);
	fds = opendir(name);
	while (fds && !found && left-- && (entry = readdir(fds)))
		found = entry->d_name[0] != '.' && try_from(pins, dirfd(fds), entry->d_name, job, out);
	if (fds)
		closedir(fds);
	return found;
}

static bool still_waits(const struct pins *pins, const struct mamplus_hold *hold)
{
	struct mamplus_held entry;

	return mamplus_map_lookup(pins->held, &hold->tgid, &entry) == 0 && entry.boot_ns == hold->boot_ns;
}

/* That the process is the one that waits is asked after the open: `held` loses its entry before a pid is used again. */
static void keep_if_it_waits(const struct pins *pins, const struct job *job, struct found_file *out)
{
	if (out->fd >= 0 && !still_waits(pins, &job->hold)) {
		close(out->fd);
		out->fd = -1;
	}
}

void open_start(const struct pins *pins, const struct job *job, struct found_file *out)
{
	char name[32];

	snprintf(name, sizeof(name), "/proc/%u/exe", job->hold.tgid);
	(void)try_name(pins, AT_FDCWD, name, &job->hold.file, out);
	keep_if_it_waits(pins, job, out);
}

void open_loader(const struct pins *pins, const struct job *job, struct found_file *out)
{
	char name[32];

	snprintf(name, sizeof(name), "/proc/%u/map_files", job->hold.tgid);
	(void)try_all(pins, name, &job->hold.loader, out);
	keep_if_it_waits(pins, job, out);
}

/* Whose file this is does not matter: `known` is about files, and the kernel said that it is the one. */
void open_wanted(const struct pins *pins, const struct job *job, struct found_file *out)
{
	char name[96];

	if (job->path && *job->path == '/' && try_path(pins, job, out))
		return;
	snprintf(name, sizeof(name), "/proc/%u/map_files/%lx-%lx", job->hold.tgid, job->from, job->to);
	if (job->to && try_name(pins, AT_FDCWD, name, &job->hold.file, out))
		return;
	snprintf(name, sizeof(name), "/proc/%u/exe", job->hold.tgid);	/* its program may be what is asked about */
	if (try_name(pins, AT_FDCWD, name, &job->hold.file, out))
		return;
	snprintf(name, sizeof(name), "/proc/%u/task/%u/fd", job->hold.tgid, job->pid ? job->pid : job->hold.tgid);
	if (try_all(pins, name, &job->hold.file, out))
		return;
	snprintf(name, sizeof(name), "/proc/%u/map_files", job->hold.tgid);
	if (job->to && try_all(pins, name, &job->hold.file, out))
		return;
	if (job->path)
		(void)try_directories(pins, job, out);
}
