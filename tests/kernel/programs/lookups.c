/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lookups PIN HEXPACKET: run the pinned program on the packet, 100,000 times at once, again and
 * again until standard input ends; then print how often in all.
 */
#include <linux/bpf.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AT_ONCE 100000

static int bpf(int command, union bpf_attr *attr)
{
	return (int)syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static size_t read_hex(const char *text, unsigned char *bytes, size_t room)
{
	size_t count = 0;
	unsigned int byte;

	while (count < room && sscanf(text + 2 * count, "%2x", &byte) == 1)
		bytes[count++] = (unsigned char)byte;
	return count;
}

int main(int argc, char **argv)
{
	struct pollfd end = { .fd = 0, .events = POLLIN };
	unsigned char packet[256];
	union bpf_attr attr;
	long long total = 0;
	int program;

	if (argc != 3)
		return 2;
	memset(&attr, 0, sizeof(attr));
	attr.pathname = (uintptr_t)argv[1];
	program = bpf(BPF_OBJ_GET, &attr);
	if (program < 0)
		return 3;
	do {
		memset(&attr, 0, sizeof(attr));
		attr.test.prog_fd = (uint32_t)program;
		attr.test.data_in = (uintptr_t)packet;
		attr.test.data_size_in = (uint32_t)read_hex(argv[2], packet, sizeof(packet));
		attr.test.repeat = AT_ONCE;
		if (bpf(BPF_PROG_TEST_RUN, &attr))
			return 4;
		total += AT_ONCE;
	} while (!poll(&end, 1, 0));
	printf("%lld\n", total);
	return 0;
}
