/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The peer of the fanotify tier: the least that a daemon can do that is asked first.
 *
 *   permission_peer DIR exec|open      marks DIR's file system for starts or for every open, says "ready", allows all
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/fanotify.h>
#include <unistd.h>

static void answer(int group, const struct fanotify_event_metadata *event)
{
	struct fanotify_response response = { .fd = event->fd, .response = FAN_ALLOW };

	if (event->fd < 0)
		return;
	if (write(group, &response, sizeof(response)) != sizeof(response))
		err(1, "answer");
	close(event->fd);
}

int main(int argc, char **argv)
{
	struct fanotify_event_metadata events[64], *event;
	int group = fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, O_RDONLY | O_CLOEXEC);
	uint64_t which;
	ssize_t size;

	if (argc != 3 || group < 0)
		err(1, "fanotify");
	which = strcmp(argv[2], "exec") == 0 ? FAN_OPEN_EXEC_PERM : FAN_OPEN_PERM;
	if (fanotify_mark(group, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, which, AT_FDCWD, argv[1]))
		err(1, "%s", argv[1]);
	puts("ready");
	fflush(stdout);
	while ((size = read(group, events, sizeof(events))) > 0)
		for (event = events; FAN_EVENT_OK(event, size); event = FAN_EVENT_NEXT(event, size))
			answer(group, event);
	return 0;
}
