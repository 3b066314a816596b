/* SPDX-License-Identifier: Apache-2.0 */
/*
 * again TRIES PROGRAM MARKER: start the program again and again, until the marker is there.
 * What met it at worst: 1 and the errno on standard output when a start was refused, 137 when one was killed; else 0.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAUSE_US 500	/* in which somebody may change the program: while it runs nobody can */

static int try(char **argv)
{
	volatile int error = 0;	/* the child is in our memory until it has started the program */
	int status = 0;
	pid_t pid = vfork();

	if (pid == 0) {
		execv(argv[2], argv + 2);
		error = errno;
		_exit(126);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return 0;
	if (error == EPERM || error == EACCES)
		return error;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : 0;
}

int main(int argc, char **argv)
{
	int tries = argc == 4 ? atoi(argv[1]) : 0, worst = 0;

	while (tries-- > 0 && access(argv[3], F_OK)) {
		int met = try(argv);

		worst = met ? met : worst;
		usleep(PAUSE_US);
	}
	if (worst > 0 && worst < 128) {
		printf("%d\n", worst);
		return 1;
	}
	return worst;
}
