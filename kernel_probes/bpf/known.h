/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Finding what is remembered of a file.
 *
 * Two layers of an overlay, or two subvolumes of btrfs, give one inode number to two files, and who makes both within
 * one tick of the clock gives them one ctime. There the upper half of a device number says which inode of the kernel's
 * memory it is. User space cannot know that: what it remembered has zeros there, and so has a copy of what the responder
 * did, which is believed by nobody here.
 *
 * File systems that are mounted one after the other get one device number, too (loop images, what has no device). So an
 * entry says which of them it is about: when one is mounted its number's count in `births` goes up.
 */
#ifndef MAMPLUS_KNOWN_H
#define MAMPLUS_KNOWN_H

#include "maps.h"

#define MAMPLUS_OVERLAYFS 0x794c7630
#define MAMPLUS_BTRFS 0x9123683e
#define MAMPLUS_INODE_SHIFT 6	/* no inode is as small as 64 bytes */

static __always_inline bool repeats_numbers(unsigned long magic)
{
	return magic == MAMPLUS_OVERLAYFS || magic == MAMPLUS_BTRFS;
}

/* `inode`: as a number. */
static __always_inline __u64 device_with(__u64 dev, __u64 inode)
{
	return dev | inode >> MAMPLUS_INODE_SHIFT << 32;
}

/* The file system that has this device number now, as it stands in an entry's flags. */
static __always_inline __u32 born_as(__u64 dev)
{
	__u32 at = (__u32)dev % MAMPLUS_BIRTHS_MAX;
	__u32 *count = bpf_map_lookup_elem(&births, &at);

	return count ? *count << MAMPLUS_KNOWN_BORN_SHIFT : 0;
}

/* A file system is mounted, and nobody has opened anything on it yet. It may have been there, mounted elsewhere, too. */
static __always_inline void note_birth(struct super_block *super)
{
	__u32 at = SEE(super, s_dev) % MAMPLUS_BIRTHS_MAX;
	__u32 *count = bpf_map_lookup_elem(&births, &at);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline struct mamplus_known *entry_of(struct mamplus_file_key *key)
{
	struct mamplus_known *entry = bpf_map_lookup_elem(&known, key);

	return entry && !((entry->flags ^ born_as(key->dev)) >> MAMPLUS_KNOWN_BORN_SHIFT) ? entry : NULL;
}

static __always_inline struct mamplus_known *known_of(__u64 dev, __u64 ino)
{
	struct mamplus_file_key key = { .dev = dev, .ino = ino };
	struct mamplus_known *entry = entry_of(&key);

	if (entry || !(dev >> 32))
		return entry;
	key.dev = (__u32)dev;
	entry = entry_of(&key);
	return entry && !(entry->flags & MAMPLUS_KNOWN_COPY) ? entry : NULL;
}

#endif
