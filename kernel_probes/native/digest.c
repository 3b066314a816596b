/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Reading and hashing at the speed of the processor.
 *
 * Measured against `openssl speed sha256` on the same core, file in the page cache: blocks of 16 KiB 80 %, of
 * 128 or 256 KiB 86 %, of 1 MiB 83 % (larger than the second cache). The rest is the copy out of the page cache;
 * a mapping would save it, and end the process with SIGBUS when somebody cuts the file short.
 *
 * A large file is read with RWF_DONTCACHE (Linux 6.14, by file system): what it brought into the page cache leaves
 * it again, what was there stays. Without that flag nothing is dropped: POSIX_FADV_DONTNEED would take pages away
 * from those who use them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "digest.h"

#define BLOCK (128 * 1024)
#define PAGE 4096
#define LARGE_BYTES (64LL << 20)
#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE 0x00000080
#endif

bool digest_open(struct digest *digest)
{
	unsigned char unused[EVP_MAX_MD_SIZE];

	digest->md = EVP_MD_fetch(NULL, "SHA256", NULL);	/* once: an implicit fetch at every file takes a lock */
	digest->context = EVP_MD_CTX_new();
	digest->block = aligned_alloc(PAGE, BLOCK);
	/* The first use sets up what later ones need. */
	return digest->md && digest->context && digest->block && EVP_DigestInit_ex(digest->context, digest->md, NULL) &&
	       EVP_DigestFinal_ex(digest->context, unused, NULL);
}

static ssize_t read_at(int fd, unsigned char *block, off_t at, int *flags)
{
	struct iovec into = { .iov_base = block, .iov_len = BLOCK };
	ssize_t got;

	do {
		got = preadv2(fd, &into, 1, at, *flags);
		if (got < 0 && *flags && (errno == EOPNOTSUPP || errno == EINVAL)) {
			*flags = 0;	/* not on this kernel or file system */
			got = preadv2(fd, &into, 1, at, 0);
		}
	} while (got < 0 && errno == EINTR);
	return got;
}

static int flags_for(int fd)
{
	struct stat stat;

	if (fstat(fd, &stat) == 0 && stat.st_size < LARGE_BYTES)
		return 0;
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);	/* twice the readahead */
	return RWF_DONTCACHE;
}

bool digest_fd(struct digest *digest, int fd, bool (*go_on)(void *argument), void *argument, unsigned char *sha256)
{
	int flags = flags_for(fd);
	off_t at = 0;
	ssize_t got;

	if (!EVP_DigestInit_ex(digest->context, digest->md, NULL))
		return false;
	while ((got = read_at(fd, digest->block, at, &flags)) > 0) {
		if (!EVP_DigestUpdate(digest->context, digest->block, got) || (go_on && !go_on(argument)))
			return false;
		at += got;
	}
	return got == 0 && EVP_DigestFinal_ex(digest->context, sha256, NULL);
}
