/* SPDX-License-Identifier: Apache-2.0 */
/* opener FILE: opens it for reading; exit code 0, or the errno. */
#include <errno.h>
#include <fcntl.h>

int main(int argc, char **argv)
{
	return argc == 2 && open(argv[1], O_RDONLY) >= 0 ? 0 : errno;
}
