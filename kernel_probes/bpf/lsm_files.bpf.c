/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Guarded paths, and data folders that only named programs read.
 *
 * Hooks:   LSM, for every task of the machine (a path is guarded, not a task): opens, reads and
 *          writes through descriptors that were open before, shared mappings, names (create, link,
 *          unlink, rename), attributes, and mounts: over a guarded path or the way to it, taken from
 *          there, or another root. io_uring, handles, splice, copies and fallocate come through the
 *          same hooks.
 * Emits:   struct mamplus_access for what is refused, and nothing else.
 * Returns: 0, or -EPERM. Process 1, the agent with what it started, and the rule's programs pass.
 * Missing: no rule, no cost but one word. A file whose place cannot be told (reached by a handle
 *          while no directory of it is known; more than MAMPLUS_WALK_MAX deep) has the rules of
 *          every tree: refused by declaration. A shared writable mapping that was there before the
 *          rule writes on, unreported. Writes to the block device below are not seen.
 */
#include "files_logic.h"

#define MAY_WRITE 0x2
#define MAY_READ 0x4
#define FMODE_READ 0x1
#define FMODE_WRITE 0x2
#define O_TRUNC_ 01000
#define PROT_WRITE_ 0x2
#define MAP_SHARED_ 0x1
#define MAP_SHARED_VALIDATE_ 0x3
#define MAP_TYPE_ 0xf
#define VM_SHARED_ 0x8
#define ATTR_SIZE_ 0x8
#define MS_REMOUNT_ 0x20
#define MS_BIND_ 0x1000
#define MS_MOVE_ 0x2000
#define MS_PROPAGATION_ 0x1e0000	/* MS_UNBINDABLE, _PRIVATE, _SLAVE, _SHARED */
#define MNT_SHARED_ 0x1000
#define T_SHARED_ 0x1
#define FS_IOC_SETFLAGS_ 0x40086602
#define FS_IOC32_SETFLAGS_ 0x40046602
#define FS_IOC_FSSETXATTR_ 0x401c5820
#define FS_IOC_ENABLE_VERITY_ 0x40806685

static __noinline int judge_guarded(struct mamplus_file_rules *now, struct file *file, __u64 refusing, __u32 op)
{
	if (!now)
		return 0;
	return answer_access(now, rules_of_file(now, file), refusing, op, file->f_path.dentry, file->f_inode);
}

/* One operation on an open file; `also`: further rules that refuse it. The call is only for devices with a mark. */
static __always_inline int judge_file(struct file *file, __u32 op, __u64 also)
{
	struct mamplus_file_rules *now = rules_now();
	__u64 refusing;

	if (!now)
		return 0;
	refusing = now->refuses[op] | also;
	if (!refusing || !on_guarded_device(now, file->f_inode))
		return 0;
	return judge_guarded(now, file, refusing, op);
}

/* The agent wants to know how the kernel names what it opens: stat(2) says otherwise on btrfs and overlayfs. */
static __always_inline void tell_asker(struct mamplus_file_rules *now, struct inode *inode)
{
	if (now->asker != (__u32)bpf_get_current_pid_tgid())
		return;
	now->seen_dev = inode->i_sb->s_dev;
	now->seen_ino = inode->i_ino;
	now->seen_generation = inode->i_generation;
}

SEC("lsm/file_open")
int BPF_PROG(mamplus_file_open, struct file *file)
{
	struct mamplus_file_rules *now = rules_now();
	__u32 mode;

	if (!now)
		return 0;
	if (now->asker)
		tell_asker(now, file->f_inode);
	mode = file->f_mode;
	if (mode & FMODE_WRITE) {
		__u64 also = file->f_flags & O_TRUNC_ ? now->refuses[MAMPLUS_OP_TRUNCATE] : 0;

		if (mode & FMODE_READ)
			also |= now->refuses[MAMPLUS_OP_READ];
		return judge_file(file, MAMPLUS_OP_WRITE, also);
	}
	return judge_file(file, MAMPLUS_OP_READ, 0);
}

