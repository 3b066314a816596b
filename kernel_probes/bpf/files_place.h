/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which rules hold for a file.
 *
 * A file is found by its inode and by the directories above it as the kernel holds them, so the
 * way by which it was reached (bind mount, link, namespace, chroot, overlay, handle) is the same.
 * Fast for what is not guarded: one word, one bit of the device, one bit for each directory above.
 */
#ifndef MAMPLUS_FILES_PLACE_H
#define MAMPLUS_FILES_PLACE_H

#include "file_maps.h"

#define MAMPLUS_NAME_BYTES 256	/* NAME_MAX and NUL */
#define FNV_START 0xcbf29ce484222325ULL
#define FNV_PRIME 0x100000001b3ULL

/* Beside rules: they had to be declared. Rule 63 is never given. */
#define MAMPLUS_DECLARED (1ULL << 63)

static __always_inline struct mamplus_file_rules *rules_now(void)
{
	__u32 zero = 0;
	struct mamplus_file_rules *now = bpf_map_lookup_elem(&file_rules, &zero);

	return now && now->on ? now : NULL;
}

static __always_inline bool on_guarded_device(const struct mamplus_file_rules *now, struct inode *inode)
{
	return now->devices >> mamplus_device_bit(inode->i_sb->s_dev) & 1;
}

/* The mark of (dev, ino), or NULL. The filter answers for nearly all that have none. */
static __always_inline struct mamplus_guarded *mark_in(struct mamplus_file_rules *now, __u64 dev, __u64 ino,
						       __u32 generation)
{
	struct mamplus_file_key key = { .dev = dev, .ino = ino };
	__u32 bit = mamplus_filter_bit(dev, ino);
	struct mamplus_guarded *mark;

	if (!(now->filter[(bit >> 6) & (MAMPLUS_FILTER_WORDS - 1)] >> (bit & 63) & 1))
		return NULL;
	mark = bpf_map_lookup_elem(&guards, &key);
	return mark && (!mark->generation || mark->generation == generation) ? mark : NULL;
}

static __always_inline struct mamplus_guarded *mark_of_inode(struct mamplus_file_rules *now, struct inode *inode)
{
	return mark_in(now, inode->i_sb->s_dev, inode->i_ino, inode->i_generation);
}

/* The same for a walk that keeps no pointer to the rules. */
static __always_inline struct mamplus_guarded *mark_of(__u64 dev, __u64 ino, __u32 generation)
{
	struct mamplus_file_rules *now = rules_now();

	return now ? mark_in(now, dev, ino, generation) : NULL;
}

/* A name and its hash so far. */
struct naming {
	__u64 hash;
	char name[MAMPLUS_NAME_BYTES];
};

static long hash_one(__u32 index, void *context)
{
	struct naming *naming = context;
	unsigned char byte = naming->name[index & (MAMPLUS_NAME_BYTES - 1)];

	if (!byte)
		return 1;
	naming->hash = (naming->hash ^ byte) * FNV_PRIME;
	return 0;
}

/* The rules of the entry `dentry` of a directory that has guarded names. Apart: its buffer is half of the stack. */
static __noinline __u64 rules_of_name(__u64 dentry_at)
{
	struct dentry *dentry = (void *)dentry_at;
	struct naming naming = { .hash = FNV_START };
	struct mamplus_guard_name key = { 0 };
	__u64 *rules;

	bpf_probe_read_kernel_str(naming.name, sizeof(naming.name), BPF_CORE_READ(dentry, d_name.name));
	bpf_loop(MAMPLUS_NAME_BYTES - 1, hash_one, &naming, 0);
	key.name = naming.hash;
	key.dev = BPF_CORE_READ(dentry, d_sb, s_dev);
	key.ino = BPF_CORE_READ(dentry, d_parent, d_inode, i_ino);
	rules = bpf_map_lookup_elem(&guard_names, &key);
	return rules ? *rules : 0;
}

/* A walk upwards by reading memory: slower than following typed pointers, and verified once whatever its length. */
struct walk {
	struct dentry *at;
	__u64 rules;
	__u32 is_marked;	/* `at` has a mark */
	__u32 is_over;		/* the top was reached */
};

