/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The keeper: a second process that answers in the responder's place when that is stopped, frozen, starved or dead.
 *
 * The kernel lets an open wait for its answer without end, and drops the group only when its last descriptor is
 * closed: a stopped responder would stop everybody who opens a file on a marked file system. So this process holds
 * the same group, and looks twice a second. It answers
 *
 *   - what was in the queue half a second ago and still is, by the content that is known, else as declared; and from
 *     then on whatever comes, until the responder reads again;
 *   - what waits for a hash longer than its deadline, as declared;
 *   - what the responder has read but not noted, by the file's identity behind /proc/PID/fd;
 *   - starts held by a signal, and accesses that wait to be tried again, longer than their deadline.
 *
 * It lies in the root of the cgroup hierarchies, so whoever freezes or throttles the agent's cgroup does not get it.
 * Its events have descriptor numbers above the responder's: an answer is given by number, and must not meet another's.
 * When the responder has died it goes on, with declared answers for what is not known, until another one has come or
 * the pins are gone. Without a marked file system it only minds held starts, and looks once a second.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "responder_watch.h"

#define PERIOD_MS 500
#define PERIOD_NO_GROUP_MS 1000
#define GRACE_NS 250000000ULL	/* for the responder, whose answer is the better one */
#define NS_PER_MS 1000000ULL
#define EVENTS_A_TURN 64	/* then deadlines are looked at */
#define YIELD_MS 10	/* to a responder that was let go on a moment ago */

static struct keeper kept;
static pid_t responder;
static int responder_fd;
static uint64_t queued_before, reads_before;	/* at the last look */
static bool is_acting;
static uint64_t acting_since_ns;

/* --- the fanotify tier --------------------------------------------------------------------------- */

static void answer_kept(int fd, bool is_refused)
{
	watch_count(MAMPLUS_W_KEPT);
	answer_event(kept.group, fd, is_refused);
}

static void answer_kept_in(int group, int fd)
{
	watch_count(MAMPLUS_W_KEPT);
	answer_event(group, fd, false);
}

/* Whatever is known decides; else what is declared for the case that nobody is there. */
static bool refuses(struct opening *opening)
{
	enum decision decision = opening_decide(MAMPLUS_ASKED_KEEPER, opening);
	struct mamplus_posture posture;
	uint32_t flags;

	if (decision != UNDECIDED)
		return decision == DECIDED_REFUSE;
	posture = watch_posture();
	flags = declared_flags(declared_refuses(&posture, opening->is_exec, true));
	return judge_and_report(MAMPLUS_ASKED_KEEPER, opening, flags) & MAMPLUS_ACCESS_REFUSE;
}

static bool handle_one(void)
{
	struct fanotify_event_metadata event;
	struct opening opening;

	if (read(kept.group, &event, sizeof(event)) < (ssize_t)sizeof(event))
		return false;
	watch_count(MAMPLUS_W_EVENTS);
	if (event.fd < 0)
		return true;
	opening = (struct opening){ .fd = event.fd, .tgid = event.pid, .is_exec = event.mask & FAN_OPEN_EXEC_PERM,
				    .since_ns = boot_ns() };
	answer_kept(event.fd, refuses(&opening));
	close(event.fd);
	return true;
}