/* Each read and write: descriptors that are older than the rule, or were passed on by a program that may. */
SEC("lsm/file_permission")
int BPF_PROG(mamplus_file_permission, struct file *file, int mask)
{
	return judge_file(file, mask & MAY_WRITE ? MAMPLUS_OP_WRITE : MAMPLUS_OP_READ, 0);
}

SEC("lsm/mmap_file")
int BPF_PROG(mamplus_file_map, struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags)
{
	unsigned long type = flags & MAP_TYPE_;

	if (!file)
		return 0;
	if (prot & PROT_WRITE_ && (type == MAP_SHARED_ || type == MAP_SHARED_VALIDATE_))
		return judge_file(file, MAMPLUS_OP_MAP_WRITE, 0);
	return judge_file(file, MAMPLUS_OP_READ, 0);
}

SEC("lsm/file_mprotect")
int BPF_PROG(mamplus_file_protect, struct vm_area_struct *vma, unsigned long reqprot, unsigned long prot)
{
	struct file *file = vma->vm_file;

	if (!(prot & PROT_WRITE_) || !(vma->vm_flags & VM_SHARED_) || !file)
		return 0;
	return judge_file(file, MAMPLUS_OP_MAP_WRITE, 0);
}

SEC("lsm/file_ioctl")
int BPF_PROG(mamplus_file_ioctl, struct file *file, unsigned int cmd)
{
	if (cmd != FS_IOC_SETFLAGS_ && cmd != FS_IOC32_SETFLAGS_ && cmd != FS_IOC_FSSETXATTR_ &&
	    cmd != FS_IOC_ENABLE_VERITY_)
		return 0;
	return judge_file(file, MAMPLUS_OP_SETATTR, 0);
}

/* Since 6.8 (f1bb47a31dff): before, 32-bit programs come through file_ioctl. */
SEC("?lsm/file_ioctl_compat")
int BPF_PROG(mamplus_file_ioctl32, struct file *file, unsigned int cmd)
{
	if (cmd != FS_IOC_SETFLAGS_ && cmd != FS_IOC32_SETFLAGS_ && cmd != FS_IOC_FSSETXATTR_ &&
	    cmd != FS_IOC_ENABLE_VERITY_)
		return 0;
	return judge_file(file, MAMPLUS_OP_SETATTR, 0);
}

/* --- names --------------------------------------------------------------------------------------- */

SEC("lsm/inode_unlink")
int BPF_PROG(mamplus_file_unlink, struct inode *dir, struct dentry *dentry)
{
	return judge_entry(dentry, MAMPLUS_OP_UNLINK, true);
}

SEC("lsm/inode_rmdir")
int BPF_PROG(mamplus_file_rmdir, struct inode *dir, struct dentry *dentry)
{
	return judge_entry(dentry, MAMPLUS_OP_UNLINK, true);
}

/* Both ends; the kernel calls this a second time, ends exchanged, for RENAME_EXCHANGE. */
SEC("lsm/inode_rename")
int BPF_PROG(mamplus_file_rename, struct inode *old_dir, struct dentry *old, struct inode *new_dir, struct dentry *new)
{
	int error = judge_entry(old, MAMPLUS_OP_RENAME, true);

	return error ? error : judge_entry(new, MAMPLUS_OP_RENAME, true);
}

SEC("lsm/inode_link")
int BPF_PROG(mamplus_file_link, struct dentry *old, struct inode *dir, struct dentry *new)
{
	int error = judge_entry(old, MAMPLUS_OP_LINK, false);

	return error ? error : judge_entry(new, MAMPLUS_OP_LINK, false);
}

SEC("lsm/inode_create")
int BPF_PROG(mamplus_file_create, struct inode *dir, struct dentry *dentry)
{
	return judge_entry(dentry, MAMPLUS_OP_CREATE, false);
}

