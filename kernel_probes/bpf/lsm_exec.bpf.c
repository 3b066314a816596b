/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs, libraries, scripts and listed files: refused by content, with an error, before anything happens.
 *
 * Hooks:   lsm/bprm_check_security (a program, and each script on the way to it), lsm/mmap_file and
 *          lsm/file_mprotect with PROT_EXEC (libraries, LD_PRELOAD, dlopen, a program given to its loader),
 *          lsm/file_open; for tasks below the scope's cgroup. Opening for writing is looked at everywhere, and so are
 *          lsm/task_prctl, lsm/inode_free_security and lsm/sb_set_mnt_opts.
 * Emits:   struct mamplus_exec for a program or script, struct mamplus_access for a file, struct mamplus_tamper for
 *          prctl(2); a struct mamplus_want for the responder.
 * Returns: -EPERM: refused. -ERESTARTNOINTR: stopped, and tried again when the content is known. -EAGAIN: not
 *          known yet, and nobody could be stopped (io_uring).
 * Missing: a kernel without BPF LSM does not load this: sched_process_exec (exec.bpf.c) remains. No responder, no
 *          room: the declared answer. In monitor mode nobody waits, so a library or script that is unknown is only
 *          told from the next time on.
 */
#include "lsm_program.h"

#define MAMPLUS_FMODE_WRITE 0x2
#define MAMPLUS_FLAG_EXEC 0x20		/* __FMODE_EXEC in f_flags: opened by execve, which user space cannot claim */
#define MAMPLUS_PROT_EXEC 0x4
#define MAMPLUS_VM_EXEC 0x4
#define MAMPLUS_MNT_NS_INTERNAL -22	/* ERR_PTR(-EINVAL) */
#define MAMPLUS_SB_KERNMOUNT (1 << 22)
#define MAMPLUS_SCRIPT_MAX (16 << 20)	/* bytes; no interpreter's program is larger */
#define MAMPLUS_PR_SET_MM 35
#define MAMPLUS_PR_SET_MM_EXE_FILE 13
#define MAMPLUS_PR_SET_MM_MAP 14	/* among other things */
#define MAMPLUS_UNNAMED_MAX (64 << 20)	/* bytes; a mapped file without a name above it is a compiler's memory */

/* --- programs and scripts ------------------------------------------------------------------ */

static __always_inline bool is_elf(struct linux_binprm *bprm)
{
	unsigned char magic[4];

	bpf_probe_read_kernel(magic, sizeof(magic), bprm->buf);
	return magic[0] == 0x7f && magic[1] == 'E' && magic[2] == 'L' && magic[3] == 'F';
}

/*
 * An ELF program is told of once, at sched_process_exec, unless it is refused here. What the responder could
 * not find by its path or among the descriptors is held there, where /proc/PID/exe is the very file.
 */
static __always_inline bool is_left_to_exec(const struct wish *wish, const struct mamplus_known *entry)
{
	struct mamplus_posture *now = posture_now();

	if (is_monitor())
		return true;
	if (entry)
		return !is_refusing(hit_verdict(ble_content(ble_word(), entry->sha256)));
	return !now || !can_restart(bpf_get_current_task_btf()) || has_waited(wish, now);
}

SEC("lsm/bprm_check_security")
int BPF_PROG(mamplus_bprm, struct linux_binprm *bprm)
{
	struct file *file = bprm->file;
	struct mamplus_known *entry;
	struct wish wish;

	if (!in_scope() || is_exempt())
		return 0;
	fill_wish(&wish, file, 0);
	entry = content_of(&wish);
	if (is_elf(bprm) && is_left_to_exec(&wish, entry))
		return 0;
	return entry ? judge_content(&wish, entry, &file->f_path, file) : ask(&wish, &file->f_path, file);
}

/* --- code that is mapped ------------------------------------------------------------------- */

static __always_inline bool is_jit(const struct wish *wish)
{
	return wish->flags & MAMPLUS_F_DELETED && wish->file.size > MAMPLUS_UNNAMED_MAX;
}

/* While a program starts the kernel maps it and its ELF interpreter, and an error would be its end. */
static __always_inline int leave_to_exec(const struct wish *wish)
{
	__u32 pid = bpf_get_current_pid_tgid();

	bpf_map_update_elem(&loaders, &pid, &wish->file, BPF_ANY);
	return 0;
}

static __always_inline bool is_starting(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return BPF_CORE_READ_BITFIELD_PROBED(task, in_execve);
}

