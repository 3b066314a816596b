/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Finding what is remembered of a file.
 *
 * Two layers of an overlay, or two subvolumes of btrfs, give one inode number to two files, and who makes both within
 * one tick of the clock gives them one ctime. There the upper half of a device number says which inode of the kernel's
 * memory it is. User space cannot know that: what it remembered has zeros there, and so has a copy of what the responder
 * did, which is believed by nobody here.
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

static __always_inline struct mamplus_known *known_of(__u64 dev, __u64 ino)
{
	struct mamplus_file_key key = { .dev = dev, .ino = ino };
	struct mamplus_known *entry = bpf_map_lookup_elem(&known, &key);

	if (entry || !(dev >> 32))
		return entry;
	key.dev = (__u32)dev;
	entry = bpf_map_lookup_elem(&known, &key);
	return entry && !(entry->flags & MAMPLUS_KNOWN_COPY) ? entry : NULL;
}

#endif
