/* SPDX-License-Identifier: Apache-2.0 */
/* wants HOW FILE: try one thing with FILE, and end with 7 when it was granted, else with the errno. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <linux/mount.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define GRANTED 7
#define PAGE 4096
#define THREADS 8

static const char *file;

static int open_it(void)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);

	return fd < 0 ? errno : GRANTED;
}

/* Through a mount of its directory that hangs in no tree. */
static int open_detached(bool from_below)
{
	char *directory = strdup(file), *name = strrchr(directory, '/');
	int tree, fd;

	*name++ = '\0';
	tree = syscall(SYS_open_tree, AT_FDCWD, directory, OPEN_TREE_CLONE);
	if (tree >= 0 && from_below) {	/* its top is nowhere open, and the name that is used is not the file's last */
		fd = openat(tree, "below", O_PATH);
		close(tree);
		tree = fd;
	}
	if (tree < 0)
		return 120;
	if (from_below)
		asprintf(&name, "../%s", strrchr(file, '/') + 1);
	fd = openat(tree, name, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? errno : GRANTED;
}

/* Memory of our own with the content of the file, which has no name. */
static int in_memory(void)
{
	int from = open(file, O_RDONLY), fd = memfd_create("wants", 0);
	char block[65536];
	ssize_t got;

	while ((got = read(from, block, sizeof(block))) > 0)
		if (write(fd, block, got) != got)
			return -1;
	return fd;
}

static int map_fd(int fd, int first, int then)
{
	void *at = mmap(NULL, PAGE, first, MAP_PRIVATE, fd, 0);

	if (at == MAP_FAILED)
		return errno;
	if (then && mprotect(at, PAGE, then) < 0)
		return errno;
	return GRANTED;
}

static int map(int first, int then)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);

	return fd < 0 ? errno : map_fd(fd, first, then);
}

static void *map_in_thread(void *fd)
{
	return (void *)(long)map_fd(*(int *)fd, PROT_READ | PROT_EXEC, 0);
}

/* The worst that any of many threads got. */
static int map_in_threads(void)
{
	pthread_t threads[THREADS];
	int fd = open(file, O_RDONLY | O_CLOEXEC), worst = EPERM;
	void *got;

	if (fd < 0)
		return errno;
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, map_in_thread, &fd);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &got);
		if ((long)got != EPERM)
			worst = (long)got;
	}
	return worst;
}

/* A child that wants it, and a parent that lets it go on whatever stops it. */
static int woken(void)
{
	pid_t child = fork();
	int status;

	if (child == 0)
		_exit(map(PROT_READ | PROT_EXEC, 0));
	while (waitpid(child, &status, WNOHANG) == 0)
		kill(child, SIGCONT);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	file = argv[2];
	if (!strcmp(argv[1], "open"))
		return open_it();
	if (!strcmp(argv[1], "detached"))
		return open_detached(false);
	if (!strcmp(argv[1], "detached-below"))
		return open_detached(true);
	if (!strcmp(argv[1], "write"))
		return open(file, O_RDWR | O_CLOEXEC) < 0 ? errno : GRANTED;
	if (!strcmp(argv[1], "overwrite"))
		return open(file, O_WRONLY | O_CLOEXEC) < 0 ? errno : GRANTED;
	if (!strcmp(argv[1], "mmap"))
		return map(PROT_READ | PROT_EXEC, 0);
	if (!strcmp(argv[1], "mprotect"))
		return map(PROT_READ, PROT_READ | PROT_EXEC);
	if (!strcmp(argv[1], "memfd"))
		return map_fd(in_memory(), PROT_READ | PROT_EXEC, 0);
	if (!strcmp(argv[1], "threads"))
		return map_in_threads();
	if (!strcmp(argv[1], "woken"))
		return woken();
	return 2;
}
