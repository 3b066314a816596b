/* SPDX-License-Identifier: Apache-2.0 */
/* waker PROGRAM ARGUMENT: start it, and send it SIGCONT without end, as an attacker would that is held. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	pid_t pid = fork();
	int status = 0;

	if (pid == 0) {
		execv(argv[1], argv + 1);
		_exit(126);
	}
	while (waitpid(pid, &status, WNOHANG) == 0)
		kill(pid, SIGCONT);
	(void)argc;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
