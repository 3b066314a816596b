/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is marked. The agent writes paths into the map `watch` and raises `wanted`; this thread marks the file
 * systems that they lie on, says of each how that went, and puts the number into `applied`.
 *
 * A file system is marked as a whole where the kernel allows it (4.20), so that no bind mount or namespace leads
 * around the mark; else the mount. The kernel's own file systems are refused: the responder itself reads /proc
 * while it holds an event.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "responder_watch.h"

#define PERMISSIONS (FAN_OPEN_PERM | FAN_OPEN_EXEC_PERM)
#define FILES (O_RDONLY | O_LARGEFILE | O_CLOEXEC | O_NONBLOCK | O_NOATIME)

static struct pins pins;
static struct keeper keeper = { .group = -1 };
static pid_t keeper_pid;
static int written = -1;	/* the group that tells of files closed after writing */
static uint64_t word;		/* of the generation that the marks rest on */
static struct mamplus_watch_path marked[MAMPLUS_WATCH_PATHS];	/* what is in force */
static unsigned int marked_count;
static int fds = WATCH_FDS;

/* --- marks --------------------------------------------------------------------------------------- */

static bool is_the_kernels(const char *path)
{
	static const unsigned long types[] = { PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC,
					       BPF_FS_MAGIC, DEBUGFS_MAGIC, TRACEFS_MAGIC, SECURITYFS_MAGIC,
					       DEVPTS_SUPER_MAGIC };
	struct statfs fs;

	if (statfs(path, &fs) < 0)
		return false;	/* the mark will say why */
	for (unsigned int i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if ((unsigned long)fs.f_type == types[i])
			return true;
	return false;
}

static int mark_as(const char *path, unsigned int action, enum mamplus_watch_how how)
{
	unsigned int flags = action | (how == MAMPLUS_WATCH_MOUNT ? FAN_MARK_MOUNT : FAN_MARK_FILESYSTEM);

	if (fanotify_mark(written, flags, FAN_CLOSE_WRITE, AT_FDCWD, path) < 0 ||
	    fanotify_mark(keeper.group, flags, PERMISSIONS, AT_FDCWD, path) < 0)
		return errno;
	return 0;
}

static void mark_path(struct mamplus_watch_path *path)
{
	path->how = MAMPLUS_WATCH_FILESYSTEM;
	path->error = is_the_kernels(path->path) ? EOPNOTSUPP : mark_as(path->path, FAN_MARK_ADD, path->how);
	if (!path->error || path->error == EOPNOTSUPP || path->error == ENOENT)
		return;
	path->how = MAMPLUS_WATCH_MOUNT;
	path->error = mark_as(path->path, FAN_MARK_ADD, path->how);
}

static void unmark(const struct mamplus_watch_path *path)
{
	if (!path->error)
		(void)mark_as(path->path, FAN_MARK_REMOVE, path->how);	/* an unmounted one has lost its marks already */
}

static bool is_wanted(const struct mamplus_watch_path *path)
{
	for (unsigned int i = 0; i < watch_pins.watch->paths; i++)
		if (strncmp(watch_pins.watch->path[i].path, path->path, MAMPLUS_WATCH_PATH_LEN) == 0)
			return true;
	return false;
}

static void mark_all(void)
{
	for (unsigned int i = 0; i < watch_pins.watch->paths; i++)
		mark_path(&watch_pins.watch->path[i]);
}

/* Twice, for an old path may lie on the same file system as a new one: what was marked and is wanted has no gap. */
static void mark_wanted(void)
{
	struct mamplus_watch *watch = watch_pins.watch;

	if (watch->paths > MAMPLUS_WATCH_PATHS)
		watch->paths = MAMPLUS_WATCH_PATHS;
	mark_all();
	for (unsigned int i = 0; i < marked_count; i++)
		if (!is_wanted(&marked[i]))
			unmark(&marked[i]);
	mark_all();
	marked_count = watch->paths;
	memcpy(marked, watch->path, sizeof(marked));
}

/* --- start and end ------------------------------------------------------------------------------- */

int watch_fds(void)
{
	return fds;
}

/*
 * An event that finds no descriptor is refused by the kernel, whoever it was. Without systemd a process may have 4,096 of
 * them, and who may not raise that (CAP_SYS_RESOURCE) leaves the keeper some of these.
 */
static void want_descriptors(void)
{
	struct rlimit limit, raised;

	getrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_max < WATCH_FDS + KEEPER_FDS) {
		raised = (struct rlimit){ .rlim_cur = limit.rlim_cur, .rlim_max = WATCH_FDS + KEEPER_FDS };
		if (setrlimit(RLIMIT_NOFILE, &raised) == 0)
			limit = raised;
	}
	if (limit.rlim_max < WATCH_FDS + KEEPER_FDS)
		fds = limit.rlim_max - KEEPER_FDS;
	limit.rlim_cur = fds;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}

static void renew_keeper(void)
{
	if (keeper_pid)
		keeper_end(keeper_pid);
	keeper_pid = 0;
	(void)keeper_start(&keeper, &keeper_pid);	/* the next turn tries again */
}

