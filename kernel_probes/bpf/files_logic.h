/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which rules hold for a file, and whether the task that wants something of it may.
 *
 * A file is found by its inode and by the directories above it as the kernel holds them, so the
 * way by which it was reached (bind mount, link, namespace, chroot, overlay, handle) is the same.
 * Fast for what is not guarded: one word, one bit of the device, one bit for each directory above.
 */
#ifndef MAMPLUS_FILES_LOGIC_H
#define MAMPLUS_FILES_LOGIC_H

#include "ble.h"
#include "ctime.h"
#include "file_maps.h"
#include "record.h"

#define MAMPLUS_EPERM 1
#define MAMPLUS_LINEAGE 8	/* parents that are asked whether they pass a right on */
#define MAMPLUS_NS_PER_S 1000000000ULL
#define MAMPLUS_NAME_BYTES 256	/* NAME_MAX and NUL */
#define MAMPLUS_SHOWN_NAMES 8	/* of a path in a record */
#define MAMPLUS_SHOWN_BYTES 64	/* of a name in a record */
#define MAMPLUS_SHOWN_ROOM 127	/* a mask: names begin below it */
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

/* --- who asks ------------------------------------------------------------------------------------ */

static __always_inline bool is_agent(const struct mamplus_file_rules *now, struct task_struct *task)
{
	__u64 start = BPF_CORE_READ(task, group_leader, start_boottime) / MAMPLUS_START_TICK_NS;
	__u32 tgid = BPF_CORE_READ(task, tgid), zero = 0;
	struct mamplus_heartbeat *beat = bpf_map_lookup_elem(&heartbeat, &zero);

	if (tgid == now->agent_tgid && start == now->agent_start)
		return true;
	return beat && beat->responder_tgid == tgid;
}

/* A command of ours beside the agent: it writes our state, and is nobody's writer otherwise. */
static __always_inline bool is_guest(const struct mamplus_file_rules *now, struct task_struct *task)
{
	return (__u32)BPF_CORE_READ(task, tgid) == now->guest_tgid &&
	       BPF_CORE_READ(task, group_leader, start_boottime) / MAMPLUS_START_TICK_NS == now->guest_start;
}

static __always_inline bool agent_lives(const struct mamplus_file_rules *now)
{
	__u32 zero = 0;
	struct mamplus_heartbeat *beat = bpf_map_lookup_elem(&heartbeat, &zero);

	if (!beat || !now->agent_tgid)
		return false;
	return (__s64)(bpf_ktime_get_boot_ns() - beat->agent_ns) < (__s64)(MAMPLUS_AGENT_STALE_S * MAMPLUS_NS_PER_S);
}

/* What the program of `task` may, by the hash of its file; NULL: it is not named, or not known. */
static __always_inline struct mamplus_writer *writer_of(struct task_struct *task)
{
	struct inode *inode = BPF_CORE_READ(task, mm, exe_file, f_inode);
	struct mamplus_file_key key = { 0 };
	struct mamplus_file file = { 0 };
	struct mamplus_known *entry;

	if (!inode)
		return NULL;
	key.dev = BPF_CORE_READ(inode, i_sb, s_dev);
	key.ino = BPF_CORE_READ(inode, i_ino);
	entry = bpf_map_lookup_elem(&known, &key);
	fill_ctime(&file, inode);
	if (!entry || entry->flags & MAMPLUS_KNOWN_ONCE || entry->size != (__u64)BPF_CORE_READ(inode, i_size) ||
	    entry->ctime_s != file.ctime_s || entry->ctime_ns != file.ctime_ns)
		return NULL;
	return bpf_map_lookup_elem(&guard_writers, entry->sha256);
}

/* One step from the task to its ancestors: what each may, and passes on. */
struct asking {
	struct task_struct *task;
	__u64 rules;	/* that nobody so far may break */
};

static long ask_one(__u32 index, void *context)
{
	struct asking *asking = context;
	struct mamplus_file_rules *now = rules_now();
	struct task_struct *task = asking->task;
	struct mamplus_writer *writer;

	if (!now || BPF_CORE_READ(task, tgid) <= 1)
		return 1;
	if (is_agent(now, task)) {
		asking->rules = 0;
		return 1;
	}
	if (is_guest(now, task))
		asking->rules &= ~now->own;
	writer = writer_of(task);
	if (writer)
		asking->rules &= ~(index ? writer->children : writer->rules | writer->children);
	asking->task = BPF_CORE_READ(task, real_parent);
	return !asking->rules;
}

/* Of `rules`, those that the current task may not break. Loops are bpf_loop(): a plain one is verified at each turn. */
static __always_inline __u64 not_permitted(const struct mamplus_file_rules *now, __u64 rules)
{
	struct asking asking = { .task = (void *)bpf_get_current_task(), .rules = rules };

	if (bpf_get_current_pid_tgid() >> 32 == 1)
		return 0;
	if (rules & now->own && !agent_lives(now))
		asking.rules &= ~now->own;
	bpf_loop(MAMPLUS_LINEAGE, ask_one, &asking, 0);
	return asking.rules;
}

/* --- the answer ---------------------------------------------------------------------------------- */

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
