/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts a program and tries a connection, again and again, for a number of seconds.
 *
 * usage: flood SECONDS PROGRAM IPV4 PORT
 * Prints "STARTS CONNECTS": how many programs were started and have ended, and how many
 * connect(2) calls were made. Both are bounded: at most a million of each.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST 1000000L

extern char **environ;

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	long starts = 0, connects = 0;
	double end;

	if (argc != 5 || inet_pton(AF_INET, argv[3], &to.sin_addr) != 1)
		return 2;
	to.sin_port = htons((unsigned short)atoi(argv[4]));
	end = now_s() + atof(argv[1]);
	while (now_s() < end && starts < MOST) {
		char *child[] = { argv[2], NULL };
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		pid_t pid;

		if (fd >= 0) {
			(void)!connect(fd, (struct sockaddr *)&to, sizeof(to));
			connects++;
			close(fd);
		}
		if (posix_spawn(&pid, argv[2], NULL, NULL, child, environ) == 0) {
			waitpid(pid, NULL, 0);
			starts++;
		}
	}
	printf("%ld %ld\n", starts, connects);
	return 0;
}