SEC("lsm/inode_symlink")
int BPF_PROG(mamplus_file_symlink, struct inode *dir, struct dentry *dentry)
{
	return judge_entry(dentry, MAMPLUS_OP_CREATE, false);
}

SEC("lsm/inode_mkdir")
int BPF_PROG(mamplus_file_mkdir, struct inode *dir, struct dentry *dentry)
{
	return judge_entry(dentry, MAMPLUS_OP_CREATE, false);
}

SEC("lsm/inode_mknod")
int BPF_PROG(mamplus_file_mknod, struct inode *dir, struct dentry *dentry)
{
	return judge_entry(dentry, MAMPLUS_OP_CREATE, false);
}

/* --- attributes ---------------------------------------------------------------------------------- */

static __always_inline int judge_attributes(struct dentry *dentry, const struct iattr *attr)
{
	return judge_entry(dentry, attr->ia_valid & ATTR_SIZE_ ? MAMPLUS_OP_TRUNCATE : MAMPLUS_OP_SETATTR, false);
}

/* Up to 6.8; the loader takes the one whose arguments the kernel's hook has. */
SEC("?lsm/inode_setattr")
int BPF_PROG(mamplus_file_attr_2args, struct dentry *dentry, struct iattr *attr)
{
	return judge_attributes(dentry, attr);
}

/* Since 6.9: 314a8dc728d0 ("security: Align inode_setattr hook definition with EVM"). */
SEC("?lsm/inode_setattr")
int BPF_PROG(mamplus_file_attr_3args, void *idmap, struct dentry *dentry, struct iattr *attr)
{
	return judge_attributes(dentry, attr);
}

SEC("lsm/inode_setxattr")
int BPF_PROG(mamplus_file_xattr, void *idmap, struct dentry *dentry)
{
	return judge_entry(dentry, MAMPLUS_OP_SETATTR, false);
}

SEC("lsm/inode_removexattr")
int BPF_PROG(mamplus_file_noxattr, void *idmap, struct dentry *dentry)
{
	return judge_entry(dentry, MAMPLUS_OP_SETATTR, false);
}

/* Since 6.2 (72b3897e7896): before, ACLs come through inode_setxattr. */
SEC("?lsm/inode_set_acl")
int BPF_PROG(mamplus_file_acl, void *idmap, struct dentry *dentry)
{
	return judge_entry(dentry, MAMPLUS_OP_SETATTR, false);
}

SEC("?lsm/inode_remove_acl")
int BPF_PROG(mamplus_file_noacl, void *idmap, struct dentry *dentry)
{
	return judge_entry(dentry, MAMPLUS_OP_SETATTR, false);
}

/* --- mounts -------------------------------------------------------------------------------------- */

/* Say whether what comes or goes below a mount also comes or goes elsewhere. Since 6.17 the mark is in struct mount. */
static __always_inline bool is_shared(struct vfsmount *below)
{
	struct mount *mount = (void *)below - bpf_core_field_offset(struct mount, mnt);
	struct mount___since_6_17 *since = (void *)mount;

	if (bpf_core_field_exists(since->mnt_t_flags))
		return BPF_CORE_READ(since, mnt_t_flags) & T_SHARED_;
	return BPF_CORE_READ(below, mnt_flags) & MNT_SHARED_;
}

/* A namespace of its own may hide what it wants from itself, but not where its mounts reach others. */
static __always_inline bool is_in_its_own_namespace(const struct mamplus_file_rules *now)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum) != now->mount_ns;
}

static __always_inline int judge_mount(const struct path *path)
{
	struct mamplus_file_rules *now = rules_now();

	if (!now || (is_in_its_own_namespace(now) && !is_shared(path->mnt)))
		return 0;
	return judge_entry(path->dentry, MAMPLUS_OP_MOUNT, true);
}

static __always_inline __u64 marked_rules(struct dentry *dentry)
{
	struct inode *inode = BPF_CORE_READ(dentry, d_inode);

	return rules_of_mark(mark_of(BPF_CORE_READ(inode, i_sb, s_dev), BPF_CORE_READ(inode, i_ino),
				     BPF_CORE_READ(inode, i_generation)), true);
}

