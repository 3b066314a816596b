/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whom the brake leaves alone: who is outside of the scope, part of the guard set, or the package manager with what it
 * started. The rules are executor/guardset.py's and protected/package_managers.py's,
 * said more broadly where that is simpler here: what is spared by mistake is judged by the agent all the same, later.
 */
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "brake.h"

#define DEPTH 32
#define SYSTEM "/system.slice/"
#define TEXT_BYTES 4096

static bool read_text(pid_t tgid, const char *name, char *text, size_t size)
{
	char path[64];
	ssize_t length;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", tgid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	length = read(fd, text, size - 1);
	close(fd);
	text[length > 0 ? length : 0] = '\0';
	return length > 0;
}

bool brake_look(pid_t tgid, struct brake_task *task)
{
	unsigned long long start, tick_ns = 1000000000ULL / sysconf(_SC_CLK_TCK);
	char text[TEXT_BYTES], *after;

	if (!read_text(tgid, "stat", text, sizeof(text)))
		return false;
	after = strrchr(text, ')');	/* the name before it may hold anything */
	if (!after || sscanf(after + 1, " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
			     &task->state, &task->ppid, &start) != 3)
		return false;
	task->tgid = tgid;
	task->start_ns = start * tick_ns;
	return true;
}

/* --- lists of texts ------------------------------------------------------------------------------ */

static char *copy_list(const char *list)
{
	const char *end = list;
	char *copy;

	while (*end)
		end += strlen(end) + 1;
	copy = malloc(end - list + 1);
	return copy ? memcpy(copy, list, end - list + 1) : NULL;
}

struct mamplus_spared *brake_spared_copy(const struct mamplus_spared *spared)
{
	struct mamplus_spared *copy = calloc(1, sizeof(*copy));

	if (!copy)
		return NULL;
	copy->scope = strdup(spared->scope);
	copy->units = copy_list(spared->units);
	copy->programs = copy_list(spared->programs);
	copy->managers = copy_list(spared->managers);
	copy->tgids = copy_list(spared->tgids);
	if (copy->scope && copy->units && copy->programs && copy->managers && copy->tgids)
		return copy;
	brake_spared_free(copy);
	return NULL;
}

void brake_spared_free(struct mamplus_spared *spared)
{
	if (!spared)
		return;
	free((void *)spared->scope);
	free((void *)spared->units);
	free((void *)spared->programs);
	free((void *)spared->managers);
	free((void *)spared->tgids);
	free(spared);
}

static bool holds(const char *list, const char *text)
{
	for (; *list; list += strlen(list) + 1) {
		if (!strcmp(list, text))
			return true;
	}
	return false;
}

static bool matches(const char *patterns, const char *text)
{
	for (; *patterns; patterns += strlen(patterns) + 1) {
		if (!fnmatch(patterns, text, 0))
			return true;
	}
	return false;
}

/* --- cgroups ------------------------------------------------------------------------------------- */

/* The cgroup v2 path in what /proc/PID/cgroup says; NULL: none. */
static char *cgroup_in(char *text)
{
	char *line = !strncmp(text, "0::/", 4) ? text : strstr(text, "\n0::/");

	if (!line)
		return NULL;
	line = strchr(line, '/');
	line[strcspn(line, "\n")] = '\0';
	return line;
}

static bool is_in(const char *cgroup, const char *scope)
{
	size_t length = strlen(scope);

	if (!strcmp(scope, "/"))
		return true;
	return !strncmp(cgroup, scope, length) && (!cgroup[length] || cgroup[length] == '/');
}

/* Any unit with a role is spared as a whole: a program that was replaced while it runs is part of it, too. */
static bool is_in_unit(char *cgroup, const char *units)
{
	char *rest = NULL;

	if (strncmp(cgroup, SYSTEM, strlen(SYSTEM)))
		return false;
	for (char *part = strtok_r(cgroup, "/", &rest); part; part = strtok_r(NULL, "/", &rest)) {
		if (matches(units, part))
			return true;
	}
	return false;
}

/* --- programs ------------------------------------------------------------------------------------ */

static bool look_at(const char *path, struct statx *found)
{
	/* As known here: asking a file system in user space would be waiting for whom it belongs to. */
	return !statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_INO | STATX_UID | STATX_MODE, found);
}

/* The very file at `path`: one of that name in a container, or in a mount of one's own, is another. */
static bool is_that_file(const char *link, const char *path, struct statx *runs)
{
	struct statx lies;

	return look_at(link, runs) && look_at(path, &lies) && runs->stx_ino == lies.stx_ino &&
	       runs->stx_dev_major == lies.stx_dev_major && runs->stx_dev_minor == lies.stx_dev_minor;
}

static bool runs_one_of(pid_t tgid, const char *programs, struct statx *runs)
{
	char link[32], path[TEXT_BYTES] = "/usr", *name = path + strlen(path);
	ssize_t length;

	snprintf(link, sizeof(link), "/proc/%d/exe", tgid);
	length = readlink(link, name, sizeof(path) - strlen(path) - 1);
	if (length < 0)
		return false;
	name[length] = '\0';
	return (holds(programs, name) || holds(programs, path)) && is_that_file(link, name, runs);
}

/* Nobody but root can have written it, and root runs it. */
static bool is_manager(pid_t tgid, const char *managers)
{
	char text[TEXT_BYTES];
	struct statx runs;

	if (!runs_one_of(tgid, managers, &runs) || runs.stx_uid || runs.stx_mode & 022)
		return false;
	return read_text(tgid, "status", text, sizeof(text)) && strstr(text, "\nUid:\t0\t0\t0\t0\n");
}

/* Itself or one of its ancestors. */
static bool is_managers(const struct mamplus_spared *spared, pid_t tgid)
{
	struct brake_task task = { .ppid = tgid };

	for (int step = 0; step < DEPTH && task.ppid > 1; step++) {
		if (is_manager(task.ppid, spared->managers))
			return true;
		if (!brake_look(task.ppid, &task))
			return false;
	}
	return false;
}

bool brake_spares_program(const struct mamplus_spared *spared, pid_t tgid)
{
	struct statx runs;

	return runs_one_of(tgid, spared->programs, &runs);
}

bool brake_spares(const struct mamplus_spared *spared, pid_t tgid)
{
	char text[TEXT_BYTES], number[16], *cgroup;

	snprintf(number, sizeof(number), "%d", tgid);
	if (tgid <= 1 || holds(spared->tgids, number))
		return true;
	cgroup = read_text(tgid, "cgroup", text, sizeof(text)) ? cgroup_in(text) : NULL;
	if (!cgroup || !is_in(cgroup, spared->scope) || is_in_unit(cgroup, spared->units))
		return true;
	return brake_spares_program(spared, tgid) || is_managers(spared, tgid);
}