SEC("lsm/mmap_file")
int BPF_PROG(mamplus_mmap, struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags)
{
	struct mamplus_known *entry;
	struct wish wish;

	if (!file || !(prot & MAMPLUS_PROT_EXEC) || !in_scope() || is_exempt())
		return 0;
	fill_wish(&wish, file, MAMPLUS_OP_MAP_EXEC);
	entry = content_of(&wish);
	if (entry)
		return judge_content(&wish, entry, &file->f_path, file);
	if (is_starting())
		return leave_to_exec(&wish);
	return is_jit(&wish) ? 0 : ask(&wish, NULL, file);
}

SEC("lsm/file_mprotect")
int BPF_PROG(mamplus_mprotect, struct vm_area_struct *vma, unsigned long reqprot, unsigned long prot)
{
	struct file *file = vma->vm_file;
	struct mamplus_known *entry;
	struct wish wish;

	if (!file || !(prot & MAMPLUS_PROT_EXEC) || vma->vm_flags & MAMPLUS_VM_EXEC || !in_scope() || is_exempt())
		return 0;
	fill_wish(&wish, file, MAMPLUS_OP_MAP_EXEC);
	wish.from = vma->vm_start;
	wish.to = vma->vm_end;
	entry = content_of(&wish);
	if (entry)
		return judge_content(&wish, entry, NULL, file);
	return is_jit(&wish) ? 0 : ask(&wish, NULL, file);
}

/* --- files that are opened ----------------------------------------------------------------- */

static __always_inline void forget_key(__u64 dev, __u64 ino)
{
	struct mamplus_file_key key = { .dev = dev, .ino = ino };

	bpf_map_delete_elem(&known, &key);
}

/* From here on its content is what the writer makes of it. */
static __always_inline void forget(struct file *file, struct inode *inode)
{
	__u64 dev = inode->i_sb->s_dev;

	forget_key(dev, inode->i_ino);
	if (repeats_numbers(inode->i_sb->s_magic))
		forget_key(device_with(dev, (__u64)BPF_CORE_READ(file, f_inode)), inode->i_ino);
}

/* The kernel's memory of an inode ends, and another one may have its place. */
SEC("lsm/inode_free_security")
int BPF_PROG(mamplus_inode_gone, struct inode *inode)
{
	__u64 at = 0;

	if (!repeats_numbers(SEE(inode, i_sb, s_magic)) || !is_regular(inode))
		return 0;
	bpf_probe_read_kernel(&at, sizeof(at), ctx);	/* as a number */
	forget_key(device_with(SEE(inode, i_sb, s_dev), at), SEE(inode, i_ino));
	return 0;
}

SEC("lsm/sb_set_mnt_opts")
int BPF_PROG(mamplus_mounted, struct super_block *super)
{
	note_birth(super);
	return 0;
}

/*
 * The responder has opened it: say which file that is, and note that its content is being read. A writer counts
 * itself before it comes to forget(), so one that is not seen here removes the note.
 */
static __always_inline void note_opened(struct file *file, struct inode *inode)
{
	struct mamplus_known pending = { .flags = MAMPLUS_KNOWN_ONCE | MAMPLUS_KNOWN_PENDING };
	struct mamplus_opened what = { .pad = 0 }, *first;
	struct mamplus_known *last;
	struct mamplus_file_key key;
	__u32 pid = bpf_get_current_pid_tgid();

	if (see_file(&what.file, file) & MAMPLUS_F_DELETED)
		what.flags |= MAMPLUS_OPENED_UNLINKED;
	key.dev = what.file.dev;
	key.ino = what.file.ino;
	if (!is_for_good(believed(&what.file))) {
		pending.flags |= born_as(key.dev);
		last = held_last(&what.file);
		if (last)
			__builtin_memcpy(pending.sha256, last->sha256, sizeof(pending.sha256));
		bpf_map_update_elem(&known, &key, &pending, BPF_ANY);
	}
	if (inode->i_writecount.counter > 0)	/* after the note: see above */
		what.flags |= MAMPLUS_OPENED_WRITTEN;
	first = bpf_map_lookup_elem(&opened, &pid);	/* the responder removes it before each open */
	if (!first) {
		bpf_map_update_elem(&opened, &pid, &what, BPF_ANY);
		return;
	}
	first->backing = what.file;
	first->flags |= what.flags;
}

