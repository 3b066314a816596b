/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * mamplus-hash: SHA-256 of files, by the responder's own code.
 *
 *     mamplus-hash [--idle] [--threads N] [FILE ...]      without FILE: one a line on stdin
 *
 * Prints for each file, in no order with several threads: "<sha256> <size> <ctime_s> <ctime_ns> <FILE>", the
 * identity of what was hashed; "- <errno> 0 0 <FILE>" when it could not be read or changed meanwhile. The
 * agent's sweep runs it: a process that ends gives its memory back, and hashing holds up no loop.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "digest.h"

#define MAX_THREADS 64
#define HEX_LEN (2 * SHA256_LEN + 1)

static char **files;	/* NULL: they come on stdin */
static int next;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static char *take(char *line, size_t size)
{
	char *file = NULL;

	pthread_mutex_lock(&lock);
	if (files)
		file = files[next] ? files[next++] : NULL;
	else if (fgets(line, size, stdin))
		file = line;
	pthread_mutex_unlock(&lock);
	if (file == line && file)
		line[strcspn(line, "\n")] = '\0';
	return file;
}

static bool is_same(const struct stat *one, const struct stat *other)
{
	return one->st_size == other->st_size && one->st_ctim.tv_sec == other->st_ctim.tv_sec &&
	       one->st_ctim.tv_nsec == other->st_ctim.tv_nsec;
}

/* 0, or an errno. */
static int hash(struct digest *digest, const char *file, struct stat *stat, unsigned char *sha256)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), error = 0;
	struct stat after;

	if (fd < 0)
		return errno;
	if (fstat(fd, stat) < 0)
		error = errno;
	else if (!S_ISREG(stat->st_mode))
		error = EINVAL;
	else if (!digest_fd(digest, fd, NULL, NULL, sha256))
		error = EIO;
	else if (fstat(fd, &after) < 0 || !is_same(stat, &after))
		error = EAGAIN;
	close(fd);
	return error;
}

static void say(const char *file, int error, const struct stat *stat, const unsigned char *sha256)
{
	char hex[HEX_LEN] = "-";

	for (int i = 0; !error && i < SHA256_LEN; i++)
		snprintf(hex + 2 * i, 3, "%02x", sha256[i]);
	pthread_mutex_lock(&lock);
	if (error)
		printf("- %d 0 0 %s\n", error, file);
	else
		printf("%s %lld %lld %ld %s\n", hex, (long long)stat->st_size, (long long)stat->st_ctim.tv_sec,
		       stat->st_ctim.tv_nsec, file);
	fflush(stdout);
	pthread_mutex_unlock(&lock);
}

static void *work(void *unused)
{
	unsigned char sha256[EVP_MAX_MD_SIZE];
	struct digest digest;
	char line[4096], *file;
	struct stat stat;

	(void)unused;
	if (!digest_open(&digest))
		exit(1);
	while ((file = take(line, sizeof(line)))) {
		int error = hash(&digest, file, &stat, sha256);

		say(file, error, &stat, sha256);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[MAX_THREADS];
	int count = 1, first = 1;

	if (argc > first && strcmp(argv[first], "--idle") == 0) {
		(void)setpriority(PRIO_PROCESS, 0, 19);	/* nobody waits */
		first++;
	}
	if (argc > first + 1 && strcmp(argv[first], "--threads") == 0) {
		count = atoi(argv[first + 1]);
		first += 2;
	}
	if (count < 1 || count > MAX_THREADS || (argc > first && argv[first][0] == '-')) {
		fprintf(stderr, "usage: mamplus-hash [--idle] [--threads 1-%d] [FILE ...]\n", MAX_THREADS);
		return 2;
	}
	files = argc > first ? argv + first : NULL;
	for (int i = 1; i < count; i++)
		if (pthread_create(&threads[i], NULL, work, NULL))
			return 1;
	work(NULL);
	for (int i = 1; i < count; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
