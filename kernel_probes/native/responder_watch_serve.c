/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The thread that answers permission events. It judges, or lets the open wait for a hash; it never reads a file.
 *
 * Events are read one at a time, and from before the read until the event is answered or noted `busy_ns` says so:
 * should this process be stopped in between, the keeper knows that there is one more to answer than are noted.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "responder_watch.h"

#define NS_PER_MS 1000000ULL
#define NS_PER_S 1000000000ULL
#define EVENTS_A_TURN 64	/* then deadlines are looked at */
#define WRITTEN_A_READ 64
#define ECHOES 64	/* a power of two */
#define IDLE_NS (3600 * NS_PER_S)

static int group = -1, written = -1, wake = -1;
static pthread_t thread;
static bool ending, drops_marks;

/* --- answers ------------------------------------------------------------------------------- */

void answer_event(int group_fd, int fd, bool is_refused)
{
	struct fanotify_response response = { .fd = fd, .response = is_refused ? FAN_DENY : FAN_ALLOW };

	if (is_refused)
		watch_count(MAMPLUS_W_REFUSED);
	(void)!write(group_fd, &response, sizeof(response));	/* ENOENT: its task was killed, or the keeper was quicker */
}

/*
 * execve() asks twice, for execution and for opening. Where an answer is good once (tmpfs, a file that is not root's
 * alone) the second is answered as the first was: the task has done nothing between the two.
 */
static struct { uint64_t dev, ino; uint32_t tgid; } echoes[ECHOES];

static void echo_put(const struct opening *opening)
{
	unsigned int at = opening->tgid % ECHOES;

	echoes[at].dev = opening->file.dev;
	echoes[at].ino = opening->file.ino;
	echoes[at].tgid = opening->tgid;
}

static bool echo_take(const struct opening *opening)
{
	unsigned int at = opening->tgid % ECHOES;
	bool is_echo = !opening->is_exec && echoes[at].tgid == opening->tgid && echoes[at].dev == opening->file.dev &&
		       echoes[at].ino == opening->file.ino;

	if (is_echo)
		echoes[at].tgid = 0;
	return is_echo;
}

/* The declared answer, at once. */
static void answer_declared(const struct opening *opening, const struct mamplus_posture *posture)
{
	bool refuses = declared_refuses(posture, opening->is_exec, false);
	uint32_t reply = judge_and_report(MAMPLUS_ASKED_RESPONDER, opening, declared_flags(refuses));

	answer_event(group, opening->fd, reply & MAMPLUS_ACCESS_REFUSE);
}

/* Hash it for the next time; whoever opened it has gone on. */
static void add_let_go(const struct opening *opening)
{
	if (wait_add(opening, 0, false, true))
		return;
	watch_count(MAMPLUS_W_UNHASHED);
	close(opening->fd);
}

static void hold(const struct opening *opening)
{
	struct mamplus_posture posture = watch_posture();
	uint64_t deadline_ns = posture.deadline_ms * NS_PER_MS;

	if (posture.mode == MAMPLUS_MODE_MONITOR) {
		answer_event(group, opening->fd, false);
		add_let_go(opening);
		return;
	}
	if (!wait_can_end(opening->file.size, deadline_ns)) {
		answer_declared(opening, &posture);
		add_let_go(opening);
		return;
	}
	if (wait_add(opening, boot_ns() + deadline_ns, declared_refuses(&posture, opening->is_exec, false), false)) {
		watch_count(MAMPLUS_W_WAITED);
		return;
	}
	watch_count(MAMPLUS_W_NO_ROOM);
	answer_declared(opening, &posture);
	close(opening->fd);
}

static void answer_known(const struct opening *opening, uint32_t reply)
{
	if (reply & MAMPLUS_ACCESS_LISTED) {
		reply = judge_and_report(MAMPLUS_ASKED_RESPONDER, opening, MAMPLUS_ASK_HASHED);
	} else {
		mark_good(opening);
		if (opening->is_exec)
			echo_put(opening);
	}
	answer_event(group, opening->fd, reply & MAMPLUS_ACCESS_REFUSE);
}

/*
 * What came of an open that waited. False: it was hashed, and that was forgotten since (note_written() came to a close
 * that was before the hash, or after it: nobody can tell), so it is to be hashed again.
 */
static bool settle(const struct opening *opening, bool is_hashed, bool is_let_go)
{
	struct mamplus_posture posture;
	uint32_t reply;

	if (is_let_go)
		return !is_hashed || judge_and_report(MAMPLUS_ASKED_RESPONDER, opening,
						      MAMPLUS_ASK_HASHED | MAMPLUS_ASK_LATE) & MAMPLUS_ACCESS_KNOWN;
	reply = is_hashed ? judge(MAMPLUS_ASKED_RESPONDER, opening, MAMPLUS_ASK_HASHED) : 0;
	if (reply & MAMPLUS_ACCESS_KNOWN) {
		answer_known(opening, reply);
		return true;
	}
	if (is_hashed)
		return false;
	posture = watch_posture();
	answer_declared(opening, &posture);
	return true;
}

/* --- events -------------------------------------------------------------------------------- */

