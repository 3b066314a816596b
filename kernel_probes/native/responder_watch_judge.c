/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One access: which file, whose task, and what the kernel program says of both.
 *
 * What is known good is answered before anybody asks whose task it is. Of the others the cgroup is told by an
 * ioctl on a pidfd (Linux 6.13), whose number is looked up among those that were resolved before; elsewhere by
 * /proc/PID/cgroup.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "responder_watch.h"

#define OVERLAY_MAGIC 0x794c7630
#define DEVICES 16	/* st_dev to the kernel's number, of the file systems that are marked */
#define CGROUPS 256	/* resolved ones; a power of two */

/* struct pidfd_info of Linux 6.13, which is younger than the C library's headers. */
struct cgroup_info {
	uint64_t mask, cgroup_id;
	uint32_t pid, tgid, ppid, uid, others[7];
	int32_t exit_code;
};

#define GET_INFO _IOWR(0xFF, 11, struct cgroup_info)
#define INFO_CGROUP (1 << 2)

struct watch_pins watch_pins;

_Static_assert(sizeof(struct cgroup_info) == 64, "as the kernel's first version has it");

void watch_count(enum mamplus_watch_counter counter)
{
	__atomic_fetch_add(&watch_pins.watch->counter[counter], 1, __ATOMIC_RELAXED);
}

struct mamplus_posture watch_posture(void)
{
	struct mamplus_posture posture = { 0 };
	uint32_t zero = 0;

	mamplus_map_lookup(watch_pins.posture, &zero, &posture);
	return posture;
}

/* --- the file ------------------------------------------------------------------------------ */

static bool read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, text, size - 1);

	if (fd >= 0)
		close(fd);
	text[got > 0 ? got : 0] = '\0';
	return got > 0;
}

static bool is_mount(const char *line, int id, uint64_t *device)
{
	unsigned int major, minor;
	int number;

	if (sscanf(line, "%d %*d %u:%u", &number, &major, &minor) != 3 || number != id)
		return false;
	*device = (uint64_t)major << 20 | minor;
	return true;
}

/* The kernel's number of the file system that mount `id` is of; 0: another namespace's. Read line by line, in place. */
static uint64_t device_of_mount(int id)
{
	static char text[8192];
	int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	size_t have = 0;
	uint64_t device = 0;
	ssize_t got;

	while (fd >= 0 && !device && (got = read(fd, text + have, sizeof(text) - 1 - have)) > 0) {
		char *line = text, *end;

		have += got;
		text[have] = '\0';
		for (; !device && (end = strchr(line, '\n')); line = end + 1)
			(void)is_mount(line, id, &device);
		have -= line - text;
		memmove(text, line, have);
		if (have == sizeof(text) - 1)
			have = 0;	/* a line longer than any: its end is no beginning that fits */
	}
	if (fd >= 0)
		close(fd);
	return device;
}

static uint64_t resolve_device(int fd)
{
	char path[48], text[256], *where;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	if (!read_text(path, text, sizeof(text)) || !(where = strstr(text, "mnt_id:")))
		return 0;
	return device_of_mount(atoi(where + strlen("mnt_id:")));
}

/* On btrfs stat(2) shows another device than the kernel's inode has: asked once for each. */
static uint64_t device_of(int fd, dev_t shown)
{
	static struct { dev_t shown; uint64_t device; } devices[DEVICES];
	static unsigned int next;
	uint64_t plain = (uint64_t)major(shown) << 20 | minor(shown), device;
	struct statfs fs;

	for (unsigned int i = 0; i < DEVICES; i++)
		if (devices[i].device && devices[i].shown == shown)
			return devices[i].device;
	/* On overlayfs no number of stat(2) is the kernel's: its own device keeps them apart from all others. */
	device = fstatfs(fd, &fs) == 0 && fs.f_type == OVERLAY_MAGIC ? plain : resolve_device(fd);
	if (!device)
		return plain;	/* a mount that /proc does not show here: not remembered */
	devices[next].shown = shown;
	devices[next].device = device;
	next = (next + 1) % DEVICES;
	return device;
}

