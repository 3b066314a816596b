/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Answers for programs whose content the kernel does not know yet: they wait, stopped, until
 * this process has hashed them and run `mamplus_answer`, which decides from the same tables.
 *
 *     mamplus-responder --bpffs DIR --lock FILE
 *
 * Detaches itself; the caller gets "<pid>" on stdout and exit code 0 once it answers, 3 and the
 * other's pid when one runs already, 1 otherwise. It lives through the agent's end, and ends
 * itself when its pins are gone or at SIGTERM; before it ends, every start that waits is answered.
 *
 * The main thread never reads a file and never writes a log: while it lives, deadlines hold.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "responder.h"
#include "responder_files.h"
#include "responder_watch.h"

#define BEAT_NS 1000000000ULL
#define NS_PER_MS 1000000ULL
#define EXIT_ANOTHER 3

static struct pins pins;
static struct mamplus_heartbeat *heartbeat;
static uint64_t next_ns;	/* the nearest deadline or heartbeat */
static const char *bpffs, *lock_path;

uint64_t boot_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static void die(const char *what, int error)
{
	fprintf(stderr, "mamplus-responder: %s: %s\n", what, strerror(error));
	exit(1);
}

/* --- answers ------------------------------------------------------------------------------- */

static void answer_job(struct job *job, enum hash_state hashed)
{
	struct mamplus_want want = { .hold = job->hold, .pid = job->pid };

	if (job->hold.op)
		access_answer(&pins, &want, job->pidfd, hashed != HASH_NONE);
	else
		hold_answer(&pins, &job->hold, job->pidfd, hashed != HASH_NONE);
	job->pidfd = -1;
	job_answered(job);
}

static void settle(struct job *job, enum job_state state)
{
	if (job->pidfd >= 0) {
		if (state == JOB_DONE)
			answer_job(job, job->hashed);
		else if (job->deadline_ns <= boot_ns())
			answer_job(job, HASH_NONE);
		else if (job->deadline_ns < next_ns)
			next_ns = job->deadline_ns;
	}
	if (state == JOB_DONE)
		job_free(job);
}

/* --- starts that wait ---------------------------------------------------------------------- */

static uint64_t deadline(uint64_t from_ns)
{
	struct mamplus_posture posture = { 0 };
	uint32_t zero = 0;

	mamplus_map_lookup(pins.posture, &zero, &posture);
	return from_ns + posture.deadline_ms * NS_PER_MS;
}

static void take(const struct mamplus_hold *hold)
{
	int pidfd = hold_claim(&pins, hold);
	struct job *job;

	if (pidfd < 0)
		return;
	job = job_add(&(struct job){ .hold = *hold, .pidfd = pidfd, .deadline_ns = deadline(boot_ns()) });
	if (!job)
		hold_answer(&pins, hold, pidfd, false);	/* no room: the declared answer now, and not a start that hangs */
	else if (job_is_known(job))
		close(pidfd);
}

/* An access that waits (lsm_exec.bpf.c), or nobody: then its file is hashed for the next one. */
static void take_want(const struct mamplus_want *want, size_t size)
{
	struct job wanted = { .hold = want->hold, .pid = want->pid, .from = want->from, .to = want->to, .pidfd = -1,
			      .deadline_ns = deadline(want->hold.boot_ns), .is_answered = !want->pid };
	struct job *job;

	if (want->pid && (wanted.pidfd = access_claim(&pins, want)) < 0)
		return;
	if (want->path[0])
		wanted.path = strndup(want->path, size - offsetof(struct mamplus_want, path));
	job = job_add(&wanted);
	if (job && !job_is_known(job))
		return;
	free(wanted.path);
	if (!job && wanted.pidfd >= 0)
		access_answer(&pins, want, wanted.pidfd, false);	/* no room: the declared answer, and not a task that hangs */
	else if (wanted.pidfd >= 0)
		close(wanted.pidfd);
}

/* What waited for a predecessor asks anew. */
static void ask_anew(const struct mamplus_want *want)
{
	int pidfd = access_claim(&pins, want);

	if (pidfd >= 0)
		access_renew(&pins, want, pidfd);	/* its next try waits for this responder */
}

static void drain(struct mamplus_ring *ring)
{
	const struct mamplus_hold *hold;
	uint32_t size;

	while ((hold = mamplus_ring_next(ring, &size))) {
		if (hold->op)
			take_want((const struct mamplus_want *)hold, size);
		else
			take(hold);
		mamplus_ring_done(ring);
	}
}

/* --- the loop ------------------------------------------------------------------------------ */

static void stop_beating(void)
{
	heartbeat->responder_ns = 0;	/* from here on nobody is made to wait */
	heartbeat->responder_tgid = 0;
}

static void beat(void)
{
	heartbeat->responder_tgid = getpid();
	heartbeat->responder_ns = boot_ns();
	agent_look(heartbeat);
}

/* SIGHUP says that there is something new to read: every turn looks. */
static bool is_told_to_end(int signal_fd)
{
	struct signalfd_siginfo info;
	bool is_told = false;

	while (read(signal_fd, &info, sizeof(info)) > 0)
		is_told = is_told || info.ssi_signo != SIGHUP;
	return is_told;
}