static void handle(const struct fanotify_event_metadata *event)
{
	struct opening opening = { .fd = event->fd, .tgid = event->pid, .is_exec = event->mask & FAN_OPEN_EXEC_PERM,
				   .since_ns = boot_ns() };
	enum decision decision = opening_decide(MAMPLUS_ASKED_RESPONDER, &opening);

	if (decision == UNDECIDED && !echo_take(&opening)) {
		hold(&opening);
		return;
	}
	if (decision == DECIDED_GOOD)
		mark_good(&opening);
	answer_event(group, opening.fd, decision == DECIDED_REFUSE);
	close(opening.fd);
}

static void set_busy(uint64_t now_ns)
{
	__atomic_store_n(&watch_pins.watch->busy_ns, now_ns, __ATOMIC_RELEASE);
}

static bool handle_one(void)
{
	struct fanotify_event_metadata event;
	ssize_t got;

	set_busy(boot_ns());
	got = read(group, &event, sizeof(event));	/* room for one */
	if (got >= (ssize_t)sizeof(event)) {
		__atomic_fetch_add(&watch_pins.watch->reads, 1, __ATOMIC_RELEASE);
		watch_count(MAMPLUS_W_EVENTS);
		if (event.fd >= 0)
			handle(&event);
	} else if (got < 0 && (errno == EMFILE || errno == ENFILE)) {	/* the kernel has refused it in our place */
		watch_count(MAMPLUS_W_NO_ROOM);
		watch_count(MAMPLUS_W_REFUSED);
	}
	set_busy(0);
	return got > 0;
}

/* --- files that were closed after writing ----------------------------------------------------- */

/* Only what may be started or loaded is worth hashing before somebody asks. */
static bool is_program(const struct opening *opening)
{
	unsigned char magic[4] = { 0 };

	if (!opening->file.size)
		return false;
	return opening->file.mode & (S_IXUSR | S_IXGRP | S_IXOTH) ||
	       (pread(opening->fd, magic, sizeof(magic), 0) > 2 &&
		((magic[0] == 0x7f && magic[1] == 'E' && magic[2] == 'L' && magic[3] == 'F') || (magic[0] == '#' && magic[1] == '!')));
}

static void note_written(int fd)
{
	struct opening opening = { .fd = fd };
	struct mamplus_file_key key;

	watch_count(MAMPLUS_W_WRITTEN);
	mark_remove(fd);	/* a write through a shared mapping has not dropped it */
	if (!opening_identify(&opening)) {
		close(fd);
		return;
	}
	key = (struct mamplus_file_key){ .dev = opening.file.dev, .ino = opening.file.ino };
	(void)mamplus_map_delete(watch_pins.known, &key);
	if (!is_program(&opening))
		close(fd);
	else if (!later_add(fd, &opening.file))
		watch_count(MAMPLUS_W_UNHASHED);
}

static void read_written(void)
{
	static struct fanotify_event_metadata events[WRITTEN_A_READ];
	ssize_t got = read(written, events, sizeof(events));
	const struct fanotify_event_metadata *event = events;

	for (; got > 0 && FAN_EVENT_OK(event, got); event = FAN_EVENT_NEXT(event, got)) {
		if (event->mask & FAN_Q_OVERFLOW) {
			watch_count(MAMPLUS_W_OVERFLOW);
			marks_drop();
		}
		if (event->fd >= 0)
			note_written(event->fd);
	}
}

/* --- the loop ------------------------------------------------------------------------------ */

static int timeout_ms(uint64_t next_ns)
{
	uint64_t now = boot_ns();

	return next_ns > now ? (next_ns - now) / NS_PER_MS + 1 : 0;
}

static void turn(void)
{
	struct pollfd polled[] = { { .fd = group, .events = POLLIN }, { .fd = written, .events = POLLIN },
				   { .fd = wake, .events = POLLIN } };
	uint64_t next_ns = boot_ns() + IDLE_NS;
	eventfd_t unused;

	if (__atomic_exchange_n(&drops_marks, false, __ATOMIC_ACQ_REL))
		marks_drop();
	read_written();
	for (int i = 0; i < EVENTS_A_TURN && handle_one(); i++)
		;
	set_busy(boot_ns());	/* what is claimed is not noted any more */
	waits_each(settle, boot_ns(), &next_ns);
	set_busy(0);
	(void)poll(polled, 3, timeout_ms(next_ns));
	if (polled[2].revents)
		(void)eventfd_read(wake, &unused);
}

static void *serve(void *unused)
{
	(void)unused;
	while (!__atomic_load_n(&ending, __ATOMIC_ACQUIRE))
		turn();
	return NULL;
}

int serve_start(int group_fd, int written_fd)
{
	int error;

	group = group_fd;
	written = written_fd;
	ending = false;
	if (wake < 0)
		wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (wake < 0)
		return -ENFILE;
	error = waits_start(wake);
	return error ? error : -pthread_create(&thread, NULL, serve, NULL);
}

void serve_drop_marks(void)
{
	__atomic_store_n(&drops_marks, true, __ATOMIC_RELEASE);
	(void)eventfd_write(wake, 1);
}

void serve_end(void)
{
	uint64_t unused_ns = 0;

	__atomic_store_n(&ending, true, __ATOMIC_RELEASE);
	(void)eventfd_write(wake, 1);
	pthread_join(thread, NULL);
	waits_each(settle, UINT64_MAX, &unused_ns);	/* nobody answers from here on */
}