static __always_inline bool is_responder(void)
{
	__u32 zero = 0;
	struct mamplus_heartbeat *beat = bpf_map_lookup_elem(&heartbeat, &zero);

	return beat && beat->responder_tgid == bpf_get_current_pid_tgid() >> 32;
}

/* overlayfs opens the file of a layer behind the one that was asked for, through a mount that is in no namespace. */
static __always_inline bool is_backing(struct file *file)
{
	struct vfsmount *inner = BPF_CORE_READ(file, f_path.mnt);
	struct mount *mount = (void *)inner - bpf_core_field_offset(struct mount, mnt);

	if (BPF_CORE_READ(file, f_path.dentry, d_inode) != BPF_CORE_READ(file, f_inode))
		return true;	/* up to 6.6: under the path of what was asked for */
	return (long)BPF_CORE_READ(mount, mnt_ns) == MAMPLUS_MNT_NS_INTERNAL &&
	       !(BPF_CORE_READ(file, f_inode, i_sb, s_flags) & MAMPLUS_SB_KERNMOUNT);	/* a memfd has such a mount, too */
}

/* Data that an interpreter reads cannot be told from its program, but what it writes itself is no program yet. */
static __always_inline bool may_be_script(const struct wish *wish, __u32 mode)
{
	return !(mode & MAMPLUS_FMODE_WRITE) && wish->file.size && wish->file.size <= MAMPLUS_SCRIPT_MAX && is_interpreter();
}

/*
 * A file that was listed when it was hashed last, whatever has become of it since: a rename or a link changes its
 * ctime, and what is good once is hashed at each access. Whoever opens it waits for its hash.
 */
static __always_inline bool was_listed(const struct wish *wish)
{
	struct mamplus_known *entry = held_last(&wish->file);

	if (!wish->file.size || !entry)
		return false;	/* empty: made by this very open, perhaps under the number of another one */
	return is_refusing(hit_verdict(ble_content(ble_word(), entry->sha256)));
}

static __always_inline int judge_open(struct file *file, __u32 mode)
{
	struct mamplus_known *entry;
	struct wish wish;

	if (!in_scope() || is_exempt() || file->f_flags & MAMPLUS_FLAG_EXEC)
		return 0;
	fill_wish(&wish, file, MAMPLUS_OP_OPEN);
	if (mode & MAMPLUS_FMODE_WRITE)
		wish.is_written = file->f_inode->i_writecount.counter > 1;	/* this open has counted itself */
	entry = content_of(&wish);
	if (entry)
		return judge_content(&wish, entry, &file->f_path, file);
	if (!may_be_script(&wish, mode) && !was_listed(&wish))
		return 0;
	return is_backing(file) ? 0 : ask(&wish, &file->f_path, file);
}

/* Judged first, and forgotten then: who opens a listed file to write may read it, too. */
SEC("lsm/file_open")
int BPF_PROG(mamplus_open, struct file *file)
{
	struct inode *inode = file->f_inode;
	__u32 mode = file->f_mode;
	int refused;

	if (!is_regular(inode))
		return 0;
	if (is_responder()) {
		if (mode & MAMPLUS_FMODE_WRITE)
			forget(file, inode);
		note_opened(file, inode);
		return 0;
	}
	refused = judge_open(file, mode);
	if (!refused && mode & MAMPLUS_FMODE_WRITE)
		forget(file, inode);
	return refused;
}

/* --- a process that passes for another ----------------------------------------------------- */

/*
 * A process may name another file as its program: CRIU does. Interpreters are known by theirs, and so are those who may
 * write to what is guarded, whoever of the machine they are.
 */
SEC("lsm/task_prctl")
int BPF_PROG(mamplus_prctl, int option, unsigned long what)
{
	bool lets = is_monitor();
	struct mamplus_tamper event;

	if (option != MAMPLUS_PR_SET_MM || (what != MAMPLUS_PR_SET_MM_EXE_FILE && what != MAMPLUS_PR_SET_MM_MAP) || is_exempt())
		return 0;	/* the kernel goes on */
	fill_head(&event.head, MAMPLUS_KIND_TAMPER, sizeof(event));
	event.head.flags = lets ? MAMPLUS_F_MONITOR : MAMPLUS_F_REFUSED;
	event.op = MAMPLUS_TAMPER_IDENTITY;
	event.target_tgid = bpf_get_current_pid_tgid() >> 32;
	event.argument = what;
	emit(&event, sizeof(event), true);
	if (lets)
		return 0;
	count(MAMPLUS_C_REFUSED);
	return -MAMPLUS_EPERM;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
