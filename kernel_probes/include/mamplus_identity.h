/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What stands for a key in a BLE table: 62 bits. The probes that ask and the builder that fills
 * share this file, so both come to the same number.
 *
 * IPv4 is exact: address, prefix length, port and protocol fit, so an IPv4 hit is never a false
 * one. All else is a hash of 61 bits, salted per load: of a table of any size, one lookup in 2^56
 * meets an identity that is not its own (8 to 24 words are compared). Nobody can aim for one
 * without the salt: a domain's name is hashed with it too, not by its key in the file.
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

/*
 * A domain's name, from its last byte to its first, so that who walks a name from its end has the hash of
 * each suffix at its dot: two polynomials modulo 2^31 - 1, at points that the salt names. Two names that
 * were chosen without knowing the salt meet in both with a chance of (253 / 2^31)^2 at most, 1 in 2^46.
 */
#define MAMPLUS_NAME_PRIME 0x7fffffffULL

struct mamplus_name {
	unsigned long long one, two;	/* below 2^32: reduced once, the same way by everybody */
};

static inline __attribute__((always_inline)) unsigned long long
mamplus_name_step(unsigned long long point, unsigned long long sum, unsigned char byte)
{
	sum = sum * (point & MAMPLUS_NAME_PRIME) + byte;
	return (sum & MAMPLUS_NAME_PRIME) + (sum >> 31);
}

static inline __attribute__((always_inline)) void
mamplus_name_add(const unsigned long long *salt, struct mamplus_name *name, unsigned char byte)
{
	name->one = mamplus_name_step(salt[0], name->one, byte);
	name->two = mamplus_name_step(salt[0] >> 32, name->two, byte);
}

/* is_alone: the entry that means the name without its sub-domains. */
static inline __attribute__((always_inline)) unsigned long long
mamplus_identity_name(const unsigned long long *salt, const struct mamplus_name *name, unsigned int is_alone)
{
	unsigned long long key = name->one << 32 | name->two;

	if (is_alone)
		key = ~key;
	return mamplus_identity(salt, &key, 1);
}

/*
 * Where an identity lies, from its *spread: in one block of the table, and in that in two buckets.
 * Blocks, so that the builder fills one inside the processor's cache before it takes the next.
 */
static inline __attribute__((always_inline)) unsigned long long
mamplus_spread(const unsigned long long *salt, unsigned long long identity)
{
	return mamplus_mix(identity ^ salt[1]);
}

static inline __attribute__((always_inline)) unsigned int mamplus_block(unsigned long long spread, unsigned int blocks)
{
	return (unsigned int)((spread >> 32) * blocks >> 32);
}

/* In its block, of `buckets`: the bucket that takes it unless it is full, */
static inline __attribute__((always_inline)) unsigned int mamplus_first(unsigned long long spread, unsigned int buckets)
{
	return (unsigned int)((spread & 0xffff) * buckets >> 16);
}

/* and the one that takes it then. */
static inline __attribute__((always_inline)) unsigned int mamplus_second(unsigned long long spread, unsigned int buckets)
{
	return (unsigned int)((spread >> 16 & 0xffff) * buckets >> 16);
}

/* The bits that a key sets in both filters of its first bucket: two of 32 in each, none of which says where it lies. */
static inline __attribute__((always_inline)) unsigned int mamplus_near(unsigned long long spread)
{
	return 1U << (spread >> 32 & 31) | 1U << (spread >> 37 & 31);
}

static inline __attribute__((always_inline)) unsigned int mamplus_far(unsigned long long spread)
{
	return 1U << (spread >> 42 & 31) | 1U << (spread >> 16 & 31);
}

/* IPv6 networks shorter than this are in every mask, for they have too many first 32 bits. */
#define MAMPLUS_MASK6_LEAST 24

/*
 * Which of 2^bits masks (3 to 24) are those of an IPv6 address, from a hash of its first 32 bits, for in use are few of
 * them, which lie close. Two of one cache line: what both say holds, so that few addresses meet what others left.
 */
static inline __attribute__((always_inline)) unsigned long long mamplus_mask6_hash(unsigned int first)
{
	return first * 0x9e3779b97f4a7c15ULL;
}

static inline __attribute__((always_inline)) unsigned int mamplus_mask6_one(unsigned long long hash, unsigned int bits)
{
	return (unsigned int)(hash >> ((64 - bits) & 63));
}

static inline __attribute__((always_inline)) unsigned int mamplus_mask6_two(unsigned long long hash, unsigned int bits)
{
	return mamplus_mask6_one(hash, bits) ^ (unsigned int)(1 + ((hash >> 20 & 0xff) * 7 >> 8));
}

/*
 * Which bit of a mask says that an IPv6 network of this length may cover an address. The lengths of IPv4 have the first 33;
 * here those that share a bit lie 31 apart or more, and the few that are left have bits of IPv4's that nobody uses, 0 to 3.
 */
static inline __attribute__((always_inline)) unsigned int mamplus_mask6_bit(unsigned int prefix)
{
	return (33 + (prefix & 31) + (prefix >> 5)) & 63;
}

#endif
