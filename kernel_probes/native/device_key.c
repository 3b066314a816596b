/* SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include "device_key.h"

#define PUBLIC_BYTES 32
#define SIGNATURE_BYTES 64

/* An EVP_PKEY under our name, so that cffi needs none of OpenSSL's. */
static EVP_PKEY *pkey(struct mamplus_key *key)
{
	return (EVP_PKEY *)key;
}

/* Never ask a terminal for a passphrase: a key that wants one is not ours. */
static int no_passphrase(char *buffer, int size, int writing, void *user)
{
	(void)buffer, (void)size, (void)writing, (void)user;
	return -1;
}

struct mamplus_key *mamplus_key_open(const char *pem, size_t length)
{
	BIO *bio = length <= INT32_MAX ? BIO_new_mem_buf(pem, (int)length) : NULL;
	EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;

	BIO_free(bio);
	if (key && EVP_PKEY_id(key) != EVP_PKEY_ED25519) {
		EVP_PKEY_free(key);
		key = NULL;
	}
	return (struct mamplus_key *)key;
}

int mamplus_key_sign(struct mamplus_key *key, const unsigned char *data, size_t length, unsigned char *signature)
{
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	size_t size = SIGNATURE_BYTES;
	int done = context && EVP_DigestSignInit(context, NULL, NULL, NULL, pkey(key)) == 1 &&
		   EVP_DigestSign(context, signature, &size, data, length) == 1 && size == SIGNATURE_BYTES;

	EVP_MD_CTX_free(context);
	return done ? 0 : -1;
}

int mamplus_key_public(struct mamplus_key *key, unsigned char *public_key)
{
	size_t size = PUBLIC_BYTES;

	return EVP_PKEY_get_raw_public_key(pkey(key), public_key, &size) == 1 && size == PUBLIC_BYTES ? 0 : -1;
}

int mamplus_signature_fits(const unsigned char *public_key, const unsigned char *data, size_t length, const unsigned char *signature)
{
	EVP_PKEY *key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public_key, PUBLIC_BYTES);
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	int fits = key && context && EVP_DigestVerifyInit(context, NULL, NULL, NULL, key) == 1 &&
		   EVP_DigestVerify(context, signature, SIGNATURE_BYTES, data, length) == 1;

	EVP_MD_CTX_free(context);
	EVP_PKEY_free(key);
	return fits;
}

void mamplus_key_close(struct mamplus_key *key)
{
	EVP_PKEY_free(pkey(key));
}
