/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a hook answers about a file, and how it is told: files_place.h has the rules, files_who.h the task. */
#ifndef MAMPLUS_FILES_LOGIC_H
#define MAMPLUS_FILES_LOGIC_H

#include "ble.h"
#include "files_who.h"
#include "record.h"

#define MAMPLUS_EPERM 1
#define MAMPLUS_SHOWN_NAMES 8	/* of a path in a record */
#define MAMPLUS_SHOWN_BYTES 64	/* of a name in a record */
#define MAMPLUS_SHOWN_ROOM 127	/* a mask: names begin below it */

/* The last names of the way to `dentry`; begins with a slash when it is the whole way from the file system's root. */
static __always_inline void fill_path(struct mamplus_access *record, struct dentry *dentry)
{
	struct dentry *names[MAMPLUS_SHOWN_NAMES];
	struct dentry *at = dentry;
	__u32 length = 0;
	int depth = 0;

	for (int i = 0; i < MAMPLUS_SHOWN_NAMES; i++) {
		struct dentry *parent = BPF_CORE_READ(at, d_parent);

		names[i] = at;
		if (parent == at)
			break;
		depth = i + 1;
		at = parent;
	}
	for (int i = MAMPLUS_SHOWN_NAMES - 1; i >= 0; i--) {
		long bytes;

		if (i >= depth)
			continue;
		if (length >= MAMPLUS_SHOWN_ROOM)
			break;
		/* The verifier must see the bound where it is used, whatever the compiler keeps in which register. */
		asm volatile("" : "+r"(length));
		length &= MAMPLUS_SHOWN_ROOM;
		if (i < MAMPLUS_SHOWN_NAMES - 1)
			record->path[length++] = '/';
		asm volatile("" : "+r"(length));
		length &= MAMPLUS_SHOWN_ROOM;
		bytes = bpf_probe_read_kernel_str(&record->path[length], MAMPLUS_SHOWN_BYTES,
						  BPF_CORE_READ(names[i], d_name.name));
		if (bytes < 1 || bytes > MAMPLUS_SHOWN_BYTES)
			break;
		length += bytes - 1;
	}
}

static __always_inline void fill_identity(struct mamplus_file *out, struct inode *inode)
{
	out->dev = BPF_CORE_READ(inode, i_sb, s_dev);
	out->ino = BPF_CORE_READ(inode, i_ino);
	out->size = BPF_CORE_READ(inode, i_size);
	out->mode = BPF_CORE_READ(inode, i_mode);
	fill_ctime(out, inode);
}

/* Apart from the hooks: only what is refused comes here. */
static __noinline int report_access(__u64 dentry_at, __u64 inode_at, __u32 op, __u32 flags)
{
	struct mamplus_access *record = reserve(sizeof(*record));
	struct inode *inode = (void *)inode_at;

	if (!record) {
		count(MAMPLUS_C_LOST);
		return 0;
	}
	fill_head(&record->head, MAMPLUS_KIND_FILE, sizeof(*record));
	record->head.flags = flags;
	__builtin_memset(&record->file, 0, sizeof(record->file));
	__builtin_memset(record->sha256, 0, sizeof(record->sha256));
	__builtin_memset(record->path, 0, sizeof(record->path));
	record->waited_ns = 0;
	record->op = op;
	record->pad = 0;
	if (inode)
		fill_identity(&record->file, inode);
	fill_path(record, (void *)dentry_at);
	submit(record, sizeof(*record), true);
	return 0;
}

/* The end of every hook: 0, or -EPERM when one of `rules` refuses `op` to this task. */
static __always_inline int answer_access(struct mamplus_file_rules *now, __u64 rules, __u64 refusing, __u32 op,
					 struct dentry *dentry, struct inode *inode)
{
	__u64 left = rules & refusing;
	__u32 flags;

	if (!left)
		return 0;
	left = not_permitted(now, left);
	if (!left)
		return 0;
	flags = is_monitor() ? MAMPLUS_F_MONITOR : MAMPLUS_F_REFUSED;
	if (rules & MAMPLUS_DECLARED)
		flags |= MAMPLUS_F_DECLARED;
	report_access((__u64)dentry, (__u64)inode, op, flags);
	if (flags & MAMPLUS_F_MONITOR)
		return 0;
	count(MAMPLUS_C_REFUSED);
	return -MAMPLUS_EPERM;
}

/* One operation on an entry of a directory. */
static __noinline int judge_entry(struct dentry *dentry, __u32 op, bool with_way)
{
	struct mamplus_file_rules *now = rules_now();
	struct inode *inode;

	if (!now || !now->refuses[op] || !(now->devices >> mamplus_device_bit(dentry->d_sb->s_dev) & 1))
		return 0;
	inode = dentry->d_inode;
	return answer_access(now, rules_of(now, dentry, with_way), now->refuses[op], op, dentry, inode);
}

#endif
