/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Counts who changes protected files, and stops who changes too many, before he runs on.
 *
 * Whoever removes files needs some 15 us for each, and the agent's loop is told by a queue: when it is busy, or others
 * have the processors, he is through before it looks. So one thread with a real-time priority is bound to each
 * processor, and all of them wait for the same queue. The kernel fills the queue and wakes them in the
 * system call that changes the file; the one that is bound to the writer's processor goes before the writer. He does
 * not get to his next call before he is counted, whatever else the machine has to do.
 *
 * Counted are files, not events: each process for itself and for its nearest ancestors, since who encrypts may start
 * a program for each file. Counted is what changes the content (write, truncate, fallocate), a move, and the end of a
 * file that has no name left. The agent's loop judges afterwards, with all that it knows; whom it does not find guilty
 * goes on.
 *
 * Bounded: BRAKE_HEADS processes are counted, beyond that who was quiet longest is forgotten; MAMPLUS_BRAKED_MAX may
 * wait to be judged, beyond that nobody is stopped here. A thread that meets nothing new more than REPEATS times rests
 * for REST_US, so one who writes on and on in one file costs little. Nothing here allocates, logs or waits for a disk.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "brake.h"

#define ANCESTORS 3	/* counted for what a process does, besides itself */
#define REPEATS 16
#define REST_US 200
#define SPIN_NS 50000000	/* much longer than another of these threads holds the lock, if its processor runs at all */
#define STACK_BYTES (128 << 10)
#define EVENTS_BYTES 4096

#define CHANGES (FAN_MODIFY | FAN_MOVE_SELF | FAN_DELETE_SELF)

