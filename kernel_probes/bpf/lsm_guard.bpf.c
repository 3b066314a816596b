/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Nobody but ourselves and init ends, stops, traces or starves the agent or its responder, or gets at their maps,
 * programs, hooks and pins.
 *
 * Hooks:    BPF LSM, see each SEC; and tp_btf/sched_process_exit, to know when there is no agent.
 * Emits:    struct mamplus_tamper for each attempt, and for a claim.
 * Returns:  0, or -EPERM. Never for init, for a process of ours and its children, in a maintenance window,
 *           or in monitor mode.
 * Missing:  kernels without BPF LSM do not load it; tamper.bpf.c and mamplus_host/tamper notice then.
 *
 * Ours is who stands in `own`, with its start time, and its descendants. Who opens the pin of `own` while there is
 * no agent becomes the agent, if it runs the program of the one before; that is told. While there is one, nobody
 * gets a descriptor of `own`, so root without its code cannot write itself in.
 */
#include "guard_files.h"

#define FMODE_WRITE 0x2
#define PTRACE_MODE_ATTACH 0x02
#define BPF_FS_MAGIC 0xcafe4a11
#define CGROUP2_MAGIC 0x63677270
#define PROC_MAGIC 0x9fa0
#define RLIMIT_PRIORITY 0x101	/* as RLIMIT_OOM_SCORE */
#define CMD_LINK_UPDATE 29
#define CMD_LINK_GET_FD_BY_ID 30
#define CMD_LINK_DETACH 34

/* --- processes -------------------------------------------------------------------------------- */

static __always_inline bool is_harmless(int sig)
{
	/* 0, SIGPIPE, SIGCHLD, SIGCONT, SIGURG, SIGWINCH */
	return sig == 0 || sig == 13 || sig == 17 || sig == 18 || sig == 23 || sig == 28;
}

SEC("lsm/task_kill")
int BPF_PROG(mamplus_guard_kill, struct task_struct *task, void *info, int sig)
{
	__u32 target = BPF_CORE_READ(task, tgid);

	if (is_harmless(sig) || !is_target(target) || may())
		return 0;
	return refuse(MAMPLUS_TAMPER_SIGNAL, target, sig);
}

SEC("lsm/ptrace_access_check")
int BPF_PROG(mamplus_guard_ptrace, struct task_struct *child, unsigned int mode)
{
	__u32 target = BPF_CORE_READ(child, tgid);

	if (!(mode & PTRACE_MODE_ATTACH) || !is_target(target) || may())
		return 0;
	return refuse(MAMPLUS_TAMPER_PTRACE, target, mode);
}

static __always_inline int limits(struct task_struct *task, __u64 which)
{
	__u32 target = BPF_CORE_READ(task, tgid);

	if (!is_target(target) || may())
		return 0;
	return refuse(MAMPLUS_TAMPER_LIMITS, target, which);
}

SEC("lsm/task_setrlimit")
int BPF_PROG(mamplus_guard_rlimit, struct task_struct *task, unsigned int resource)
{
	return limits(task, resource);
}

SEC("lsm/task_setnice")
int BPF_PROG(mamplus_guard_nice, struct task_struct *task)
{
	return limits(task, RLIMIT_PRIORITY);
}

SEC("lsm/task_setscheduler")
int BPF_PROG(mamplus_guard_scheduler, struct task_struct *task)
{
	return limits(task, RLIMIT_PRIORITY);
}

/* --- maps, programs, links -------------------------------------------------------------------- */

static __always_inline bool runs_program(const struct mamplus_guard_state *state)
{
	struct task_struct___guard *task = (void *)bpf_get_current_task();
	struct inode___guard *inode = BPF_CORE_READ(task, mm, exe_file, f_inode);

	return BPF_CORE_READ(inode, i_ino) == state->exe_ino && BPF_CORE_READ(inode, i_sb, s_dev) == state->exe_dev;
}

/* There is no agent: the current process becomes it, if it may. */
static __always_inline bool claims(struct mamplus_guard_state *state)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct mamplus_own entry = { .start_ticks = BPF_CORE_READ(task, group_leader, start_boottime) / MAMPLUS_TICK_NS };
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;

	if (state->agent_tgid || !runs_program(state))
		return false;
	if (bpf_map_update_elem(&own, &tgid, &entry, BPF_ANY))
		return false;
	state->agent_tgid = tgid;
	tell(MAMPLUS_TAMPER_CLAIM, tgid, tgid, 0);
	return true;
}

/*
 * The inner tables of the BLE come and go, so they are known by their name, which no other agent's have: there may be
 * one beside us, and be it that of `mamplus doctor`.
 */
static __always_inline bool is_own_map(struct bpf_map___guard *map, __u32 id, const struct mamplus_guard_state *state)
{
	const __u64 *wanted;
	__u64 name[2] = {};

	if (own_object(MAMPLUS_OBJECT_MAP, 0, id))
		return true;
	if (!state)
		return false;
	wanted = (const __u64 *)state->table_name;
	bpf_probe_read_kernel(name, sizeof(name), &map->name);
	return wanted[0] && name[0] == wanted[0] && name[1] == wanted[1];
}

/* Whatever the mode of the descriptor: a program that is loaded with one writes the map all the same. */
SEC("lsm/bpf_map")
int BPF_PROG(mamplus_guard_map, struct bpf_map___guard *map)
{
	struct mamplus_guard_state *state = state_now();
	__u32 id = BPF_CORE_READ(map, id);

	if (!is_own_map(map, id, state) || may())
		return 0;
	if (state && id == state->own_map && claims(state))
		return 0;
	return refuse(MAMPLUS_TAMPER_MAP, 0, id);
}

