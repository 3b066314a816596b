/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Guarded paths and data folders where the kernel has no LSM hooks: fanotify permission events.
 *
 * The agent writes the rules into a file beside the lock; a thread marks what they name and answers
 * each open of it. fanotify does not say how a file is to be opened, so the system call that waits
 * says it (/proc/TID/syscall); one that is not known to read counts as a write. What is not an
 * open (unlink, rename, truncate, chmod) does not come here: the vault puts that back.
 *
 * Holds:   an event is answered from memory and /proc, with no file system asked in between, so that
 *          nobody can make it wait for what waits for it. A responder that ends lets everybody go on.
 * Missing: no mark possible, or the rules cannot be read: the rules before stay in force.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "responder.h"
#include "responder_files.h"

#define LINEAGE 8
#define SLEEPS_WITHIN_MS 200	/* less than the keeper lets anybody wait */
#define KERNEL_DEV(about) ((uint64_t)(about)->stx_dev_major << 20 | (about)->stx_dev_minor)

static const struct pins *pins;
static const struct mamplus_heartbeat *heartbeat;
static char rules_path[512];
static struct sockaddr_un told = { .sun_family = AF_UNIX };	/* where the agent hears what was refused */
static int news_fd = -1;	/* inotify: the rules' file was replaced */
static struct force now = { .fd = -1 };

/* To the agent, when it is there; never waited for. */
static void send_told(const struct mamplus_access *record)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return;
	(void)sendto(fd, record, sizeof(*record), MSG_DONTWAIT, (void *)&told, sizeof(told));
	close(fd);
}

/* --- a change of the rules --------------------------------------------------------------------- */

/* Made by a thread of its own, since it walks through directories whose opens wait for the other one. */
static struct force next = { .fd = -1 };
static bool is_usable;	/* `next` is; written before `made_fd` */
static int made_fd = -1;	/* an eventfd */

static void *make(void *unused)
{
	is_usable = force_make(&next, rules_path);
	(void)eventfd_write(made_fd, 1);
	return unused;
}

static bool start_making(void)
{
	pthread_attr_t attributes;
	pthread_t thread;
	bool started;

	if (pthread_attr_init(&attributes))
		return false;
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	started = pthread_create(&thread, &attributes, make, NULL) == 0;
	pthread_attr_destroy(&attributes);
	return started;
}

/* The new marks stand before the old ones go. */
static void take_made(void)
{
	/* Kind 0: no access, but how many rules and marks are in force by now, and (as slot) how many marks are missing. */
	struct mamplus_access record = { .head.size = sizeof(record) };

	if (is_usable) {
		force_drop(&now);
		now = next;
		next = (struct force){ .fd = -1 };
	} else {
		force_drop(&next);
	}
	record.op = is_usable ? now.rule_count : 0;
	record.pad = now.mark_count;
	record.head.slot = now.unmarked_count;
	send_told(&record);
}

/* --- what is to be opened ---------------------------------------------------------------------- */

static uint64_t rules_of(int fd, uint64_t *folders, char *path, size_t room)
{
	char link[64];
	struct statx about;
	ssize_t length;
	uint64_t found = 0;

	*folders = 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, room - 1);
	path[length > 0 ? length : 0] = '\0';
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &about) == 0) {
		for (unsigned int i = 0; i < now.linked_count; i++)
			if (now.linked[i].ino == about.stx_ino && now.linked[i].dev == KERNEL_DEV(&about))
				found |= now.linked[i].rules;
	}
	for (unsigned int i = 0; i < now.rule_count; i++) {
		const struct file_rule *rule = &now.rules[i];
		bool is_below = strncmp(path, rule->path, rule->length) == 0 &&
				(path[rule->length] == '/' || path[rule->length] == '\0' || path[rule->length] == ' ');

		if (is_below)
			found |= rule->bit;
		if (rule->is_folder)
			*folders |= rule->bit;
	}
	/* Only what is marked comes here. By another way (a mount of its own, a chroot) the path says nothing. */
	return found ? found : now.all;
}

/* Whether an open(2) with these flags changes nothing. */
static bool reads(unsigned long flags)
{
	return (flags & O_ACCMODE) == O_RDONLY && !(flags & O_TRUNC);
}

static bool how_reads(pid_t task, unsigned long address)
{
	char path[64];
	uint64_t flags = O_RDWR;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", task);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (pread(fd, &flags, sizeof(flags), address) != sizeof(flags))
		flags = O_RDWR;
	close(fd);
	return reads(flags);
}

/*
 * Numbers of 32-bit calls are no opens of 64-bit ones, so both tables are one. Which argument has
 * the flags: 1 open, 2 openat and open_by_handle_at; 3: none, it reads (execve); 4: a struct in memory.
 */