struct mamplus_brake {
	int group_fd;
	int told_fd;
	int kept_fd;
	int end_fd;
	bool agent_is_in;	/* the agent's own thread holds the lock, which has no priority but the one that who waits lends it */
	pthread_mutex_t lock;	/* of all below */
	bool on;
	struct mamplus_spared *spared;
	struct brake_heads heads;
	uint32_t braked_count;
	struct mamplus_braked braked[MAMPLUS_BRAKED_MAX];
	uint32_t thread_count;
	pthread_t threads[CPU_SETSIZE];
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Whoever spins here keeps the writer on its processor from running, and who sleeps does not. */
static void enter(struct mamplus_brake *brake)
{
	uint64_t end = now_ns() + SPIN_NS;

	while (!__atomic_load_n(&brake->agent_is_in, __ATOMIC_ACQUIRE) && now_ns() < end) {
		if (!pthread_mutex_trylock(&brake->lock))
			return;
	}
	pthread_mutex_lock(&brake->lock);
}

static void leave(struct mamplus_brake *brake)
{
	pthread_mutex_unlock(&brake->lock);
}

/* It may have been on the processor of a thread that waits for it: that one must not spin, but lend its priority. */
static void enter_as_agent(struct mamplus_brake *brake)
{
	pthread_mutex_lock(&brake->lock);
	__atomic_store_n(&brake->agent_is_in, true, __ATOMIC_RELEASE);
}

static void leave_as_agent(struct mamplus_brake *brake)
{
	__atomic_store_n(&brake->agent_is_in, false, __ATOMIC_RELEASE);
	leave(brake);
}

/* --- stopping ------------------------------------------------------------------------------------ */

/* Written down first: an agent that is killed now leaves somebody behind whom the next one lets go. */
static void keep(struct mamplus_brake *brake)
{
	ssize_t ignored = pwrite(brake->kept_fd, brake->braked, sizeof(brake->braked), 0);

	(void)ignored;	/* a full disk: he is stopped all the same */
}

static void stop(struct mamplus_brake *brake, const struct brake_task *task, int pidfd)
{
	brake->braked[brake->braked_count++] = (struct mamplus_braked){ .tgid = task->tgid, .start_ns = task->start_ns };
	keep(brake);
	syscall(SYS_pidfd_send_signal, pidfd, SIGSTOP, NULL, 0);
	eventfd_write(brake->told_fd, 1);
}

/* A writer was looked up before it came so far, but may run another program by now. */
static bool is_spared(struct mamplus_brake *brake, pid_t writer, pid_t tgid, int verdict)
{
	if (tgid == writer && verdict != BRAKE_UNKNOWN)
		return verdict == BRAKE_SPARED || brake_spares_program(brake->spared, tgid);
	return brake_spares(brake->spared, writer) || (tgid != writer && brake_spares(brake->spared, tgid));
}

/* True: it stands still, so nobody further up has to. */
static bool judge(struct mamplus_brake *brake, pid_t writer, pid_t tgid, int verdict)
{
	struct brake_task task;
	int pidfd;

	if (brake->braked_count == MAMPLUS_BRAKED_MAX)
		return false;
	pidfd = syscall(SYS_pidfd_open, tgid, 0);
	if (pidfd < 0)
		return false;
	/* Who stands still already may wait for its hash, and a signal by others than the responder would end it. */
	if (!brake_look(tgid, &task) || task.state == 'T' || is_spared(brake, writer, tgid, verdict)) {
		close(pidfd);
		return false;
	}
	stop(brake, &task, pidfd);
	close(pidfd);
	return true;
}

/* One file by one process; true: that was new. */
static bool count(struct mamplus_brake *brake, pid_t writer, uint64_t file)
{
	struct brake_task task = { .ppid = writer };
	uint64_t now = now_ns();
	uint32_t within;

	for (int step = 0; step <= ANCESTORS && task.ppid > 1; step++) {
		struct brake_head *head = brake_head_of(&brake->heads, task.ppid);

		if (!brake_saw(&brake->heads, head, file, now) && !step)
			return false;
		within = brake_within(&brake->heads, head, now);
		if (!step && within == brake->heads.limit / 2)	/* it may take as long as some files do */
			head->verdict = brake_spares(brake->spared, writer) ? BRAKE_SPARED : BRAKE_TO_STOP;
		if (within == brake->heads.limit) {
			int verdict = head->verdict;

			brake_begin_anew(&brake->heads, head);	/* whatever comes of it: he is judged once for that many */
			if (judge(brake, writer, task.ppid, verdict))
				return true;
		}
		if (!brake_look(task.ppid, &task))
			return true;
	}
	return true;
}

/* --- the threads --------------------------------------------------------------------------------- */

/* FNV-1a, over what tells which file it was. */
static uint64_t hash(const unsigned char *at, const unsigned char *end)
{
	uint64_t value = 0xcbf29ce484222325;

	while (at < end)
		value = (value ^ *at++) * 0x100000001b3;
	return value;
}

static bool take_in(struct mamplus_brake *brake, const struct fanotify_event_metadata *event, size_t left)
{
	pid_t own = getpid();
	bool news = false;

	for (; FAN_EVENT_OK(event, left); event = FAN_EVENT_NEXT(event, left)) {
		const unsigned char *about = (const unsigned char *)event;

		if (event->pid == own)
			news = true;	/* what the agent puts back is no reason to rest: the writer is at it */
		else if (event->pid > 1 && brake->on)
			news |= count(brake, event->pid, hash(about + event->metadata_len, about + event->event_len));
	}
	return news;
}

static void *serve(void *argument)
{
	struct mamplus_brake *brake = argument;
	struct pollfd fds[] = { { .fd = brake->group_fd, .events = POLLIN }, { .fd = brake->end_fd, .events = POLLIN } };
	_Alignas(struct fanotify_event_metadata) unsigned char events[EVENTS_BYTES];

	for (int repeats = 0;;) {
		ssize_t size;

		(void)poll(fds, 2, -1);
		if (fds[1].revents)
			return NULL;
		size = read(brake->group_fd, events, sizeof(events));
		if (size <= 0)
			continue;	/* another processor's has it */
		enter(brake);
		repeats = take_in(brake, (const struct fanotify_event_metadata *)events, size) ? 0 : repeats + 1;
		leave(brake);
		if (repeats > REPEATS)
			usleep(REST_US);
	}
}

static int start_on(struct mamplus_brake *brake, int cpu)
{
	struct sched_param priority = { .sched_priority = 1 };
	pthread_attr_t how;
	cpu_set_t one;
	int error;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	error = pthread_attr_init(&how);
	if (error)
		return -error;
	pthread_attr_setstacksize(&how, STACK_BYTES);
	pthread_attr_setaffinity_np(&how, sizeof(one), &one);
	pthread_attr_setinheritsched(&how, PTHREAD_EXPLICIT_SCHED);
	pthread_attr_setschedpolicy(&how, SCHED_FIFO);
	pthread_attr_setschedparam(&how, &priority);
	error = pthread_create(&brake->threads[brake->thread_count], &how, serve, brake);
	pthread_attr_destroy(&how);
	if (!error)
		pthread_setname_np(brake->threads[brake->thread_count++], "mamplus-brake");
	return -error;
}

/* One for each processor that we may run on; signals are the agent's main thread's. */
static int start_all(struct mamplus_brake *brake)
{
	sigset_t all, before;
	cpu_set_t ours;
	int error = 0;

	if (sched_getaffinity(0, sizeof(ours), &ours) < 0)
		return -errno;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (int cpu = 0; cpu < CPU_SETSIZE && !error; cpu++) {
		if (CPU_ISSET(cpu, &ours))
			error = start_on(brake, cpu);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

/* --- what the agent calls ------------------------------------------------------------------------ */

static int make_lock(struct mamplus_brake *brake)
{
	pthread_mutexattr_t how;
	int error = pthread_mutexattr_init(&how);

	if (error)
		return -error;
	pthread_mutexattr_setprotocol(&how, PTHREAD_PRIO_INHERIT);	/* the agent's own thread has no such priority */
	error = pthread_mutex_init(&brake->lock, &how);
	pthread_mutexattr_destroy(&how);
	return -error;
}

static int make(struct mamplus_brake *brake, uint32_t limit, uint64_t window_ns)
{
	int error = make_lock(brake);

	if (error || !brake_heads_make(&brake->heads, limit, window_ns))
		return error ? error : -ENOMEM;
	brake->group_fd = fanotify_init(FAN_CLOEXEC | FAN_NONBLOCK | FAN_CLASS_NOTIF | FAN_REPORT_FID | FAN_UNLIMITED_MARKS,
					O_RDONLY | O_CLOEXEC);
	brake->end_fd = eventfd(0, EFD_CLOEXEC);
	if (brake->group_fd < 0 || brake->end_fd < 0)
		return -errno;
	return start_all(brake);
}

struct mamplus_brake *mamplus_brake_open(int told_fd, int kept_fd, uint32_t limit, uint64_t window_ns, int *error)
{
	struct mamplus_brake *brake = calloc(1, sizeof(*brake));

	if (!brake) {
		*error = -ENOMEM;
		return NULL;
	}
	brake->group_fd = brake->end_fd = -1;
	brake->told_fd = told_fd;
	brake->kept_fd = kept_fd;
	*error = make(brake, limit, window_ns);
	if (*error) {
		mamplus_brake_close(brake);
		return NULL;
	}
	return brake;
}

void mamplus_brake_close(struct mamplus_brake *brake)
{
	if (brake->end_fd >= 0)
		eventfd_write(brake->end_fd, 1);
	while (brake->thread_count)
		pthread_join(brake->threads[--brake->thread_count], NULL);
	if (brake->group_fd >= 0)
		close(brake->group_fd);
	if (brake->end_fd >= 0)
		close(brake->end_fd);
	brake_spared_free(brake->spared);
	brake_heads_free(&brake->heads);
	free(brake);
}

int mamplus_brake_mark(struct mamplus_brake *brake, const char *path, bool counts)
{
	unsigned int how = (counts ? FAN_MARK_ADD : FAN_MARK_REMOVE) | FAN_MARK_DONT_FOLLOW;

	return fanotify_mark(brake->group_fd, how, CHANGES, AT_FDCWD, path) < 0 ? -errno : 0;
}

int mamplus_brake_spare(struct mamplus_brake *brake, const struct mamplus_spared *spared)
{
	struct mamplus_spared *before, *now = brake_spared_copy(spared);

	if (!now)
		return -ENOMEM;
	enter_as_agent(brake);
	before = brake->spared;
	brake->spared = now;
	leave_as_agent(brake);
	brake_spared_free(before);
	return 0;
}

/* Who was counted while nobody answered for it is not held against him later, nor the other way round. */
void mamplus_brake_turn(struct mamplus_brake *brake, bool on)
{
	enter_as_agent(brake);
	if (on && !brake->on)
		brake_begin_all_anew(&brake->heads);
	brake->on = on && brake->spared;
	leave_as_agent(brake);
}

uint32_t mamplus_brake_taken(struct mamplus_brake *brake, struct mamplus_braked *out)
{
	uint32_t count;

	enter_as_agent(brake);
	count = brake->braked_count;
	memcpy(out, brake->braked, count * sizeof(*out));
	leave_as_agent(brake);
	return count;
}

void mamplus_brake_drop(struct mamplus_brake *brake, uint32_t count)
{
	enter_as_agent(brake);
	brake->braked_count -= count;
	memmove(brake->braked, brake->braked + count, brake->braked_count * sizeof(*brake->braked));
	memset(brake->braked + brake->braked_count, 0, count * sizeof(*brake->braked));
	keep(brake);
	leave_as_agent(brake);
}
