/* SPDX-License-Identifier: Apache-2.0 */
/*
 * talk tcp|udp ADDRESS PORT: connect(2), or sendto(2) one byte without a connection.
 * talk dns ADDRESS NAME: sendto(2) a question for NAME to port 53.
 * An IPv6 ADDRESS, mapped ones too, is used through an AF_INET6 socket. The exit code is errno, 0 for success.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static socklen_t make_address(const char *text, int port, struct sockaddr_storage *out)
{
	struct sockaddr_in *in4 = (void *)out;
	struct sockaddr_in6 *in6 = (void *)out;

	memset(out, 0, sizeof(*out));
	if (inet_pton(AF_INET, text, &in4->sin_addr) == 1) {
		in4->sin_family = AF_INET;
		in4->sin_port = htons(port);
		return sizeof(*in4);
	}
	inet_pton(AF_INET6, text, &in6->sin6_addr);
	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(port);
	return sizeof(*in6);
}

static size_t make_question(const char *name, unsigned char *out)
{
	static const unsigned char head[12] = { 0, 7, 1, 0, 0, 1 };
	unsigned char *at = out + sizeof(head);

	memcpy(out, head, sizeof(head));
	while (*name) {
		size_t length = strcspn(name, ".");

		*at++ = length;
		memcpy(at, name, length);
		at += length;
		name += length + (name[length] == '.');
	}
	memcpy(at, "\0\0\1\0\1", 5);
	return at + 5 - out;
}

int main(int argc, char **argv)
{
	struct sockaddr_storage address;
	unsigned char data[512] = "x";
	size_t size = 1;
	socklen_t length;
	int dns, fd;

	if (argc != 4)
		return 255;
	dns = strcmp(argv[1], "dns") == 0;
	length = make_address(argv[2], dns ? 53 : atoi(argv[3]), &address);
	if (dns)
		size = make_question(argv[3], data);
	fd = socket(address.ss_family, strcmp(argv[1], "tcp") == 0 ? SOCK_STREAM : SOCK_DGRAM, 0);
	if (strcmp(argv[1], "tcp") == 0)
		return connect(fd, (void *)&address, length) ? errno : 0;
	return sendto(fd, data, size, 0, (void *)&address, length) < 0 ? errno : 0;
}
