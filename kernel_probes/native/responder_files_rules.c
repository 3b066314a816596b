/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Reads the rules about files that the agent wrote, and marks what they name.
 *
 * One record a rule or program, each ended by NUL: mamplus_host/kernel/filewatch.py writes them.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "responder_files.h"

#define TEXT_MAX (4u << 20)

/* --- the rules, as the agent wrote them -------------------------------------------------------- */

static char *read_whole(const char *path, size_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat about;
	char *text = NULL;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &about) == 0 && about.st_uid == 0 && !(about.st_mode & 022) && about.st_size < TEXT_MAX)
		text = malloc(about.st_size + 1);
	if (text && read(fd, text, about.st_size) != about.st_size) {
		free(text);
		text = NULL;
	}
	if (text) {
		text[about.st_size] = '\0';
		*size = about.st_size;
	}
	close(fd);
	return text;
}

static bool parse_sha256(const char *text, unsigned char *out)
{
	for (int i = 0; i < MAMPLUS_SHA256_LEN; i++) {
		if (!isxdigit((unsigned char)text[2 * i]) || sscanf(text + 2 * i, "%2hhx", &out[i]) != 1)
			return false;
	}
	return true;
}

/* "g <bit> <path>", "f <bit> <path>", "p <sha256> <rules> <children>"; each ends with NUL. */
static void parse_record(struct force *force, const char *record)
{
	unsigned long long first, second;
	struct file_writer *writer = &force->writers[force->writer_count];
	int length = 0;

	if ((*record == 'g' || *record == 'f') && force->rule_count < FILE_RULES_MAX &&
	    sscanf(record + 1, " %llx %n", &first, &length) == 1 && length) {
		const char *path = record + 1 + length;

		force->all |= first;
		force->rules[force->rule_count++] =
			(struct file_rule){ .bit = first, .is_folder = *record == 'f', .path = path, .length = strlen(path) };
	} else if (*record == 'p' && strlen(record) > 2 + 64 && parse_sha256(record + 2, writer->sha256) &&
		   sscanf(record + 2 + 64, " %llx %llx", &first, &second) == 2) {
		writer->rules = first;
		writer->children = second;
		force->writer_count++;
	}
}

static bool parse(struct force *force, size_t size)
{
	unsigned int records = 0;

	for (size_t i = 0; i < size; i++)
		records += force->text[i] == '\0';
	force->writers = calloc(records + 1, sizeof(*force->writers));
	force->linked = calloc(FILE_MARKS_MAX, sizeof(*force->linked));
	if (!force->writers || !force->linked)
		return false;
	for (char *at = force->text; at < force->text + size; at += strlen(at) + 1)
		parse_record(force, at);
	return true;
}

/* --- marks ------------------------------------------------------------------------------------- */

/* nftw(3) takes no argument of ours; one thread walks at a time. */
static struct walk {
	struct force *force;
	const struct file_rule *rule;
	unsigned int count;
	struct mark {
		char *path;
		uint64_t mask;
	} *marks;
} walk;

static void note_linked(const struct stat *about)
{
	struct force *force = walk.force;
	uint64_t dev = (uint64_t)major(about->st_dev) << 20 | minor(about->st_dev);

	if (force->linked_count < FILE_MARKS_MAX)
		force->linked[force->linked_count++] =
			(struct file_linked){ .dev = dev, .ino = about->st_ino, .rules = walk.rule->bit };
}

static int note_one(const char *path, const struct stat *about, int type, struct FTW *unused)
{
	uint64_t mask = FAN_OPEN_PERM;
	char *copy;

	(void)unused;
	if (walk.rule->is_folder)
		mask |= FAN_ACCESS_PERM;	/* descriptors that were open before, or were passed on */
	if (type == FTW_D || type == FTW_DNR)
		mask |= FAN_EVENT_ON_CHILD | (walk.rule->is_folder ? FAN_ONDIR : 0);
	else if (type != FTW_F || !S_ISREG(about->st_mode) || (about->st_nlink < 2 && strcmp(path, walk.rule->path) != 0))
		return 0;	/* its directory's mark covers it */
	else
		note_linked(about);
	if (walk.count < FILE_MARKS_MAX && (copy = strdup(path)))
		walk.marks[walk.count++] = (struct mark){ .path = copy, .mask = mask };
	else
		walk.force->unmarked_count++;
	return 0;
}

/* First all is looked at, then all is marked: a directory that is marked can be opened by nobody but through us. */
static bool mark_all(struct force *force)
{
	walk = (struct walk){ .force = force, .marks = calloc(FILE_MARKS_MAX, sizeof(*walk.marks)) };
	if (!walk.marks)
		return false;
	for (unsigned int i = 0; i < force->rule_count; i++) {
		walk.rule = &force->rules[i];
		(void)nftw(walk.rule->path, note_one, 16, FTW_PHYS);
	}
	force->fd = fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_TID | FAN_UNLIMITED_MARKS |
				  FAN_UNLIMITED_QUEUE, O_RDONLY | O_CLOEXEC | O_LARGEFILE);
	for (unsigned int i = 0; i < walk.count; i++) {
		if (force->fd >= 0 && fanotify_mark(force->fd, FAN_MARK_ADD | FAN_MARK_DONT_FOLLOW, walk.marks[i].mask,
						    AT_FDCWD, walk.marks[i].path) == 0)
			force->mark_count++;
		else if (errno != ENOENT)
			force->unmarked_count++;
		free(walk.marks[i].path);
	}
	free(walk.marks);
	return force->fd >= 0 && force->mark_count;
}

void force_drop(struct force *force)
{
	if (force->fd >= 0)
		close(force->fd);
	free(force->text);
	free(force->writers);
	free(force->linked);
	*force = (struct force){ .fd = -1 };
}

bool force_make(struct force *force, const char *rules_path)
{
	size_t size = 0;

	force->text = read_whole(rules_path, &size);
	return force->text && parse(force, size) && (!force->rule_count || mark_all(force));
}
