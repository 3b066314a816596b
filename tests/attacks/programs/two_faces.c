/* SPDX-License-Identifier: Apache-2.0 */
/*
 * two_faces DIRECTORY GOOD MARKER [LOADER] <BAD: a file system (FUSE, without libfuse) with one file, `program`.
 * The process that starts it, or maps it with LOADER (own_loader), reads BAD from it; everybody else reads GOOD, past
 * the page cache, so that nothing of it is there when the other one is started. Ends as the program ended; 77: no FUSE
 * here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define NO_FUSE 77
#define ROOT 1
#define FILE_NODE 2
#define MOST_BYTES (1 << 20)
#define LONG_S 3600

struct content {
	char body[MOST_BYTES];
	ssize_t size;
};

static struct content good, bad;
static char request[MOST_BYTES + 4096];
static int fuse;
static pid_t child;

static void slurp(int fd, struct content *into)
{
	into->size = read(fd, into->body, MOST_BYTES);
	if (into->size < 0)
		exit(2);
}

static void reply(const struct fuse_in_header *to, int error, const void *data, size_t size)
{
	struct fuse_out_header head = { .len = sizeof(head) + size, .error = -error, .unique = to->unique };
	struct iovec parts[] = { { &head, sizeof(head) }, { (void *)data, size } };

	(void)!writev(fuse, parts, 2);
}

static void fill_attr(struct fuse_attr *attr, unsigned long node)
{
	memset(attr, 0, sizeof(*attr));
	attr->ino = node;
	attr->mode = node == ROOT ? S_IFDIR | 0755 : S_IFREG | 0755;
	attr->nlink = 1;
	attr->size = node == ROOT ? 0 : good.size;
	attr->ctime = attr->mtime = 1000000000;
}

static void lookup(const struct fuse_in_header *in, const char *name)
{
	struct fuse_entry_out out = { .nodeid = FILE_NODE, .entry_valid = LONG_S, .attr_valid = LONG_S };

	if (strcmp(name, "program")) {
		reply(in, ENOENT, NULL, 0);
		return;
	}
	fill_attr(&out.attr, FILE_NODE);
	reply(in, 0, &out, sizeof(out));
}

static void read_file(const struct fuse_in_header *in, const struct fuse_read_in *what)
{
	const struct content *from = (pid_t)in->pid == child ? &bad : &good;
	size_t left = what->offset < (unsigned long)from->size ? from->size - what->offset : 0;

	reply(in, 0, from->body + what->offset, left < what->size ? left : what->size);
}

static void begin(const struct fuse_in_header *in, const struct fuse_init_in *what)
{
	struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION };

	out.max_readahead = what->max_readahead;
	out.max_write = 4096;
	reply(in, 0, &out, sizeof(out));
}

static void attributes(const struct fuse_in_header *in)
{
	struct fuse_attr_out out = { .attr_valid = LONG_S };

	fill_attr(&out.attr, in->nodeid);
	reply(in, 0, &out, sizeof(out));
}

static void open_file(const struct fuse_in_header *in)
{
	struct fuse_open_out out = { .open_flags = (pid_t)in->pid == child ? 0 : FOPEN_DIRECT_IO };

	reply(in, 0, &out, sizeof(out));
}

static void answer(const struct fuse_in_header *in, const void *body)
{
	static const struct fuse_statfs_out space = { .st = { .bsize = 4096, .namelen = 255 } };

	switch (in->opcode) {
	case FUSE_INIT: begin(in, body); break;
	case FUSE_LOOKUP: lookup(in, body); break;
	case FUSE_GETATTR: attributes(in); break;
	case FUSE_OPEN: open_file(in); break;
	case FUSE_READ: read_file(in, body); break;
	case FUSE_STATFS: reply(in, 0, &space, sizeof(space)); break;
	case FUSE_FLUSH:
	case FUSE_RELEASE: reply(in, 0, NULL, 0); break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT: break;
	default: reply(in, ENOSYS, NULL, 0);
	}
}

static void ended(int signal)
{
	int status;

	(void)signal;
	if (waitpid(child, &status, WNOHANG) == child)
		_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

static void start(const char *directory, char *marker, const char *loader)
{
	char path[4096], *started[] = { "program", marker, NULL }, *mapped[] = { "loader", "map", path, marker, NULL };

	child = fork();
	if (child)
		return;
	child = getpid();
	snprintf(path, sizeof(path), "%s/program", directory);
	execv(loader ? loader : path, loader ? mapped : started);
	printf("%d\n", errno);
	fflush(stdout);
	_exit(1);
}

int main(int argc, char **argv)
{
	char options[128];

	if (argc != 4 && argc != 5)
		return 2;
	slurp(open(argv[2], O_RDONLY | O_CLOEXEC), &good);
	slurp(STDIN_FILENO, &bad);
	fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fuse);
	if (fuse < 0 || unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("two_faces", argv[1], "fuse", 0, options))
		return NO_FUSE;
	signal(SIGCHLD, ended);
	start(argv[1], argv[3], argv[4]);
	for (;;) {
		ssize_t got = read(fuse, request, sizeof(request));

		if (got >= (ssize_t)sizeof(struct fuse_in_header))
			answer((void *)request, request + sizeof(struct fuse_in_header));
		else if (got < 0 && errno == ENODEV)
			return 3;
	}
}