static bool take_identity(struct opening *opening, const struct stat *stat)
{
	if (!S_ISREG(stat->st_mode))
		return false;
	opening->file = (struct mamplus_file){ .dev = device_of(opening->fd, stat->st_dev), .ino = stat->st_ino,
					       .size = stat->st_size, .ctime_s = stat->st_ctim.tv_sec,
					       .ctime_ns = stat->st_ctim.tv_nsec, .mode = stat->st_mode };
	return true;
}

bool opening_identify(struct opening *opening)
{
	struct stat stat;

	return fstat(opening->fd, &stat) == 0 && take_identity(opening, &stat);
}

bool opening_identify_at(struct opening *opening, const char *path)
{
	struct stat file;

	return stat(path, &file) == 0 && take_identity(opening, &file);
}

/* --- the task ------------------------------------------------------------------------------ */

/* The kernel takes a number out of the heartbeat when its process ends: whoever gets it next is not meant. */
bool task_is_ours(uint32_t tgid)
{
	const struct mamplus_watch *watch = watch_pins.watch;

	return tgid == 1 || tgid == (uint32_t)getpid() || tgid == watch->owner_tgid ||
	       tgid == __atomic_load_n(&watch_pins.heartbeat->keeper_tgid, __ATOMIC_ACQUIRE) ||
	       tgid == __atomic_load_n(&watch_pins.heartbeat->agent_tgid, __ATOMIC_ACQUIRE);
}

static bool info_of(uint32_t tgid, struct cgroup_info *info)
{
	int pidfd = syscall(SYS_pidfd_open, tgid, 0);
	bool is_told;

	*info = (struct cgroup_info){ .mask = INFO_CGROUP };
	is_told = pidfd >= 0 && ioctl(pidfd, GET_INFO, info) == 0 && info->mask & INFO_CGROUP;
	if (pidfd >= 0)
		close(pidfd);
	return is_told;
}

void judge_probe(void)
{
	struct cgroup_info info;

	if (info_of(getpid(), &info))
		watch_pins.watch->features |= MAMPLUS_WATCH_PIDFD_INFO;
}

static bool path_is_in_scope(uint32_t tgid)
{
	const char *scope = watch_pins.watch->scope;
	size_t length = strnlen(scope, sizeof(watch_pins.watch->scope));
	char path[32], text[8192], *line;

	snprintf(path, sizeof(path), "/proc/%u/cgroup", tgid);
	if (!read_text(path, text, sizeof(text)))
		return false;
	line = strncmp(text, "0::", 3) == 0 ? text + 3 : strstr(text, "\n0::");
	if (!line)
		return false;
	line += *line == '\n' ? 4 : 0;
	return strncmp(line, scope, length) == 0 && (line[length] == '/' || line[length] == '\n');
}

/* A cgroup keeps its number and its place in the tree, so what was resolved once stays true. */
bool task_is_in_scope(uint32_t tgid)
{
	static struct { uint64_t id; bool is_in; } cgroups[CGROUPS];
	struct cgroup_info before, after;
	unsigned int at;
	bool is_in;

	if (watch_pins.watch->is_everything)
		return true;
	if (!(watch_pins.watch->features & MAMPLUS_WATCH_PIDFD_INFO) || !info_of(tgid, &before))
		return path_is_in_scope(tgid);
	at = before.cgroup_id % CGROUPS;
	if (cgroups[at].id == before.cgroup_id)
		return cgroups[at].is_in;
	is_in = path_is_in_scope(tgid);
	if (info_of(tgid, &after) && after.cgroup_id == before.cgroup_id) {	/* it did not move meanwhile */
		cgroups[at].id = before.cgroup_id;
		cgroups[at].is_in = is_in;
	}
	return is_in;
}

/* --- the record ---------------------------------------------------------------------------- */

static uint32_t number_after(const char *text, const char *name)
{
	const char *where = strstr(text, name);

	return where ? strtoul(where + strlen(name), NULL, 10) : 0;
}

