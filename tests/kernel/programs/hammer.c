/* SPDX-License-Identifier: Apache-2.0 */
/* hammer ADDRESS: connect(2) again and again; ends with 1 as soon as one is not refused with EPERM. */
#include <arpa/inet.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(9) };

	if (argc != 2 || inet_pton(AF_INET, argv[1], &address.sin_addr) != 1)
		return 2;
	for (;;) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		if (connect(fd, (void *)&address, sizeof(address)) == 0 || errno != EPERM)
			return 1;
		close(fd);
	}
}
