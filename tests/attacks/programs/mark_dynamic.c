/* SPDX-License-Identifier: Apache-2.0 */
/* mark_dynamic FILE: make FILE and end with 7, as a program that needs the dynamic loader. */
#include <fcntl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc > 1)
		close(open(argv[1], O_WRONLY | O_CREAT, 0600));
	return 7;
}
