/* SPDX-License-Identifier: Apache-2.0 */
/* gives FILE PROGRAM ARG...: open FILE as standard input, and become PROGRAM. Prints the errno of what failed. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int fd = argc > 2 ? open(argv[1], O_RDONLY) : -1;

	if (fd >= 0 && dup2(fd, 0) == 0)
		execv(argv[2], argv + 2);
	printf("%d\n", errno);
	return 1;
}
