/* SPDX-License-Identifier: Apache-2.0 */
/* enter CGROUP PROGRAM [ARGUMENT...]: join the cgroup, then become the program. 126: it did not start. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char path[512];
	int fd;

	snprintf(path, sizeof(path), "%s/cgroup.procs", argv[1]);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (argc < 3 || fd < 0 || write(fd, "0", 1) != 1)
		return 125;
	execv(argv[2], argv + 2);
	return 126;
}
