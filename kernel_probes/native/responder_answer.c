/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One start that waits, stopped by a signal: claiming it, and answering it. `mamplus_answer` takes it out of `held`
 * in the same step, so of several that answer (the responder, its keeper, a successor) one does.
 */
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "responder_watch.h"

int pin_open(const char *bpffs, const char *name)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", bpffs, name);
	return mamplus_obj_get(path);
}

bool pins_are_gone(const char *bpffs)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/held", bpffs);
	return access(path, F_OK) != 0;
}

static void send_signal(int pidfd, int signal)
{
	/* ESRCH: it was killed while it waited, and there is nothing left to do. */
	(void)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0);
}

int hold_claim(const struct pins *pins, const struct mamplus_hold *hold)
{
	int pidfd = syscall(SYS_pidfd_open, hold->tgid, 0);
	struct mamplus_held entry;

	if (pidfd < 0)
		return -1;
	/* `held` still has it after the pidfd was opened: so the pidfd is of this very process. */
	if (mamplus_map_lookup(pins->held, &hold->tgid, &entry) == 0 && entry.boot_ns == hold->boot_ns)
		return pidfd;
	close(pidfd);
	return -1;
}

void hold_answer(const struct pins *pins, const struct mamplus_hold *hold, int pidfd, bool hashed)
{
	struct mamplus_answer_args args = { .tgid = hold->tgid, .hashed = hashed, .boot_ns = hold->boot_ns };
	uint32_t reply = 0;

	if (mamplus_run(pins->answer, &args, sizeof(args), &reply) < 0) {
		watch_count(MAMPLUS_W_UNASKED);
		/* Cannot be asked: a device that hangs is worse. Out of `held`, or its going on would end it. */
		(void)mamplus_map_delete(pins->held, &hold->tgid);
		reply = MAMPLUS_REPLY_CONT;
	}
	if (reply & MAMPLUS_REPLY_KILL)
		send_signal(pidfd, SIGKILL);
	else if (reply & MAMPLUS_REPLY_CONT)
		send_signal(pidfd, SIGCONT);
	close(pidfd);
}

void holds_each(const struct pins *pins, void (*visit)(const struct mamplus_hold *hold))
{
	struct mamplus_held entry;
	uint32_t tgid, key, *last = NULL;

	while (mamplus_map_next(pins->held, last, &tgid) == 0) {
		if (mamplus_map_lookup(pins->held, &tgid, &entry) == 0) {
			struct mamplus_hold hold = { .boot_ns = entry.boot_ns, .tgid = tgid, .file = entry.file,
						     .loader = entry.loader };

			visit(&hold);
		}
		key = tgid;
		last = &key;
	}
}

/* Whether the thread still waits for this. If not it went on, or its stop came after the answer: let it go on. */
int access_claim(const struct pins *pins, const struct mamplus_want *want)
{
	int pidfd = syscall(SYS_pidfd_open, want->hold.tgid, 0);
	struct mamplus_wait wait;
	struct mamplus_held start;

	if (pidfd < 0)
		return -1;
	if (mamplus_map_lookup(pins->waits, &want->pid, &wait) == 0 && wait.boot_ns == want->hold.boot_ns &&
	    wait.tgid == want->hold.tgid)
		return pidfd;
	if (mamplus_map_lookup(pins->held, &want->hold.tgid, &start) < 0)
		send_signal(pidfd, SIGCONT);
	close(pidfd);
	return -1;
}

static bool is_same(const struct mamplus_file *one, const struct mamplus_file *other)
{
	return one->ino == other->ino && one->dev == other->dev && one->size == other->size &&
	       one->ctime_s == other->ctime_s && one->ctime_ns == other->ctime_ns;
}

/* The thread tries again, and finds its file known, or in `waits` that it cannot be. What it waits for by now may be another. */
void access_answer(const struct pins *pins, const struct mamplus_want *want, int pidfd, bool hashed)
{
	struct mamplus_wait wait;

	if (mamplus_map_lookup(pins->waits, &want->pid, &wait) == 0 && wait.boot_ns == want->hold.boot_ns) {
		wait.state = hashed || !is_same(&wait.file, &want->hold.file) ? MAMPLUS_WAIT_HASHED : MAMPLUS_WAIT_FAILED;
		(void)mamplus_map_replace(pins->waits, &want->pid, &wait);
	}
	send_signal(pidfd, SIGCONT);
	close(pidfd);
}

/* The thread tries again as if for the first time. */
void access_renew(const struct pins *pins, const struct mamplus_want *want, int pidfd)
{
	(void)mamplus_map_delete(pins->waits, &want->pid);
	send_signal(pidfd, SIGCONT);
	close(pidfd);
}

void accesses_each(const struct pins *pins, void (*visit)(const struct mamplus_want *want))
{
	struct mamplus_want want = { 0 };
	struct mamplus_wait wait;
	uint32_t pid, key, *last = NULL;

	/* Bounded: an LRU that changes meanwhile may be walked in circles. */
	for (int i = 0; i < MAMPLUS_HELD_MAX && mamplus_map_next(pins->waits, last, &pid) == 0; i++) {
		if (mamplus_map_lookup(pins->waits, &pid, &wait) == 0 && wait.state == MAMPLUS_WAIT_ASKED) {
			want.hold = (struct mamplus_hold){ .boot_ns = wait.boot_ns, .tgid = wait.tgid, .file = wait.file };
			want.pid = pid;
			visit(&want);
			if (mamplus_map_lookup(pins->waits, &pid, &wait) < 0)
				continue;	/* removed: `last` is still there */
		}
		key = pid;
		last = &key;
	}
}
