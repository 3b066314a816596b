/* SPDX-License-Identifier: Apache-2.0 */
/* as_pid PID COMMAND...: run COMMAND as process number PID, which must be free. Exit code: the command's; 120: not possible. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOT_POSSIBLE 120

int main(int argc, char **argv)
{
	pid_t wanted = argc > 2 ? atoi(argv[1]) : 0, child;
	struct clone_args arguments = { .exit_signal = SIGCHLD, .set_tid = (uint64_t)(uintptr_t)&wanted, .set_tid_size = 1 };
	int status;

	child = syscall(SYS_clone3, &arguments, sizeof(arguments));
	if (child == 0) {
		execv(argv[2], argv + 2);
		_exit(NOT_POSSIBLE);
	}
	if (child != wanted || waitpid(child, &status, 0) < 0) {
		perror("as_pid");
		return NOT_POSSIBLE;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
