/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What stands for a key in a BLE table: 62 bits. The probes that ask and the builder that fills
 * share this file, so both come to the same number.
 *
 * IPv4 is exact: address, prefix length, port and protocol fit, so an IPv4 hit is never a false
 * one. All else is a hash of 61 bits, salted per load: of a table of any size, one lookup in 2^56
 * meets an identity that is not its own (16 to 24 words are compared). Nobody can aim for one in
 * the salted part; a domain's key, however, is a hash of its name without a salt, and whoever may
 * write entries could search for a name that shares it. User space compares the names.
 */
#ifndef MAMPLUS_IDENTITY_H
#define MAMPLUS_IDENTITY_H

#define MAMPLUS_IDENTITY_BITS 62
#define MAMPLUS_IDENTITY_MASK ((1ULL << MAMPLUS_IDENTITY_BITS) - 1)
#define MAMPLUS_IDENTITY_V4 (1ULL << (MAMPLUS_IDENTITY_BITS - 1))	/* tag: no hash has this bit */

static inline __attribute__((always_inline)) unsigned long long mamplus_mix(unsigned long long x)
{
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ULL;
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ULL;
	return x ^ (x >> 32);
}

/* `words` must be a constant: BPF unrolls this. */
static inline __attribute__((always_inline)) unsigned long long
mamplus_identity(const unsigned long long *salt, const unsigned long long *key, unsigned int words)
{
	unsigned long long hash = salt[0];

	for (unsigned int i = 0; i < words; i++)
		hash = mamplus_mix(hash ^ key[i]) * 0x9e3779b97f4a7c15ULL + salt[1];
	return mamplus_mix(hash) & (MAMPLUS_IDENTITY_V4 - 1);
}

/*
 * Who asks without knowing a port says this: with 0 the key would be that of an entry about every
 * port. In IPv4 it fills the field of the protocol, in IPv6 it lies beyond every port.
 */
#define MAMPLUS_NO_PORT 0x30000

/* addr: host order, host bits 0. prefix: 0-32. protocol: 0, IPPROTO_TCP, IPPROTO_UDP;
 * another one is in no entry. port: host order. */
static inline __attribute__((always_inline)) unsigned long long
mamplus_identity4(unsigned int addr, unsigned int prefix, unsigned int protocol, unsigned int port)
{
	unsigned long long which = protocol == 6 ? 1 : protocol == 17 ? 2 : protocol ? 3 : 0;

	return MAMPLUS_IDENTITY_V4 | (unsigned long long)addr | (unsigned long long)prefix << 32 |
	       (unsigned long long)port << 38 | which << 54;
}

/* The third word of an IPv6 key, after the two halves of the address. A port alone has prefix 0 and no address. */
static inline __attribute__((always_inline)) unsigned long long
mamplus_qualified6(unsigned int prefix, unsigned int protocol, unsigned int port)
{
	return prefix | protocol << 8 | (unsigned long long)port << 16;
}

/* Where an identity lies: two buckets of `buckets`, from the halves of *spread. */
static inline __attribute__((always_inline)) unsigned long long
mamplus_spread(const unsigned long long *salt, unsigned long long identity)
{
	return mamplus_mix(identity ^ salt[1]);
}

static inline __attribute__((always_inline)) unsigned int mamplus_reduce(unsigned int half, unsigned int buckets)
{
	return (unsigned int)((unsigned long long)half * buckets >> 32);
}

#endif
