/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Guarded paths by fanotify: responder_files.c (the thread that answers), responder_files_rules.c
 * (reads what the agent wrote, and marks what it names).
 */
#ifndef MAMPLUS_RESPONDER_FILES_H
#define MAMPLUS_RESPONDER_FILES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "mamplus_events.h"

#define FILE_RULES_MAX 64
#define FILE_MARKS_MAX 16384	/* directories and files: what fanotify holds for one group of ours */

struct mamplus_heartbeat;
struct pins;

struct file_rule {
	uint64_t bit;
	bool is_folder;
	const char *path;
	size_t length;
};

struct file_writer {
	unsigned char sha256[MAMPLUS_SHA256_LEN];
	uint64_t rules, children;
};

struct file_linked {
	uint64_t dev, ino, rules;
};

/* What is in force. `text` owns the paths. */
struct force {
	int fd;		/* of the fanotify group; -1: none */
	char *text;
	uint64_t all;	/* every rule */
	unsigned int rule_count, writer_count, linked_count, mark_count;
	unsigned int unmarked_count;	/* directories and files that should have a mark and have none: opens there pass */
	struct file_rule rules[FILE_RULES_MAX];
	struct file_writer *writers;
	struct file_linked *linked;
};

/* 0, or -errno: no thread. `beat` says who the agent is, while it lives. */
int files_start(const struct pins *opened, const struct mamplus_heartbeat *beat, const char *lock_path);

/* responder_files_rules.c; one thread at a time. */
bool force_make(struct force *force, const char *rules_path);	/* false: drop it */
void force_drop(struct force *force);	/* whoever waits goes on */

#endif