static void answer_overdue(uint64_t now_ns)
{
	for (unsigned int i = 0; i < MAMPLUS_WATCH_WAITS; i++) {
		struct mamplus_watch_wait *wait = &watch_pins.watch->wait[i];
		int fd = __atomic_load_n(&wait->fd, __ATOMIC_ACQUIRE);

		if (!fd || now_ns < wait->deadline_ns + GRACE_NS)
			continue;
		if (__atomic_compare_exchange_n(&wait->fd, &fd, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
			watch_count(MAMPLUS_W_DECLARED);
			answer_kept(fd, wait->answer == MAMPLUS_WATCH_DENY);
		}
	}
}

/* Numbers that wait for a hash have a deadline of their own. */
static bool is_noted(int fd)
{
	for (unsigned int i = 0; i < MAMPLUS_WATCH_WAITS; i++)
		if (__atomic_load_n(&watch_pins.watch->wait[i].fd, __ATOMIC_ACQUIRE) == fd)
			return true;
	return false;
}

/*
 * The responder stands still with an event in its hand, under some number below watch_fds(): of most of them the
 * kernel says ENOENT. Whose open it is nobody can tell any more, so only what is known and listed is refused.
 */
static void answer_unnoted(void)
{
	uint64_t busy_ns = __atomic_load_n(&watch_pins.watch->busy_ns, __ATOMIC_ACQUIRE);

	for (int fd = 3; fd < watch_fds(); fd++) {
		struct opening opening = { .fd = -1 };
		char path[40];
		bool is_refused = false;

		if (__atomic_load_n(&watch_pins.watch->busy_ns, __ATOMIC_ACQUIRE) != busy_ns)
			break;	/* it goes on: what it has in its hand now is another event */
		if (is_noted(fd))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", responder, fd);
		if (opening_identify_at(&opening, path))
			is_refused = judge(MAMPLUS_ASKED_KEEPER, &opening, 0) & MAMPLUS_ACCESS_REFUSE;
		answer_event(kept.group, fd, is_refused);
	}
}

/* The queue is first in, first out: what was in it at the last look has waited for a period when so many were not read. */
static bool queue_stands(void)
{
	uint64_t reads = __atomic_load_n(&watch_pins.watch->reads, __ATOMIC_ACQUIRE);
	bool stands = queued_before && reads - reads_before < queued_before;
	int bytes = 0;

	(void)ioctl(kept.group, FIONREAD, &bytes);
	queued_before = bytes / FAN_EVENT_METADATA_LEN;
	reads_before = reads;
	return stands;
}

static void mind_group(uint64_t now_ns)
{
	uint64_t busy_ns = __atomic_load_n(&watch_pins.watch->busy_ns, __ATOMIC_ACQUIRE);

	answer_overdue(now_ns);
	if (busy_ns && now_ns > busy_ns && now_ns - busy_ns > PERIOD_MS * NS_PER_MS)
		answer_unnoted();
	if (queue_stands() && !is_acting) {
		is_acting = true;
		acting_since_ns = now_ns;
	}
}

/*
 * It has read an event, or its heart has beaten since we began to act. Both: who finds nothing to read when he is let go
 * on reads nothing, and we would go on to answer beside him, with declared answers where he knows better.
 */
static bool is_back(void)
{
	const struct mamplus_watch *watch = watch_pins.watch;

	if (__atomic_load_n(&watch->reads, __ATOMIC_ACQUIRE) != reads_before)
		return true;
	return !__atomic_load_n(&watch->busy_ns, __ATOMIC_ACQUIRE) &&
	       __atomic_load_n(&kept.heartbeat->responder_ns, __ATOMIC_ACQUIRE) > acting_since_ns;
}

/* From the look at which the queue stood until the responder is back: what comes is answered when it comes. */
static void act(void)
{
	struct pollfd queue = { .fd = kept.group, .events = POLLIN };

	if (poll(&queue, 1, 0) > 0)
		(void)poll(NULL, 0, YIELD_MS);
	for (int i = 0; i < EVENTS_A_TURN && !is_back() && handle_one(); i++)
		;
	if (is_back())
		is_acting = false;
}

/* --- guarded paths ------------------------------------------------------------------------------- */

/* Whoever waits goes on: what is changed meanwhile the vault puts back. Numbers of the responder first, then the queue. */
static void let_go(int group, bool has_unanswered)
{
	struct fanotify_event_metadata event;

	for (int fd = 3; has_unanswered && fd < watch_fds(); fd++)
		answer_event(group, fd, false);
	while (read(group, &event, sizeof(event)) >= (ssize_t)sizeof(event)) {
		if (event.fd < 0)
			continue;
		answer_kept_in(group, event.fd);
		close(event.fd);
	}
}

/* The group is borrowed for a look alone: it ends with the responder. */
static void mind_files(uint64_t now_ns)
{
	static uint64_t files_queued, files_reads;
	const struct mamplus_watch *watch = watch_pins.watch;
	int number = __atomic_load_n(&watch->files_group, __ATOMIC_ACQUIRE), group, bytes = 0;
	uint64_t busy_ns = __atomic_load_n(&watch->files_busy_ns, __ATOMIC_ACQUIRE);
	uint64_t reads = __atomic_load_n(&watch->files_reads, __ATOMIC_ACQUIRE);
	bool is_stuck = busy_ns && now_ns > busy_ns && now_ns - busy_ns > PERIOD_MS * NS_PER_MS;

	group = number ? (int)syscall(SYS_pidfd_getfd, responder_fd, number, 0) : -1;
	if (group < 0)
		return;
	if (is_stuck || (files_queued && reads - files_reads < files_queued))
		let_go(group, is_stuck);
	(void)ioctl(group, FIONREAD, &bytes);
	files_queued = bytes / FAN_EVENT_METADATA_LEN;
	files_reads = reads;
	close(group);
}

/* --- starts held by a signal --------------------------------------------------------------------- */

static void answer_held(const struct mamplus_hold *hold)
{
	struct mamplus_posture posture = watch_posture();
	int pidfd;

	if (boot_ns() < hold->boot_ns + posture.deadline_ms * NS_PER_MS + GRACE_NS)
		return;
	pidfd = hold_claim(kept.pins, hold);
	if (pidfd < 0)
		return;
	watch_count(MAMPLUS_W_KEPT_STARTS);
	hold_answer(kept.pins, hold, pidfd, false);
}

/* --- life ---------------------------------------------------------------------------------------- */

static void answer_wait(const struct mamplus_want *want)
{
	struct mamplus_posture posture = watch_posture();
	int pidfd;

	if (boot_ns() < want->hold.boot_ns + posture.deadline_ms * NS_PER_MS + GRACE_NS)
		return;
	pidfd = access_claim(kept.pins, want);
	if (pidfd < 0)
		return;
	watch_count(MAMPLUS_W_KEPT_STARTS);
	access_answer(kept.pins, want, pidfd, false);
}

static void look(void)
{
	holds_each(kept.pins, answer_held);
	accesses_each(kept.pins, answer_wait);
	if (kept.group >= 0)
		mind_group(boot_ns());
	mind_files(boot_ns());
}

/* Another responder is there, and has marked what this group marks: until then these marks are all there is. */
static bool has_successor(void)
{
	uint32_t tgid = kept.heartbeat->responder_tgid, owner = watch_pins.watch->owner_tgid;

	if (!tgid || tgid == (uint32_t)responder)
		return false;
	return kept.group < 0 || (owner && owner != (uint32_t)responder);
}

/* Nobody hashes any more, and nobody drops marks when the list changes. */
static void take_over(void)
{
	if (kept.group < 0)
		return;
	(void)fanotify_mark(kept.group, FAN_MARK_FLUSH, 0, AT_FDCWD, NULL);
	for (unsigned int i = 0; i < MAMPLUS_WATCH_WAITS; i++)
		watch_pins.watch->wait[i].deadline_ns = 0;
	answer_overdue(boot_ns());
	answer_unnoted();
}

static void keep_alone(void)
{
	struct pollfd polled = { .fd = kept.group, .events = POLLIN };

	if (watch_pins.watch->owner_tgid == (uint32_t)responder)
		watch_pins.watch->owner_tgid = 0;	/* its number may be anybody's from here on */
	take_over();
	while (!has_successor() && !pins_are_gone(kept.bpffs)) {
		holds_each(kept.pins, answer_held);
		accesses_each(kept.pins, answer_wait);
		for (int i = 0; kept.group >= 0 && i < EVENTS_A_TURN && handle_one(); i++)
			;
		(void)poll(&polled, 1, PERIOD_NO_GROUP_MS);
	}
}

static void keep(void)
{
	struct pollfd polled[] = { { .fd = responder_fd, .events = POLLIN }, { .fd = kept.group, .events = POLLIN } };
	int period_ms = kept.group < 0 ? PERIOD_NO_GROUP_MS : PERIOD_MS;
	uint64_t next_ns = 0;

	while (!polled[0].revents) {
		(void)poll(polled, is_acting ? 2 : 1, period_ms);
		if (is_acting)
			act();
		if (boot_ns() < next_ns)
			continue;
		look();
		next_ns = boot_ns() + (period_ms - 1) * NS_PER_MS;
	}
	keep_alone();
}

/* --- start --------------------------------------------------------------------------------------- */

static bool can_hold_up(const char *type, const char *options)
{
	return strcmp(type, "cgroup2") == 0 ||
	       (strcmp(type, "cgroup") == 0 && (strstr(options, "freezer") || strstr(options, ",cpu,") || strstr(options, ",cpu\n")));
}

/* Into the root of every hierarchy that can stop or throttle a process: there is no cgroup.freeze and no cpu.max. */
static void leave_cgroups(void)
{
	char line[1024], root[512], mount[512], type[32], procs[600];
	FILE *mounts = fopen("/proc/self/mountinfo", "re");

	while (mounts && fgets(line, sizeof(line), mounts)) {
		const char *rest = strstr(line, " - ");
		int fd;

		if (!rest || sscanf(line, "%*d %*d %*s %511s %511s", root, mount) != 2 || sscanf(rest, " - %31s", type) != 1)
			continue;
		if (strcmp(root, "/") != 0 || !can_hold_up(type, rest))
			continue;
		snprintf(procs, sizeof(procs), "%s/cgroup.procs", mount);
		fd = open(procs, O_WRONLY | O_CLOEXEC);
		if (fd >= 0) {
			(void)!write(fd, "0", 1);
			close(fd);
		}
	}
	if (mounts)
		fclose(mounts);
}

static bool is_needed(int fd)
{
	return fd == kept.group || fd == responder_fd || fd == kept.pins->held || fd == kept.pins->waits ||
	       fd == kept.pins->answer || fd == watch_pins.access || fd == watch_pins.posture;
}

/* Nothing of the responder's stays open here (its lock above all), and no event gets a number below watch_fds(). */
static void fill_descriptors(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = watch_fds() + KEEPER_FDS;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
	for (int fd = 0; fd < watch_fds(); fd++)
		if (fd != null && !is_needed(fd))
			(void)dup3(null, fd, O_CLOEXEC);
	(void)syscall(SYS_close_range, watch_fds(), ~0U, 0);
}

static void become_keeper(void)
{
	kept.heartbeat->keeper_tgid = getpid();	/* before it opens anything, which nobody answers */
	prctl(PR_SET_NAME, "mamplus-keeper");
	setsid();
	responder_fd = syscall(SYS_pidfd_open, responder, 0);
	if (responder_fd < 0)
		_exit(1);
	leave_cgroups();
	fill_descriptors();
	keep();
	_exit(0);
}

int keeper_start(const struct keeper *keeper, pid_t *pid)
{
	pid_t child;

	kept = *keeper;
	responder = getpid();
	child = fork();
	if (child < 0)
		return -errno;
	if (child == 0)
		become_keeper();
	*pid = child;
	kept.heartbeat->keeper_tgid = child;
	return 0;
}

void keeper_end(pid_t pid)
{
	kill(pid, SIGKILL);	/* our own child that nobody has waited for: the number is its own */
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}
