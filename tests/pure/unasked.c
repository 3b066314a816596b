/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* unasked: a start and an open are answered while the kernel's programs cannot be run. Prints what was counted. */
#include <stdio.h>

#include "responder_answer.c"
#include "responder_watch_judge.c"

static struct mamplus_watch page;
static struct mamplus_access asked[MAMPLUS_ASKED_MAX];
static struct mamplus_heartbeat beat;

int mamplus_run(int prog_fd, const void *context, uint32_t size, uint32_t *result)
{
	*result = 0;
	return prog_fd && context && size ? -ENOMEM : 0;
}

int mamplus_obj_get(const char *path) { return path ? -ENOENT : 0; }
int mamplus_map_lookup(int map_fd, const void *key, void *value) { return map_fd && key && value ? -ENOENT : 0; }
int mamplus_map_replace(int map_fd, const void *key, const void *value) { return map_fd && key && value ? -ENOENT : 0; }
int mamplus_map_delete(int map_fd, const void *key) { return map_fd && key ? -ENOENT : 0; }
int mamplus_map_next(int map_fd, const void *key, void *next) { return map_fd && !key && next ? -ENOENT : 0; }
uint64_t boot_ns(void) { return 1; }

int main(void)
{
	struct mamplus_hold hold = { .tgid = 1 };
	struct opening opening = { .fd = -1, .tgid = 2 };
	struct pins pins = { .answer = 3 };

	watch_pins = (struct watch_pins){ .access = 3, .watch = &page, .asked = asked, .heartbeat = &beat };
	hold_answer(&pins, &hold, -1, true);
	printf("start %llu ", page.counter[MAMPLUS_W_UNASKED]);
	printf("refused %u ", judge(MAMPLUS_ASKED_RESPONDER, &opening, 0) & MAMPLUS_ACCESS_REFUSE);
	printf("open %llu\n", page.counter[MAMPLUS_W_UNASKED]);
	return 0;
}
