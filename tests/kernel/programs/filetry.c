/* SPDX-License-Identifier: Apache-2.0 */
/*
 * filetry WAY PATH [OTHER]: one operation on a file by one way. Ends with errno, 0 when it was done.
 *
 * Ways that begin with "held-" open PATH first (OTHER: with which access, r or w), say "open" on
 * stdout, wait for a byte on stdin, and only then do it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#define SETUP_FAILED 120	/* what comes before the operation did not work: nothing was tried */

static const char *path, *other;

static int result(long done)
{
	return done < 0 ? errno : 0;
}

static void must(long done, const char *what)
{
	if (done < 0) {
		perror(what);
		exit(SETUP_FAILED);
	}
}

static int opened(int flags)
{
	return result(open(path, flags | O_CLOEXEC, 0600));
}

/* A file of our own in the working directory, with something in it. */
static int source(void)
{
	int fd = open(".", O_TMPFILE | O_RDWR, 0600);

	must(fd, "O_TMPFILE");
	must(write(fd, "spoiled", 7), "write");
	must(lseek(fd, 0, SEEK_SET), "lseek");
	return fd;
}

/* --- plain calls ----------------------------------------------------------------------------- */

static int do_read(void) { return opened(O_RDONLY); }
static int do_write(void) { return opened(O_WRONLY); }
static int do_append(void) { return opened(O_WRONLY | O_APPEND); }
static int do_read_write(void) { return opened(O_RDWR); }
static int do_open_truncate(void) { return opened(O_RDWR | O_TRUNC); }
static int do_create(void) { return opened(O_WRONLY | O_CREAT | O_EXCL); }
static int do_truncate(void) { return result(truncate(path, 0)); }
static int do_unlink(void) { return result(unlink(path)); }
static int do_rmdir(void) { return result(rmdir(path)); }
static int do_rename(void) { return result(rename(path, other)); }
static int do_exchange(void) { return result(renameat2(AT_FDCWD, path, AT_FDCWD, other, RENAME_EXCHANGE)); }
static int do_link(void) { return result(link(path, other)); }
static int do_symlink(void) { return result(symlink("elsewhere", path)); }
static int do_mkdir(void) { return result(mkdir(path, 0700)); }
static int do_mknod(void) { return result(mknod(path, S_IFIFO | 0600, 0)); }
static int do_chmod(void) { return result(chmod(path, 0777)); }
static int do_chown(void) { return result(chown(path, 1, 1)); }
static int do_times(void) { return result(utimensat(AT_FDCWD, path, NULL, 0)); }
static int do_xattr(void) { return result(setxattr(path, "user.mamplus", "x", 1, 0)); }
static int do_noxattr(void) { return result(removexattr(path, "user.kept")); }

static int do_acl(void)
{
	/* posix_acl_xattr: version 2; user::rw-, group::r--, other::rwx */
	static const uint32_t acl[] = { 2, 0x00060001, ~0U, 0x00040004, ~0U, 0x00070020, ~0U };

	return result(setxattr(path, "system.posix_acl_access", acl, sizeof(acl), 0));
}

static int do_chattr(void)
{
	int fd = open(path, O_RDONLY), flags = 0;

	must(fd, "open");
	must(ioctl(fd, FS_IOC_GETFLAGS, &flags), "FS_IOC_GETFLAGS");
	flags ^= FS_NOATIME_FL;
	return result(ioctl(fd, FS_IOC_SETFLAGS, &flags));
}

static int do_tmpfile_link(void)
{
	char name[64];
	int fd = source();

	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	return result(linkat(AT_FDCWD, name, AT_FDCWD, path, AT_SYMLINK_FOLLOW));
}

static int do_bind_over(void) { return result(mount(other, path, NULL, MS_BIND, NULL)); }

static int do_private_bind_over(void) { return result(mount(other, path, NULL, MS_BIND | MS_PRIVATE, NULL)); }

