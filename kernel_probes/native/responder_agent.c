/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The responder looks after the agent: one that was stopped is woken, and that it was silent is counted.
 *
 * Looked at with each beat of the responder's own heart, a second apart, in memory that both have
 * mapped. The signal goes through a pidfd that was opened while the agent beat, so a number that
 * another process got meanwhile is never meant. Why the agent was silent it finds out and tells
 * itself, when it goes on (mamplus_host/tamper).
 */
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "responder.h"

#define SILENT_NS 15000000000ULL	/* three of the agent's ticks */

static uint32_t agent_tgid;
static int agent_fd = -1;
static bool is_missed;

static uint64_t awake_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static void follow(uint32_t tgid)
{
	if (agent_fd >= 0)
		close(agent_fd);
	agent_tgid = tgid;
	agent_fd = tgid ? (int)syscall(SYS_pidfd_open, tgid, 0) : -1;
	is_missed = false;
}

void agent_look(struct mamplus_heartbeat *beat)
{
	uint64_t now = awake_ns();
	bool is_silent = now > beat->agent_awake_ns && now - beat->agent_awake_ns > SILENT_NS;

	if (beat->agent_tgid != agent_tgid)
		follow(beat->agent_tgid);
	if (agent_fd < 0)
		return;
	if (beat->agent_stopped || (is_silent && !is_missed)) {
		beat->agent_stopped = 0;
		__sync_fetch_and_add(&beat->agent_missed, 1);
		(void)syscall(SYS_pidfd_send_signal, agent_fd, SIGCONT, NULL, 0);
	}
	is_missed = is_silent;
}