SEC("lsm/bpf_prog")
int BPF_PROG(mamplus_guard_prog, struct bpf_prog___guard *prog)
{
	__u32 id = BPF_CORE_READ(prog, aux, id);

	if (!own_object(MAMPLUS_OBJECT_PROGRAM, 0, id) || may())
		return 0;
	return refuse(MAMPLUS_TAMPER_PROGRAM, 0, id);
}

/*
 * Whether descriptor `fd` of the current process is a link of ours. Another thread could put one there after we
 * looked; so where the table of descriptors is shared, the answer is yes.
 */
static __always_inline bool is_own_link(__u32 fd)
{
	struct task_struct___guard *task = (void *)bpf_get_current_task();
	struct files_struct___guard *files = BPF_CORE_READ(task, files);
	struct fdtable___guard *table = BPF_CORE_READ(files, fdt);
	struct file___guard **slots = BPF_CORE_READ(table, fd), *file = NULL;
	struct bpf_link___guard *link;
	__u32 *program;

	if (BPF_CORE_READ(files, count.counter) > 1)
		return true;
	if (fd >= BPF_CORE_READ(table, max_fds))
		return false;
	bpf_probe_read_kernel(&file, sizeof(file), slots + fd);
	link = (void *)BPF_CORE_READ(file, private_data);
	program = own_object(MAMPLUS_OBJECT_LINK, 0, BPF_CORE_READ(link, id));
	return program && *program == BPF_CORE_READ(link, prog, aux, id);
}

SEC("lsm/bpf")
int BPF_PROG(mamplus_guard_bpf, int cmd, union bpf_attr *attr)
{
	__u32 first = 0;	/* link_id, link_fd: the first field of each of these commands */
	bool is_own;

	if (cmd != CMD_LINK_UPDATE && cmd != CMD_LINK_GET_FD_BY_ID && cmd != CMD_LINK_DETACH)
		return 0;
	bpf_probe_read_kernel(&first, sizeof(first), attr);
	is_own = cmd == CMD_LINK_GET_FD_BY_ID ? own_object(MAMPLUS_OBJECT_LINK, 0, first) != NULL : is_own_link(first);
	if (!is_own || may())
		return 0;
	return refuse(MAMPLUS_TAMPER_LINK, 0, cmd);
}

/* --- pins ------------------------------------------------------------------------------------- */

static __always_inline bool is_own_directory(struct inode___guard *inode)
{
	if (BPF_CORE_READ(inode, i_sb, s_magic) != BPF_FS_MAGIC)
		return false;
	return own_object(MAMPLUS_OBJECT_DIRECTORY, BPF_CORE_READ(inode, i_sb, s_dev), BPF_CORE_READ(inode, i_ino)) != NULL;
}

static __always_inline int pin_touched(struct inode *directory, struct dentry *entry_)
{
	struct dentry___guard *entry = (void *)entry_;
	struct inode___guard *inode = BPF_CORE_READ(entry, d_inode);

	/* what lies in our directory, or the directory itself */
	if (!is_own_directory((void *)directory) && !(inode && is_own_directory(inode)))
		return 0;
	if (may())
		return 0;
	return refuse(MAMPLUS_TAMPER_PIN, 0, BPF_CORE_READ(inode, i_ino));
}

SEC("lsm/inode_unlink")
int BPF_PROG(mamplus_guard_unlink, struct inode *directory, struct dentry *entry)
{
	return pin_touched(directory, entry);
}

SEC("lsm/inode_rmdir")
int BPF_PROG(mamplus_guard_rmdir, struct inode *directory, struct dentry *entry)
{
	return pin_touched(directory, entry);
}

SEC("lsm/inode_rename")
int BPF_PROG(mamplus_guard_rename, struct inode *from, struct dentry *entry, struct inode *to, struct dentry *other)
{
	int error = pin_touched(from, entry);

	return error ? error : pin_touched(to, other);
}

SEC("lsm/sb_umount")
int BPF_PROG(mamplus_guard_umount, void *mount_, int flags)
{
	struct vfsmount___guard *mount = mount_;

	if (!own_object(MAMPLUS_OBJECT_MOUNT, BPF_CORE_READ(mount, mnt_sb, s_dev), 0) || may())
		return 0;
	return refuse(MAMPLUS_TAMPER_UMOUNT, 0, flags);
}

/* --- files of cgroups and of /proc ------------------------------------------------------------ */

SEC("lsm/file_open")
int BPF_PROG(mamplus_guard_open, struct file *file_)
{
	struct file___guard *file = (void *)file_;
	unsigned long magic;
	char name[16] = {};

	if (!(SEE(file_, f_mode) & FMODE_WRITE))
		return 0;
	magic = BPF_CORE_READ(file, f_inode, i_sb, s_magic);
	if (magic != CGROUP2_MAGIC && magic != PROC_MAGIC)
		return 0;
	bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(file, f_path.dentry, d_name.name));
	return magic == CGROUP2_MAGIC ? cgroup_file(file, name) : proc_file(file, name);
}

/* --- the end of a process of ours ------------------------------------------------------------- */

SEC("tp_btf/sched_process_exit")
int BPF_PROG(mamplus_guard_exit, struct task_struct *task)
{
	struct mamplus_guard_state *state = state_now();
	__u32 tgid = SEE(task, tgid);

	if (SEE(task, signal, live.counter) != 0 || !is_target(tgid))
		return 0;	/* other threads live on */
	bpf_map_delete_elem(&own, &tgid);
	if (state && state->agent_tgid == tgid)
		state->agent_tgid = 0;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
