/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ed25519 signatures (RFC 8032) by the libcrypto that Python's ssl has mapped already.
 *
 * The agent signs a request every minute or so, and must stay small: the cryptography package,
 * which makes the key at enrolment, brings a libcrypto of its own and costs 6 MB resident.
 */
#ifndef MAMPLUS_DEVICE_KEY_H
#define MAMPLUS_DEVICE_KEY_H

#include <stddef.h>

/* cffi: begin */
struct mamplus_key;

/* NULL: `pem` is no unencrypted Ed25519 private key (PKCS#8). */
struct mamplus_key *mamplus_key_open(const char *pem, size_t length);
/* 0, or -1 when libcrypto refuses. `signature`: 64 bytes. */
int mamplus_key_sign(struct mamplus_key *key, const unsigned char *data, size_t length, unsigned char *signature);
/* 0, or -1. `public_key`: 32 bytes. */
int mamplus_key_public(struct mamplus_key *key, unsigned char *public_key);
/* 1: `signature`, 64 bytes, is that of `data` by the key with these 32 raw bytes; else 0. */
int mamplus_signature_fits(const unsigned char *public_key, const unsigned char *data, size_t length, const unsigned char *signature);
void mamplus_key_close(struct mamplus_key *key);
/* cffi: end */

#endif
