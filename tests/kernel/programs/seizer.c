/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seizer PROGRAM ARGUMENT: start it and, when it is stopped, seize it: that sends no signal. Then let it go on.
 * Ends as the program ended: its exit code, or 128 + its signal.
 */
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

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
		if (ptrace(PTRACE_SEIZE, pid, 0, 0)) {
			while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status))
				;
		}
		while (!WIFSIGNALED(status) && waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status))
			ptrace(PTRACE_CONT, pid, 0, 0);
	}
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
