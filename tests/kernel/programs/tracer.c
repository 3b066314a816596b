/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts a program and, when it is stopped, attaches as its tracer and lets it go on.
 *
 * usage: tracer PROGRAM ARGUMENT
 * Ends as the program ended: its exit code, or 128 + its signal.
 */
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef ATTACH
#define ATTACH PTRACE_ATTACH
#endif

int main(int argc, char **argv)
{
	int status;
	pid_t pid;

	if (argc != 3)
		return 2;
	pid = fork();
	if (pid == 0) {
		execl(argv[1], argv[1], argv[2], (char *)NULL);
		_exit(126);
	}
	if (waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status)) {
		ptrace(ATTACH, pid, 0, 0);
		while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status))
			ptrace(PTRACE_CONT, pid, 0, 0);
	}
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
