/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* SHA-256 of what lies behind a descriptor: one way of reading for the responder and mamplus-hash. */
#ifndef MAMPLUS_DIGEST_H
#define MAMPLUS_DIGEST_H

#include <stdbool.h>

#include <openssl/evp.h>

#define SHA256_LEN 32

struct digest {
	EVP_MD *md;
	EVP_MD_CTX *context;
	unsigned char *block;
};

/* Allocates all that is ever needed, so that nothing is allocated, loaded or configured later. False: no memory. */
bool digest_open(struct digest *digest);

/* Hash `fd` from its beginning; its offset is not used. After each block `go_on` is asked (NULL: never); false gives up. */
bool digest_fd(struct digest *digest, int fd, bool (*go_on)(void *argument), void *argument, unsigned char *sha256);

#endif
