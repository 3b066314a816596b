/* SPDX-License-Identifier: Apache-2.0 */
/* crowd N PROGRAM ARGUMENT: start the program N times at once. Prints how many were killed, and how many ended by themselves. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int count = argc == 4 ? atoi(argv[1]) : 0, killed = 0, ended = 0, status;

	for (int i = 0; i < count; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			execv(argv[2], argv + 2);
			_exit(126);
		}
		if (pid < 0)
			return 1;
	}
	while (wait(&status) > 0) {
		killed += WIFSIGNALED(status);
		ended += WIFEXITED(status);
	}
	printf("%d %d\n", killed, ended);
	return 0;
}