static int do_move_over(void)
{
	int tree = syscall(SYS_open_tree, AT_FDCWD, other, OPEN_TREE_CLONE);

	must(tree, "open_tree");
	return result(syscall(SYS_move_mount, tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH));
}

/* --- PATH is a mount ------------------------------------------------------------------------- */

static int do_umount(void) { return result(umount2(path, 0)); }
static int do_umount_lazily(void) { return result(umount2(path, MNT_DETACH)); }
static int do_mount_move(void) { return result(mount(path, other, NULL, MS_MOVE, NULL)); }

static int do_move_away(void)
{
	int tree = open(path, O_PATH);

	must(tree, "open");
	return result(syscall(SYS_move_mount, tree, "", AT_FDCWD, other, MOVE_MOUNT_F_EMPTY_PATH));
}

/* From a namespace where it is private; what it lies in is shared, so it goes everywhere. */
static int do_umount_elsewhere(void)
{
	must(unshare(CLONE_NEWNS), "unshare");
	must(mount(NULL, path, NULL, MS_PRIVATE, NULL), "private");
	return do_umount_lazily();
}

/* Another root for the namespace, OTHER, and back again: only where the machine is nobody's (tests/vm). */
static int do_pivot(void)
{
	int old = open("/", O_PATH);

	must(getenv("MAMPLUS_VM") ? old : -1, "a virtual machine");
	must(mount("mptest", other, "tmpfs", 0, NULL), "mount");
	must(mount(NULL, other, NULL, MS_PRIVATE, NULL), "private");
	must(chdir(other), "chdir");
	if (syscall(SYS_pivot_root, ".", "."))
		return errno;
	must(fchdir(old), "fchdir");
	must(syscall(SYS_pivot_root, ".", "."), "pivot back");
	return result(umount2(".", MNT_DETACH));
}

/* --- other ways to the same file ------------------------------------------------------------- */

static int do_proc_root(void)
{
	char name[4096];

	snprintf(name, sizeof(name), "/proc/self/root%s", path);
	return result(open(name, O_WRONLY));
}

/* A descriptor that was opened for reading, opened again. */
static int do_reopen(void)
{
	char name[64];
	int fd = open(path, O_RDONLY);

	must(fd, "open");
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	return result(open(name, O_WRONLY));
}

static int do_handle(void)
{
	static union { struct file_handle head; char room[sizeof(struct file_handle) + MAX_HANDLE_SZ]; } handle;
	int mount_id, directory = open(other, O_RDONLY | O_DIRECTORY);

	must(directory, "open");
	handle.head.handle_bytes = MAX_HANDLE_SZ;
	must(name_to_handle_at(AT_FDCWD, path, &handle.head, &mount_id, 0), "name_to_handle_at");
	return result(open_by_handle_at(directory, &handle.head, O_WRONLY));
}

/* PATH's directory, bound to OTHER in namespaces of our own. */
static int do_user_namespace(void)
{
	char name[4096];
	const char *last = strrchr(path, '/');

	must(unshare(CLONE_NEWUSER | CLONE_NEWNS), "unshare");
	snprintf(name, sizeof(name), "%.*s", (int)(last - path), path);
	must(mount(name, other, NULL, MS_BIND, NULL), "mount");
	snprintf(name, sizeof(name), "%s%s", other, last);
	return result(open(name, O_WRONLY));
}

static int do_detached_mount(void)
{
	char name[4096];
	const char *last = strrchr(path, '/');
	int tree;

	snprintf(name, sizeof(name), "%.*s", (int)(last - path), path);
	tree = syscall(SYS_open_tree, AT_FDCWD, name, OPEN_TREE_CLONE);
	must(tree, "open_tree");
	return result(openat(tree, last + 1, O_WRONLY));
}

static int do_chroot(void)
{
	char name[4096];
	const char *last = strrchr(path, '/');

	snprintf(name, sizeof(name), "%.*s", (int)(last - path), path);
	must(chroot(name), "chroot");
	return result(open(last, O_WRONLY));
}

