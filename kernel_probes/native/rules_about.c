/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How many entries the filter table of iptables-legacy has, and in how many bytes: one getsockopt(2), where
 * reading the rules takes a helper process of 35 MB. Whoever changes rules mostly changes these.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE	/* setns */
#endif
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <linux/netlink.h>

#include "mamplus_native.h"

static int raw_socket(int family)
{
	int protocol = family == AF_NETLINK ? NETLINK_NETFILTER : IPPROTO_RAW;
	int fd = socket(family, SOCK_RAW | SOCK_CLOEXEC, protocol);

	return fd < 0 ? -errno : fd;
}

static int enter(int netns_fd)
{
	return setns(netns_fd, CLONE_NEWNET) < 0 ? -errno : 0;
}

int mamplus_rules_socket(const char *netns, int family)
{
	int own, other, fd, error;

	if (!*netns)
		return raw_socket(family);
	own = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	other = open(netns, O_RDONLY | O_CLOEXEC);
	fd = own < 0 || other < 0 ? -errno : enter(other);
	if (!fd) {
		fd = raw_socket(family);
		error = enter(own);
		if (error)
			_exit(70);	/* a thread that is in another namespace than it thinks must not go on; systemd starts it anew */
	}
	if (own >= 0)
		close(own);
	if (other >= 0)
		close(other);
	return fd;
}

int mamplus_rules_about(int socket_fd, int family, uint32_t *entries, uint32_t *bytes)
{
	struct ip6t_getinfo six = { .name = "filter" };
	struct ipt_getinfo four = { .name = "filter" };
	socklen_t size = sizeof(four);

	if (family == AF_INET6) {
		size = sizeof(six);
		if (getsockopt(socket_fd, IPPROTO_IPV6, IP6T_SO_GET_INFO, &six, &size) < 0)
			return -errno;
		*entries = six.num_entries;
		*bytes = six.size;
		return 0;
	}
	if (getsockopt(socket_fd, IPPROTO_IP, IPT_SO_GET_INFO, &four, &size) < 0)
		return -errno;
	*entries = four.num_entries;
	*bytes = four.size;
	return 0;
}
