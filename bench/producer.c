/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Do one thing many times inside a cgroup, and print what it costs in ns each.
 *
 *   producer CGROUP exec COUNT PROGRAM   fork, exec, wait
 *   producer CGROUP connect COUNT        connect(2) over TCP to a listener of our own on loopback
 *   producer CGROUP open COUNT FILE      open(2) for reading, and close(2)
 *
 * All time is measured here: no interpreter stands between two starts.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void join(const char *cgroup)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, "0", 1) != 1)
		err(1, "%s", path);
	close(fd);
}

static long long exec_ns(long count, const char *program)
{
	long long begin = now_ns();
	int status;

	while (count--) {
		pid_t pid = fork();

		if (pid < 0)
			err(1, "fork");
		if (pid == 0) {
			execl(program, program, (char *)NULL);
			_exit(127);
		}
		if (waitpid(pid, &status, 0) != pid || status != 0)
			errx(1, "%s ended with wait status %#x", program, status);
	}
	return now_ns() - begin;
}

static long long open_ns(long count, const char *file)
{
	long long begin = now_ns();

	while (count--) {
		int fd = open(file, O_RDONLY | O_CLOEXEC);

		if (fd < 0)
			err(1, "%s", file);
		close(fd);
	}
	return now_ns() - begin;
}

/* The listener takes each connection at once; a reset leaves no TIME_WAIT behind. */
static long long connect_ns(long count)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct linger reset = { .l_onoff = 1 };
	socklen_t size = sizeof(address);
	long long total = 0, begin;
	int listener = socket(AF_INET, SOCK_STREAM, 0), client, server;

	if (bind(listener, (void *)&address, size) || listen(listener, 1) ||
	    getsockname(listener, (void *)&address, &size))
		err(1, "listen");
	while (count--) {
		client = socket(AF_INET, SOCK_STREAM, 0);
		begin = now_ns();
		if (connect(client, (void *)&address, size))
			err(1, "connect");
		total += now_ns() - begin;
		server = accept(listener, NULL, NULL);
		setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(client);
		close(server);
	}
	return total;
}

int main(int argc, char **argv)
{
	long count = argc > 3 ? atol(argv[3]) : 0;
	long long total;

	if (count <= 0)
		errx(2, "want: producer CGROUP exec COUNT PROGRAM | connect COUNT | open COUNT FILE");
	join(argv[1]);
	if (strcmp(argv[2], "exec") == 0 && argc == 5)
		total = exec_ns(count, argv[4]);
	else if (strcmp(argv[2], "open") == 0 && argc == 5)
		total = open_ns(count, argv[4]);
	else if (strcmp(argv[2], "connect") == 0 && argc == 4)
		total = connect_ns(count);
	else
		errx(2, "unknown work %s", argv[2]);
	printf("%.1f\n", (double)total / count);
	return 0;
}