/* OTHER is the mount point of an overlay whose upper directory is PATH's: its file is PATH. */
static int do_overlay(void)
{
	char name[4096], options[8192];
	const char *last = strrchr(path, '/');

	must(unshare(CLONE_NEWNS), "unshare");
	must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
	snprintf(options, sizeof(options), "lowerdir=%s/lower,upperdir=%.*s,workdir=%s/work", other, (int)(last - path),
		 path, other);
	snprintf(name, sizeof(name), "%s/merged", other);
	must(mount("overlay", name, "overlay", 0, options), "overlay");
	snprintf(name, sizeof(name), "%s/merged%s", other, last);
	return result(open(name, O_WRONLY));
}

/* --- io_uring -------------------------------------------------------------------------------- */

static int uring(struct io_uring_sqe *wanted)
{
	struct io_uring_params params = { 0 };
	int fd = syscall(SYS_io_uring_setup, 2, &params);
	char *sq, *cq;
	struct io_uring_sqe *entries;

	must(fd, "io_uring_setup");
	sq = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
	cq = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_CQ_RING);
	entries = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || entries == MAP_FAILED)
		must(-1, "io_uring");
	entries[0] = *wanted;
	((uint32_t *)(sq + params.sq_off.array))[0] = 0;
	__atomic_store_n((uint32_t *)(sq + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	must(syscall(SYS_io_uring_enter, fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0), "io_uring_enter");
	int done = ((struct io_uring_cqe *)(cq + params.cq_off.cqes))[0].res;
	return done < 0 ? -done : 0;
}

static int do_uring_open(void)
{
	return uring(&(struct io_uring_sqe){ .opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (uintptr_t)path,
					     .open_flags = O_WRONLY, .flags = IOSQE_ASYNC });
}

static int do_uring_unlink(void)
{
	return uring(&(struct io_uring_sqe){ .opcode = IORING_OP_UNLINKAT, .fd = AT_FDCWD, .addr = (uintptr_t)path });
}

static int do_uring_rename(void)
{
	return uring(&(struct io_uring_sqe){ .opcode = IORING_OP_RENAMEAT, .fd = AT_FDCWD, .addr = (uintptr_t)path,
					     .addr2 = (uintptr_t)other, .len = AT_FDCWD });
}

static int do_uring_link(void)
{
	return uring(&(struct io_uring_sqe){ .opcode = IORING_OP_LINKAT, .fd = AT_FDCWD, .addr = (uintptr_t)path,
					     .addr2 = (uintptr_t)other, .len = AT_FDCWD });
}

/* --- through a descriptor that is older than the rule, inherited or passed on ------------------- */

static int held_write(int fd) { return result(write(fd, "spoiled", 7)); }
static int held_truncate(int fd) { return result(ftruncate(fd, 0)); }
static int held_chmod(int fd) { return result(fchmod(fd, 0777)); }
static int held_allocate(int fd) { return result(fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, 4096)); }
static int held_sendfile(int fd) { return result(sendfile(fd, source(), NULL, 7)); }
static int held_copy(int fd) { return result(copy_file_range(source(), NULL, fd, NULL, 7, 0)); }
static int held_read(int fd) { char one; return result(pread(fd, &one, 1, 0)); }

static int held_splice(int fd)
{
	int ends[2];

	must(pipe(ends), "pipe");
	must(write(ends[1], "spoiled", 7), "write");
	return result(splice(ends[0], NULL, fd, NULL, 7, 0));
}

static int held_uring_write(int fd)
{
	return uring(&(struct io_uring_sqe){ .opcode = IORING_OP_WRITE, .fd = fd, .addr = (uintptr_t)"spoiled", .len = 7,
					     .flags = IOSQE_ASYNC });
}

