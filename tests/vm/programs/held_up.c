/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load of tests/vm/no_deadlock.py, as one small static program: in an emulated machine a Python would take longer
 * than what it measures.
 *
 *     held_up log SOCKET FILE                       a stand-in for syslogd: opens FILE anew for every line, then answers
 *     held_up load SOCKET TINY DIRECTORY COUNT N    starts COUNT programs of new content, N at a time, and logs a line each
 *
 * SOCKET is a name in the abstract namespace. Who starts waits for who logs. `load` prints the slowest line and the
 * slowest start in milliseconds, and how many programs ended with 7.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STARTED 7	/* of tiny.c */
#define TINY_MAX (64 * 1024)
#define AT_ONCE_MAX 64

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static int bound(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	memcpy(address.sun_path + 1, name, strlen(name));
	if (fd < 0 || bind(fd, (void *)&address, sizeof(sa_family_t) + 1 + strlen(name)) < 0)
		die("bind");
	return fd;
}

static double now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static _Noreturn void log_lines(const char *name, const char *file)
{
	int sock = bound(name);
	char line[256];

	puts("ready");
	fflush(stdout);
	for (;;) {
		struct sockaddr_un from;
		socklen_t length = sizeof(from);
		ssize_t got = recvfrom(sock, line, sizeof(line), 0, (void *)&from, &length);
		int fd;

		close(open("/etc/passwd", O_RDONLY | O_CLOEXEC));	/* as who looks up a user does */
		fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
		if (got < 0 || fd < 0 || write(fd, line, got) != got)
			die("log");
		close(fd);
		(void)sendto(sock, "ok", 2, 0, (void *)&from, length);
	}
}

static double log_line(int sock, const char *name)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	double begun = now_ms();
	char answer[8];

	memcpy(to.sun_path + 1, name, strlen(name));
	if (sendto(sock, "a line\n", 7, 0, (void *)&to, sizeof(sa_family_t) + 1 + strlen(name)) < 0 ||
	    recv(sock, answer, sizeof(answer), 0) < 0)
		die("log line");
	return now_ms() - begun;
}

static char tiny[TINY_MAX];
static size_t tiny_size;

static void read_tiny(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, tiny, sizeof(tiny) - 8);

	if (got <= 0)
		die(path);
	close(fd);
	tiny_size = got + 8;
}

/* A program that nobody has hashed, started. */
static pid_t start_new(const char *directory, int number)
{
	char path[512];
	pid_t child;
	int fd;

	snprintf(path, sizeof(path), "%s/%d-%d", directory, (int)getpid(), number);
	if (getrandom(tiny + tiny_size - 8, 8, 0) != 8)
		die("random");
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
	if (fd < 0 || write(fd, tiny, tiny_size) != (ssize_t)tiny_size)
		die(path);
	close(fd);
	child = fork();
	if (child == 0) {
		execl(path, path, NULL);
		_exit(errno);
	}
	return child;
}

static int load(const char *name, const char *directory, int count, int at_once)
{
	double slowest_line = 0, slowest_start = 0, begun[AT_ONCE_MAX];
	pid_t children[AT_ONCE_MAX];
	int sock, started = 0, status;
	char own[64];

	snprintf(own, sizeof(own), "%s-%d", name, (int)getpid());
	sock = bound(own);
	for (int done = 0; done < count; done += at_once) {
		for (int i = 0; i < at_once; i++) {
			double took;

			begun[i] = now_ms();
			children[i] = start_new(directory, done + i);
			took = log_line(sock, name);
			slowest_line = took > slowest_line ? took : slowest_line;
		}
		for (int i = 0; i < at_once; i++) {
			if (waitpid(children[i], &status, 0) < 0)
				die("wait");
			started += WIFEXITED(status) && WEXITSTATUS(status) == STARTED;
			slowest_start = now_ms() - begun[i] > slowest_start ? now_ms() - begun[i] : slowest_start;
		}
	}
	printf("%.0f %.0f %d\n", slowest_line, slowest_start, started);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 4 && strcmp(argv[1], "log") == 0)
		log_lines(argv[2], argv[3]);
	if (argc == 7 && strcmp(argv[1], "load") == 0 && atoi(argv[6]) <= AT_ONCE_MAX) {
		read_tiny(argv[3]);
		return load(argv[2], argv[4], atoi(argv[5]), atoi(argv[6]));
	}
	fprintf(stderr, "usage: held_up log SOCKET FILE | held_up load SOCKET TINY DIRECTORY COUNT N\n");
	return 2;
}
