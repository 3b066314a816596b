/* SPDX-License-Identifier: Apache-2.0 */
/* burst N: fork N processes, one after the other, that end at once. */
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int rest = argc == 2 ? atoi(argv[1]) : 0;

	while (rest-- > 0) {
		pid_t pid = vfork();	/* nothing is copied: quick */

		if (pid == 0)
			_exit(0);
		if (pid < 0 || waitpid(pid, NULL, 0) != pid)
			return 1;
	}
	return 0;
}