static int flags_argument(long call)
{
	static const struct { short call, argument; } known[] = {
#if defined(__x86_64__)
		{ 2, 1 }, { 257, 2 }, { 304, 2 }, { 59, 3 }, { 322, 3 }, { 437, 4 },
		{ 5, 1 }, { 295, 2 }, { 342, 2 }, { 11, 3 }, { 358, 3 },
#elif defined(__aarch64__)
		{ 56, 2 }, { 265, 2 }, { 221, 3 }, { 281, 3 }, { 437, 4 },
		{ 5, 1 }, { 322, 2 }, { 371, 2 }, { 11, 3 }, { 387, 3 },
#endif
		{ -1, 0 },
	};

	for (unsigned int i = 0; known[i].call >= 0; i++)
		if (known[i].call == call)
			return known[i].argument;
	return 0;
}

/*
 * The text of /proc/TASK/syscall. Its event is there before the task sleeps: on a busy processor it may be preempted in
 * between, and is "running" for so long.
 */
static void syscall_of(pid_t task, char *text, size_t room)
{
	char path[64];
	ssize_t size;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/syscall", task);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	for (int left = SLEEPS_WITHIN_MS; fd >= 0 && left >= 0; left--) {
		size = pread(fd, text, room - 1, 0);
		text[size > 0 ? size : 0] = '\0';
		if (strncmp(text, "running", strlen("running")) != 0)
			break;
		usleep(1000);
	}
	if (fd >= 0)
		close(fd);
}

/* What the task waits in. What cannot be told (io_uring's workers, calls that open in passing) counts as a write. */
static bool only_reads(pid_t task)
{
	char text[256] = "";
	unsigned long arguments[4] = { 0 };
	long call;
	int argument;

	syscall_of(task, text, sizeof(text));
	if (sscanf(text, "%ld 0x%lx 0x%lx 0x%lx", &call, &arguments[0], &arguments[1], &arguments[2]) != 4)
		return false;
	argument = flags_argument(call);
	if (argument == 3)
		return true;
	if (argument == 4)
		return how_reads(task, arguments[2]);
	return argument && reads(arguments[argument]);
}

/* --- who opens --------------------------------------------------------------------------------- */

static const struct file_writer *writer_of(pid_t task)
{
	char path[64];
	struct statx about;
	struct mamplus_file_key key;
	struct mamplus_known known;

	snprintf(path, sizeof(path), "/proc/%d/exe", task);
	if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_INO | STATX_SIZE | STATX_CTIME, &about))
		return NULL;
	key = (struct mamplus_file_key){ .dev = KERNEL_DEV(&about), .ino = about.stx_ino };
	if (mamplus_map_lookup(pins->known, &key, &known) || known.flags & MAMPLUS_KNOWN_ONCE ||
	    (known.flags ^ born_as(key.dev)) >> MAMPLUS_KNOWN_BORN_SHIFT || known.size != about.stx_size ||
	    known.ctime_s != about.stx_ctime.tv_sec || known.ctime_ns != about.stx_ctime.tv_nsec)
		return NULL;
	for (unsigned int i = 0; i < now.writer_count; i++)
		if (memcmp(now.writers[i].sha256, known.sha256, MAMPLUS_SHA256_LEN) == 0)
			return &now.writers[i];
	return NULL;
}

/* A number of /proc/TASK/status. */
static long status_of(pid_t task, const char *field)
{
	char path[64], text[2048] = "";
	const char *found;
	long value = 0;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/status", task);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	if (read(fd, text, sizeof(text) - 1) > 0) {
		found = strstr(text, field);
		if (found)
			value = strtol(found + strlen(field), NULL, 10);
	}
	close(fd);
	return value;
}

/* The kernel takes the number out of the heartbeat when the agent ends, so whoever gets it next is not meant. */
static bool is_agent(pid_t task)
{
	return task && (uint32_t)task == __atomic_load_n(&heartbeat->agent_tgid, __ATOMIC_ACQUIRE);
}

static uint64_t not_permitted(pid_t task, uint64_t rules)
{
	for (int i = 0; i < LINEAGE && rules && task > 1; i++) {
		const struct file_writer *writer = writer_of(task);

		if (writer)
			rules &= ~(i ? writer->children : writer->rules | writer->children);
		task = status_of(task, "\nPPid:");
		if (is_agent(task))
			return 0;
	}
	return rules;
}

/* --- the answer -------------------------------------------------------------------------------- */

static bool is_monitor(void)
{
	struct mamplus_posture posture = { 0 };
	uint32_t zero = 0;

	mamplus_map_lookup(pins->posture, &zero, &posture);
	return posture.mode == MAMPLUS_MODE_MONITOR;
}

static void fill_comm(pid_t task, char *comm, size_t room)
{
	char path[64];
	ssize_t size;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/comm", task);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	size = read(fd, comm, room - 1);
	comm[size > 0 ? size - 1 : 0] = '\0';
	close(fd);
}