/*
 * A mount is taken from its place: what a rule guards by way of it is reached no more. So its root has a mark, and so
 * has the directory of the place, or a tree that it lies in: the same file system mounted elsewhere may go. The place of
 * a root is a root. Apart from the hooks, as numbers: the stack of a hook and all that it calls is 512 bytes.
 */
static __noinline int judge_taken(__u64 mnt_at)
{
	struct vfsmount *mnt = (void *)mnt_at;
	struct mount *mount = (void *)mnt - bpf_core_field_offset(struct mount, mnt);
	struct mount *below = BPF_CORE_READ(mount, mnt_parent);
	struct dentry *root = BPF_CORE_READ(mnt, mnt_root), *place = BPF_CORE_READ(mount, mnt_mountpoint);
	struct dentry *directory = BPF_CORE_READ(place, d_parent);
	struct mamplus_file_rules *now = rules_now();
	__u64 rules;

	if (!now || !now->refuses[MAMPLUS_OP_MOUNT] || below == mount)	/* it hangs in no tree */
		return 0;
	if (is_in_its_own_namespace(now) && !is_shared(__builtin_preserve_access_index(&below->mnt)))
		return 0;
	rules = marked_rules(root);
	if (rules && directory != place)
		rules &= marked_rules(directory) | rules_further_up((__u64)place, false);
	return answer_access(now, rules, now->refuses[MAMPLUS_OP_MOUNT], MAMPLUS_OP_MOUNT, place,
			     BPF_CORE_READ(root, d_inode));
}

/* What may take any guarded path away, in the agent's namespace: all rules refuse it. */
static __noinline int judge_whatever(__u64 dentry_at)
{
	struct mamplus_file_rules *now = rules_now();
	struct dentry *dentry = (void *)dentry_at;
	__u64 refusing;

	if (!now || is_in_its_own_namespace(now))
		return 0;
	refusing = now->refuses[MAMPLUS_OP_MOUNT];
	return answer_access(now, refusing, refusing, MAMPLUS_OP_MOUNT, dentry, BPF_CORE_READ(dentry, d_inode));
}

/* As path_mount() reads the flags: a remount comes first, then a bind mount, whatever propagation is asked for beside it. */
static __always_inline bool mounts_nothing(unsigned long flags)
{
	return flags & MS_REMOUNT_ || (flags & MS_PROPAGATION_ && !(flags & MS_BIND_));
}

/* MS_MOVE names what it takes as text, which no program here can follow: whatever that is. */
SEC("lsm/sb_mount")
int BPF_PROG(mamplus_file_mount, const char *source, const struct path *path, const char *type, unsigned long flags)
{
	int error;

	if (mounts_nothing(flags))
		return 0;
	error = judge_mount(path);
	if (error || flags & MS_BIND_ || !(flags & MS_MOVE_))
		return error;
	return judge_whatever((__u64)path->dentry);
}

SEC("lsm/move_mount")
int BPF_PROG(mamplus_file_move_mount, const struct path *from, const struct path *to)
{
	int error = judge_mount(to);

	return error ? error : judge_taken((__u64)BPF_CORE_READ(from, mnt));
}

SEC("lsm/sb_umount")
int BPF_PROG(mamplus_file_umount, struct vfsmount *mnt, int flags)
{
	__u64 mnt_at = 0;

	bpf_probe_read_kernel(&mnt_at, sizeof(mnt_at), ctx);	/* as a number: nothing may be taken from a typed pointer */
	return judge_taken(mnt_at);
}

/* Another root for the namespace: every guarded path leads elsewhere, for all begin there. */
SEC("lsm/sb_pivotroot")
int BPF_PROG(mamplus_file_pivot, const struct path *old, const struct path *new)
{
	return judge_whatever((__u64)new->dentry);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