static int mapped(int fd, int protection)
{
	return mmap(NULL, 4096, protection, MAP_SHARED, fd, 0) == MAP_FAILED ? errno : 0;
}

static int held_map(int fd) { return mapped(fd, PROT_READ | PROT_WRITE); }
static int held_map_read(int fd) { return mapped(fd, PROT_READ); }

static void *early_map;
static int held_protect(int fd) { (void)fd; return result(mprotect(early_map, 4096, PROT_READ | PROT_WRITE)); }

/* --------------------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	int (*plain)(void);
	int (*held)(int fd);
} ways[] = {
	{ "read", do_read, NULL }, { "write", do_write, NULL }, { "append", do_append, NULL },
	{ "read-write", do_read_write, NULL }, { "open-truncate", do_open_truncate, NULL }, { "create", do_create, NULL },
	{ "truncate", do_truncate, NULL }, { "unlink", do_unlink, NULL }, { "rmdir", do_rmdir, NULL },
	{ "rename", do_rename, NULL }, { "exchange", do_exchange, NULL }, { "link", do_link, NULL },
	{ "symlink", do_symlink, NULL }, { "mkdir", do_mkdir, NULL }, { "mknod", do_mknod, NULL },
	{ "chmod", do_chmod, NULL }, { "chown", do_chown, NULL }, { "times", do_times, NULL },
	{ "xattr", do_xattr, NULL }, { "noxattr", do_noxattr, NULL }, { "acl", do_acl, NULL },
	{ "chattr", do_chattr, NULL }, { "tmpfile-link", do_tmpfile_link, NULL }, { "bind-over", do_bind_over, NULL },
	{ "private-bind-over", do_private_bind_over, NULL },
	{ "umount", do_umount, NULL }, { "umount-lazily", do_umount_lazily, NULL }, { "move-away", do_move_away, NULL },
	{ "mount-move", do_mount_move, NULL }, { "umount-elsewhere", do_umount_elsewhere, NULL },
	{ "pivot", do_pivot, NULL },
	{ "move-over", do_move_over, NULL }, { "proc-root", do_proc_root, NULL }, { "reopen", do_reopen, NULL },
	{ "handle", do_handle, NULL }, { "user-namespace", do_user_namespace, NULL },
	{ "detached-mount", do_detached_mount, NULL }, { "chroot", do_chroot, NULL }, { "overlay", do_overlay, NULL },
	{ "uring-open", do_uring_open, NULL }, { "uring-unlink", do_uring_unlink, NULL },
	{ "uring-rename", do_uring_rename, NULL }, { "uring-link", do_uring_link, NULL },
	{ "held-write", NULL, held_write }, { "held-truncate", NULL, held_truncate }, { "held-chmod", NULL, held_chmod },
	{ "held-allocate", NULL, held_allocate }, { "held-sendfile", NULL, held_sendfile }, { "held-copy", NULL, held_copy },
	{ "held-splice", NULL, held_splice }, { "held-uring-write", NULL, held_uring_write }, { "held-map", NULL, held_map },
	{ "held-protect", NULL, held_protect }, { "held-read", NULL, held_read }, { "held-map-read", NULL, held_map_read },
};

static int hold(int (*then)(int fd))
{
	int fd = open(path, other && *other == 'r' ? O_RDONLY : O_RDWR);
	char go;

	must(fd, "open");
	if (then == held_protect) {
		early_map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
		must(early_map == MAP_FAILED ? -1 : 0, "mmap");
	}
	must(write(STDOUT_FILENO, "open\n", 5), "stdout");
	must(read(STDIN_FILENO, &go, 1), "stdin");
	return then(fd);
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return SETUP_FAILED;
	path = argv[2];
	other = argc > 3 ? argv[3] : NULL;
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		if (strcmp(ways[i].name, argv[1]) == 0)
			return ways[i].plain ? ways[i].plain() : hold(ways[i].held);
	}
	return SETUP_FAILED;
}