static void tell(pid_t tgid, pid_t task, uint32_t op, bool monitor, const char *path)
{
	struct mamplus_access record = { .op = op };
	size_t length = strlen(path), start = length >= sizeof(record.path) ? length - sizeof(record.path) + 1 : 0;

	record.head = (struct mamplus_head){ .boot_ns = boot_ns(), .size = sizeof(record), .tgid = tgid,
					     .ppid = status_of(task, "\nPPid:"), .uid = status_of(task, "\nUid:"),
					     .slot = MAMPLUS_NO_SLOT, .kind = MAMPLUS_KIND_FILE,
					     .flags = monitor ? MAMPLUS_F_MONITOR : MAMPLUS_F_REFUSED };
	fill_comm(task, record.head.comm, sizeof(record.head.comm));
	memcpy(record.path, path + start, length - start);
	send_told(&record);
}

static uint32_t judge(const struct fanotify_event_metadata *event)
{
	char path[4096];
	uint64_t folders, rules = rules_of(event->fd, &folders, path, sizeof(path));
	pid_t tgid = status_of(event->pid, "\nTgid:");
	bool only_folders = event->mask & FAN_ACCESS_PERM || only_reads(event->pid);
	bool monitor;

	if (only_folders)
		rules &= folders;
	if (!rules || tgid == 1 || tgid == getpid() || is_agent(tgid) || !not_permitted(tgid, rules))
		return FAN_ALLOW;
	monitor = is_monitor();
	tell(tgid, event->pid, only_folders ? MAMPLUS_OP_READ : MAMPLUS_OP_WRITE, monitor, path);
	return monitor ? FAN_ALLOW : FAN_DENY;
}

static void answer_all(void)
{
	static char buffer[16384] __attribute__((aligned(8)));
	const struct fanotify_event_metadata *event = (void *)buffer;
	ssize_t left;

	files_are_busy(true);
	left = read(now.fd, buffer, sizeof(buffer));
	files_were_read(left > 0 ? left / sizeof(*event) : 0);
	for (; left > 0 && FAN_EVENT_OK(event, left); event = FAN_EVENT_NEXT(event, left)) {
		if (event->fd >= 0 && event->mask & (FAN_OPEN_PERM | FAN_ACCESS_PERM)) {
			struct fanotify_response response = { .fd = event->fd, .response = judge(event) };

			(void)!write(now.fd, &response, sizeof(response));
		}
		if (event->fd >= 0)
			close(event->fd);
	}
	files_are_busy(false);
}

static void *serve(void *unused)
{
	bool is_making = start_making(), is_asked = false;
	char news[4096];
	eventfd_t made;

	for (;;) {
		/* A descriptor of -1 is passed over. */
		struct pollfd ready[] = { { .fd = now.fd, .events = POLLIN }, { .fd = news_fd, .events = POLLIN },
					  { .fd = made_fd, .events = POLLIN } };

		files_are_in(now.fd);	/* for the keeper, should this process stand still */
		if (poll(ready, 3, -1) <= 0)
			continue;
		if (ready[0].revents)
			answer_all();
		if (ready[1].revents && read(news_fd, news, sizeof(news)) > 0)
			is_asked = true;
		if (ready[2].revents && eventfd_read(made_fd, &made) == 0) {
			take_made();
			is_making = false;
		}
		if (is_asked && !is_making) {
			is_asked = false;
			is_making = start_making();
		}
	}
	return unused;
}

/* What a directory's descriptor names is short enough for a socket, wherever the directory lies. */
static int name_files(const char *lock_path)
{
	const char *end = strrchr(lock_path, '.'), *name = strrchr(lock_path, '/');
	int length = end ? end - lock_path : (int)strlen(lock_path), directory;

	if (!name || length >= (int)sizeof(rules_path) - 16)
		return -ENAMETOOLONG;
	snprintf(rules_path, sizeof(rules_path), "%.*s", (int)(name - lock_path), lock_path);
	directory = open(rules_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	news_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	made_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (directory < 0 || made_fd < 0 || news_fd < 0 || inotify_add_watch(news_fd, rules_path, IN_MOVED_TO) < 0)
		return -errno;
	snprintf(rules_path, sizeof(rules_path), "%.*s.files", length, lock_path);
	length -= name + 1 - lock_path;
	return snprintf(told.sun_path, sizeof(told.sun_path), "/proc/self/fd/%d/%.*s.told", directory, length, name + 1) <
			       (int)sizeof(told.sun_path) ? 0 : -ENAMETOOLONG;
}

int files_start(const struct pins *opened, const struct mamplus_heartbeat *beat, const char *lock_path)
{
	pthread_t thread;
	int error = name_files(lock_path);

	pins = opened;
	heartbeat = beat;
	if (error)
		return error;
	return -pthread_create(&thread, NULL, serve, NULL);
}