static void describe_task(struct mamplus_head *head, uint32_t tgid)
{
	char path[32], text[2048];
	struct cgroup_info info;

	*head = (struct mamplus_head){ .boot_ns = boot_ns(), .size = sizeof(struct mamplus_access), .tgid = tgid,
				       .kind = MAMPLUS_KIND_FILE };
	if (info_of(tgid, &info))
		head->cgroup_id = info.cgroup_id;
	snprintf(path, sizeof(path), "/proc/%u/comm", tgid);
	if (read_text(path, text, sizeof(text))) {
		size_t length = strcspn(text, "\n");

		memcpy(head->comm, text, length < sizeof(head->comm) ? length : sizeof(head->comm) - 1);
	}
	snprintf(path, sizeof(path), "/proc/%u/status", tgid);
	if (read_text(path, text, sizeof(text))) {
		head->ppid = number_after(text, "\nPPid:\t");
		head->uid = number_after(text, "\nUid:\t");
	}
}

/* The end of a path that is too long says more than its beginning. */
static void describe_path(char *to, int fd)
{
	char link[32], path[4096];
	ssize_t length;

	memset(to, 0, MAMPLUS_PATH_LEN);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof(path));
	if (length > MAMPLUS_PATH_LEN - 1)
		memcpy(to, path + length - (MAMPLUS_PATH_LEN - 1), MAMPLUS_PATH_LEN - 1);
	else if (length > 0)
		memcpy(to, path, length);
}

static uint32_t run(uint32_t slot, uint32_t flags)
{
	struct mamplus_access_args args = { .slot = slot, .flags = flags };
	uint32_t reply = 0;

	/* Cannot be asked: let it go on, for a device that hangs is worse; but never as good. */
	if (mamplus_run(watch_pins.access, &args, sizeof(args), &reply) < 0) {
		watch_count(MAMPLUS_W_UNASKED);
		return MAMPLUS_ACCESS_KNOWN | MAMPLUS_ACCESS_LISTED;
	}
	return reply;
}

uint32_t judge(uint32_t slot, const struct opening *opening, uint32_t flags)
{
	watch_pins.asked[slot].file = opening->file;
	return run(slot, flags);
}

uint32_t judge_and_report(uint32_t slot, const struct opening *opening, uint32_t flags)
{
	struct mamplus_access *access = &watch_pins.asked[slot];

	describe_task(&access->head, opening->tgid);
	describe_path(access->path, opening->fd);
	memset(access->sha256, 0, sizeof(access->sha256));
	access->file = opening->file;
	access->op = MAMPLUS_OP_OPEN;
	access->pad = 0;
	access->waited_ns = access->head.boot_ns - opening->since_ns;
	if (flags & MAMPLUS_ASK_DECLARED)
		watch_count(MAMPLUS_W_DECLARED);
	return run(slot, flags | MAMPLUS_ASK_REPORT);
}

/* GOOD: by content; ALLOW: whatever the content is; UNDECIDED: it is not known, and the task is in the scope. */
enum decision opening_decide(uint32_t slot, struct opening *opening)
{
	uint32_t reply;

	if (task_is_ours(opening->tgid) || !opening_identify(opening) || !opening->file.size)
		return DECIDED_ALLOW;
	reply = judge(slot, opening, 0);
	if (reply & MAMPLUS_ACCESS_KNOWN && !(reply & MAMPLUS_ACCESS_LISTED))
		return DECIDED_GOOD;
	if (!task_is_in_scope(opening->tgid))
		return DECIDED_ALLOW;
	if (!(reply & MAMPLUS_ACCESS_KNOWN))
		return UNDECIDED;
	return judge_and_report(slot, opening, 0) & MAMPLUS_ACCESS_REFUSE ? DECIDED_REFUSE : DECIDED_ALLOW;
}

/* --- declared answers ---------------------------------------------------------------------- */

uint32_t declared_flags(bool is_refusing)
{
	return MAMPLUS_ASK_DECLARED | (is_refusing ? MAMPLUS_ASK_DECLARED_REFUSE : 0);
}

bool declared_refuses(const struct mamplus_posture *posture, bool is_exec, bool is_nobody_there)
{
	uint32_t answer = !is_exec ? watch_pins.watch->on_open :
			  is_nobody_there ? posture->on_responder_down : posture->on_deadline;

	return answer == MAMPLUS_ANSWER_REFUSE && posture->mode != MAMPLUS_MODE_MONITOR;
}