static int timeout_ms(void)
{
	uint64_t now = boot_ns();

	return next_ns > now ? (next_ns - now) / NS_PER_MS + 1 : 0;
}

static void loop(struct mamplus_ring *ring, int epoll_fd, int done_fd, int signal_fd)
{
	struct epoll_event events[4];
	eventfd_t unused;
	bool ending = false;

	while (!ending || jobs_open()) {
		ending = ending || pins_are_gone(bpffs) || is_told_to_end(signal_fd);
		if (ending)
			stop_beating();
		else
			beat();
		(void)eventfd_read(done_fd, &unused);
		watch_tick();
		drain(ring);
		next_ns = boot_ns() + BEAT_NS;
		jobs_each(settle);
		if (!ending || jobs_open())
			(void)epoll_wait(epoll_fd, events, 4, timeout_ms());
	}
}

static void watch(int epoll_fd, int fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };

	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		die("epoll", errno);
}

static int watch_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)	/* inherited by the hashing threads */
		die("signals", errno);
	return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static void serve(int ready_fd)
{
	int epoll_fd = epoll_create1(EPOLL_CLOEXEC), done_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	int signal_fd = watch_signals(), error = 0;
	struct mamplus_ring *ring = mamplus_ring_open(pins.holds, -1, &error);

	if (!ring || epoll_fd < 0 || done_fd < 0 || signal_fd < 0)
		die("start", error ? -error : errno);
	watch(epoll_fd, mamplus_ring_fd(ring));
	watch(epoll_fd, done_fd);
	watch(epoll_fd, signal_fd);
	error = hash_start(&pins, done_fd);
	if (error)
		die("threads", -error);
	error = files_start(&pins, heartbeat, lock_path);
	if (error)
		fprintf(stderr, "mamplus-responder: guarded paths are not refused: %s\n", strerror(-error));
	beat();
	holds_each(&pins, take);	/* what a predecessor left stopped */
	accesses_each(&pins, ask_anew);
	dprintf(ready_fd, "%d\n", getpid());
	close(ready_fd);
	loop(ring, epoll_fd, done_fd, signal_fd);
	watch_end();
}

/* --- start --------------------------------------------------------------------------------- */

static int pin(const char *name)
{
	int fd = pin_open(bpffs, name);

	if (fd < 0)
		die(name, -fd);
	return fd;
}

static void open_pins(void)
{
	int error;

	pins = (struct pins){ .held = pin("held"), .known = pin("known"), .holds = pin("holds"), .posture = pin("posture"),
			      .heartbeat = pin("heartbeat"), .answer = pin("prog_mamplus_answer"), .waits = pin("waits"),
			      .opened = pin("opened"), .interpreters = pin("interpreters"), .patterns = pin("patterns"),
			      .births = pin("births") };
	heartbeat = mmap(NULL, sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE, MAP_SHARED, pins.heartbeat, 0);
	if (heartbeat == MAP_FAILED)
		die("heartbeat", errno);
	error = watch_open(bpffs, &pins, heartbeat);
	if (error)
		die("watch", -error);
}

/* The lock file holds the pid of whoever holds the lock; the descriptor is kept until the end. */
static int take_lock(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	char pid[16] = "";

	if (fd < 0)
		die(path, errno);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (read(fd, pid, sizeof(pid) - 1) > 0)
			fputs(pid, stdout);
		fflush(stdout);
		exit(EXIT_ANOTHER);
	}
	return fd;
}

static void protect_from_oom(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		(void)!write(fd, "-1000", 5);
		close(fd);
	}
}

/* The parent waits until the child answers, says its pid, and ends: nobody is left with a zombie. */
static int detach(void)
{
	int ends[2];
	char pid[16] = "";

	if (pipe2(ends, O_CLOEXEC) < 0)
		die("pipe", errno);
	switch (fork()) {
	case -1:
		die("fork", errno);
		break;
	case 0:
		close(ends[0]);
		setsid();
		return ends[1];
	default:
		close(ends[1]);
		if (read(ends[0], pid, sizeof(pid) - 1) <= 0)
			exit(1);
		fputs(pid, stdout);
		fflush(stdout);
		_exit(0);
	}
	return -1;
}

static void close_standard_streams(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
	}
	(void)!chdir("/");
}

int main(int argc, char **argv)
{
	int lock_fd, ready_fd;

	if (argc != 5 || strcmp(argv[1], "--bpffs") != 0 || strcmp(argv[3], "--lock") != 0) {
		fprintf(stderr, "usage: mamplus-responder --bpffs DIR --lock FILE\n");
		return 2;
	}
	bpffs = argv[2];
	lock_path = argv[4];
	lock_fd = take_lock(lock_path);
	open_pins();
	ready_fd = detach();
	if (ftruncate(lock_fd, 0) < 0 || dprintf(lock_fd, "%d\n", getpid()) < 0)
		die(argv[4], errno);
	close_standard_streams();
	protect_from_oom();
	serve(ready_fd);
	return 0;
}