static void close_groups(void)
{
	if (keeper.group >= 0)
		close(keeper.group);
	if (written >= 0)
		close(written);
	keeper.group = written = -1;
}

/* Everything is there to answer before anything is marked. */
static int begin(void)
{
	int error;

	keeper.group = fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE, FILES);
	written = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK, FILES);
	if (keeper.group < 0 || written < 0) {
		error = errno;
		close_groups();
		return error;
	}
	judge_probe();
	marks_open(keeper.group);
	error = -serve_start(keeper.group, written);
	if (error) {
		close_groups();
		return error;
	}
	renew_keeper();
	return 0;
}

static void end(void)
{
	marked_count = 0;
	if (keeper.group < 0)
		return;
	(void)fanotify_mark(keeper.group, FAN_MARK_FLUSH | FAN_MARK_FILESYSTEM, 0, AT_FDCWD, NULL);
	(void)fanotify_mark(keeper.group, FAN_MARK_FLUSH | FAN_MARK_MOUNT, 0, AT_FDCWD, NULL);
	serve_end();
	close_groups();
	renew_keeper();	/* the old one holds the group */
}

static void say_none(int error)
{
	for (unsigned int i = 0; i < MAMPLUS_WATCH_PATHS; i++)
		watch_pins.watch->path[i].error = error;
}

static void apply(uint64_t wanted)
{
	int error = 0;

	if (!watch_pins.watch->paths)
		end();
	else if (keeper.group < 0)
		error = begin();
	if (error)
		say_none(error);
	else if (keeper.group >= 0)
		mark_wanted();
	watch_pins.watch->owner_tgid = getpid();
	__atomic_store_n(&watch_pins.watch->applied, wanted, __ATOMIC_RELEASE);
}

static uint64_t active_word(void)
{
	struct mamplus_active active = { 0 };
	uint32_t zero = 0;

	mamplus_map_lookup(watch_pins.active, &zero, &active);
	return active.word;
}

/* A keeper that ended, or that somebody stopped (nothing freezes it: it lies in the root), is replaced. */
static void look_at_keeper(void)
{
	int status;

	if (keeper_pid && waitpid(keeper_pid, &status, WNOHANG | WUNTRACED) == keeper_pid) {
		watch_count(MAMPLUS_W_KEEPER_LOST);
		if (!WIFSTOPPED(status))
			keeper_pid = 0;	/* else it is ended by renew_keeper() */
		renew_keeper();
	} else if (!keeper_pid) {
		renew_keeper();
	}
}

void watch_tick(void)
{
	static uint64_t applied;	/* by this process */
	uint64_t wanted = __atomic_load_n(&watch_pins.watch->wanted, __ATOMIC_ACQUIRE), now = active_word();

	look_at_keeper();
	if (wanted != applied) {
		apply(wanted);
		applied = wanted;
	}
	if (now != word && keeper.group >= 0)
		serve_drop_marks();	/* what was good may be listed now */
	word = now;
}

void watch_end(void)
{
	end();
	watch_pins.watch->owner_tgid = 0;
	if (keeper_pid)
		keeper_end(keeper_pid);
}

void files_are_in(int group)
{
	__atomic_store_n(&watch_pins.watch->files_group, group < 0 ? 0 : group, __ATOMIC_RELEASE);
}

void files_are_busy(bool are_busy)
{
	__atomic_store_n(&watch_pins.watch->files_busy_ns, are_busy ? boot_ns() : 0, __ATOMIC_RELEASE);
}

void files_were_read(unsigned int events)
{
	__atomic_fetch_add(&watch_pins.watch->files_reads, events, __ATOMIC_RELEASE);
}

static void *map_whole(int fd, size_t size)
{
	long page = sysconf(_SC_PAGESIZE);
	void *memory = mmap(NULL, (size + page - 1) / page * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

int watch_open(const char *bpffs, const struct pins *given, struct mamplus_heartbeat *heartbeat)
{
	int watch = pin_open(bpffs, "watch"), asked = pin_open(bpffs, "asked");

	pins = *given;
	keeper.bpffs = bpffs;
	keeper.pins = &pins;
	keeper.heartbeat = heartbeat;
	watch_pins.heartbeat = heartbeat;
	watch_pins.posture = pins.posture;
	watch_pins.known = pins.known;
	watch_pins.active = pin_open(bpffs, "active");
	watch_pins.access = pin_open(bpffs, "prog_mamplus_access");
	if (watch < 0 || asked < 0 || watch_pins.active < 0 || watch_pins.access < 0)
		return -ENOENT;
	watch_pins.watch = map_whole(watch, sizeof(*watch_pins.watch));
	watch_pins.asked = map_whole(asked, MAMPLUS_ASKED_MAX * sizeof(*watch_pins.asked));
	close(watch);
	close(asked);
	if (!watch_pins.watch || !watch_pins.asked)
		return -ENOMEM;
	memset(watch_pins.watch->wait, 0, sizeof(watch_pins.watch->wait));	/* a predecessor's numbers */
	watch_pins.watch->busy_ns = watch_pins.watch->files_busy_ns = 0;
	watch_pins.watch->files_group = 0;
	want_descriptors();
	return 0;
}