static long step_up(__u32 index, void *context)
{
	struct walk *walk = context;
	struct dentry *at = walk->at;
	struct dentry *parent = BPF_CORE_READ(at, d_parent);
	struct inode *inode = BPF_CORE_READ(parent, d_inode);
	struct mamplus_guarded *mark;

	if (!parent || parent == at) {
		walk->is_over = walk->is_marked || at == BPF_CORE_READ(at, d_sb, s_root);
		return 1;
	}
	mark = mark_of(BPF_CORE_READ(inode, i_sb, s_dev), BPF_CORE_READ(inode, i_ino), BPF_CORE_READ(inode, i_generation));
	if (mark)
		walk->rules |= mark->tree;
	walk->is_marked = mark != NULL;
	walk->at = parent;
	return 0;
}

/* Rules of the directories above the dentry at `start`; MAMPLUS_DECLARED among them: its place cannot be told. */
static __noinline __u64 rules_further_up(__u64 start, __u32 is_marked)
{
	struct mamplus_file_rules *now = rules_now();
	struct walk walk = { .at = (void *)start, .is_marked = is_marked };

	if (!now)
		return 0;
	bpf_loop(MAMPLUS_WALK_MAX, step_up, &walk, 0);
	return walk.is_over ? walk.rules : walk.rules | now->trees | MAMPLUS_DECLARED;
}

/* Rules of the directories above `dentry`, it left out. A place that cannot be told has the rules of every tree. */
static __always_inline __u64 rules_above(struct mamplus_file_rules *now, struct dentry *dentry)
{
	struct mamplus_guarded *mark = mark_of_inode(now, dentry->d_parent->d_inode);
	struct dentry *at = dentry;
	__u64 rules = 0;

	if (mark && mark->named)
		rules = rules_of_name((__u64)dentry);
	for (int i = 0; i < MAMPLUS_WALK_FAST; i++) {
		struct dentry *parent = at->d_parent;

		if (parent == at) {
			/* A mark on the top: a root that the agent saw (file systems with more than one have them). */
			if (mark || at == at->d_sb->s_root)
				return rules;
			return rules | now->trees | MAMPLUS_DECLARED;	/* reached by a handle, and no directory is known */
		}
		mark = mark_of_inode(now, parent->d_inode);
		if (mark)
			rules |= mark->tree;
		at = parent;
	}
	return rules | rules_further_up((__u64)at, mark != NULL);
}

/* A name of `inode` in its own file system, whatever path it was opened under; 0: none is known. */
static __always_inline __u64 alias_of(struct inode *inode)
{
	struct hlist_node *node = BPF_CORE_READ(inode, i_dentry.first);

	return node ? (__u64)node - bpf_core_field_offset(struct dentry, d_u.d_alias) : 0;
}

static __always_inline __u64 rules_of_mark(const struct mamplus_guarded *mark, bool with_way)
{
	return mark ? mark->self | mark->tree | (with_way ? mark->way : 0) : 0;
}

/* The rules that hold for an entry of a directory, there or not. `with_way`: also as a part of the way to others. */
static __always_inline __u64 rules_of(struct mamplus_file_rules *now, struct dentry *dentry, bool with_way)
{
	struct inode *inode = dentry->d_inode;
	__u64 rules = rules_above(now, dentry);

	return inode ? rules | rules_of_mark(mark_of_inode(now, inode), with_way) : rules;
}

/* overlayfs opens the file below under the overlay's path: then its own names count. */
static __always_inline __u64 rules_of_file(struct mamplus_file_rules *now, struct file *file)
{
	struct dentry *dentry = file->f_path.dentry;
	struct inode *inode = file->f_inode;
	__u64 alias;

	if (dentry->d_inode == inode)
		return rules_of(now, dentry, false);
	alias = alias_of(inode);
	return rules_of_mark(mark_of_inode(now, inode), false) |
	       (alias ? rules_further_up(alias, false) : now->trees | MAMPLUS_DECLARED);
}

#endif
