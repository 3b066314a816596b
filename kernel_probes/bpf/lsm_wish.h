/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a task wants of which file, as an LSM hook sees it, and how the answer is told. */
#ifndef MAMPLUS_LSM_WISH_H
#define MAMPLUS_LSM_WISH_H

#include "exec_logic.h"
#include "scope.h"

#define MAMPLUS_EPERM 1
#define MAMPLUS_S_IFMT 0170000
#define MAMPLUS_S_IFREG 0100000

/* What a task wants. */
struct wish {
	struct mamplus_file file;
	__u32 flags;		/* MAMPLUS_F_ that the file earns */
	__u32 op;		/* enum mamplus_op; 0: to start it, as a script */
	__u64 from, to;		/* mprotect: where it is mapped */
	bool is_written;	/* somebody has it open for writing */
};

static __always_inline bool is_regular(struct inode *inode)
{
	return (inode->i_mode & MAMPLUS_S_IFMT) == MAMPLUS_S_IFREG;
}

static __always_inline void fill_wish(struct wish *wish, struct file *file, __u32 op)
{
	struct inode *inode = file->f_inode;

	__builtin_memset(wish, 0, sizeof(*wish));
	wish->flags = see_file(&wish->file, file);
	wish->is_written = inode->i_writecount.counter > 0;
	wish->op = op;
}

/* Who answers and the agent are never asked about (reading a fanotify event opens its file), and PID 1 is never refused. */
static __always_inline bool is_exempt(void)
{
	__u32 zero = 0, tgid = bpf_get_current_pid_tgid() >> 32;
	struct mamplus_heartbeat *beat = bpf_map_lookup_elem(&heartbeat, &zero);

	return tgid == 1 ||
	       (beat && (beat->responder_tgid == tgid || beat->keeper_tgid == tgid || beat->agent_tgid == tgid));
}

/* path: NULL where the hook may not ask for one. It must come from the hook's own arguments, or the verifier objects. */
static __always_inline void name_it(char *out, struct path *path, struct file *file)
{
	const unsigned char *name;

	__builtin_memset(out, 0, MAMPLUS_PATH_LEN);
	if (path && bpf_d_path(path, out, MAMPLUS_PATH_LEN) > 0)
		return;
	name = BPF_CORE_READ(file, f_path.dentry, d_name.name);	/* the end of it, when it is too long */
	bpf_probe_read_kernel_str(out, MAMPLUS_PATH_LEN, name);
}

/* --- records ------------------------------------------------------------------------------- */

static __always_inline void tell_start(const struct wish *wish, const struct mamplus_head *judged,
				       const unsigned char *sha256, struct path *path, struct file *file)
{
	struct mamplus_exec *record = reserve(sizeof(*record));

	if (!record) {
		count(MAMPLUS_C_LOST);
		return;
	}
	fill_head(&record->head, MAMPLUS_KIND_EXEC, sizeof(*record));
	take_judgement(&record->head, judged);
	record->file = wish->file;
	record->file.dev = (__u32)wish->file.dev;
	__builtin_memset(record->sha256, 0, MAMPLUS_SHA256_LEN);
	if (sha256)
		__builtin_memcpy(record->sha256, sha256, MAMPLUS_SHA256_LEN);
	record->waited_ns = 0;
	name_it(record->path, path, file);
	submit(record, sizeof(*record), true);
}

static __always_inline void tell_access(const struct wish *wish, const struct mamplus_head *judged,
					const unsigned char *sha256, struct path *path, struct file *file)
{
	struct mamplus_access *record = reserve(sizeof(*record));

	if (!record) {
		count(MAMPLUS_C_LOST);
		return;
	}
	fill_head(&record->head, MAMPLUS_KIND_FILE, sizeof(*record));
	take_judgement(&record->head, judged);
	record->file = wish->file;
	record->file.dev = (__u32)wish->file.dev;
	__builtin_memset(record->sha256, 0, MAMPLUS_SHA256_LEN);
	if (sha256)
		__builtin_memcpy(record->sha256, sha256, MAMPLUS_SHA256_LEN);
	record->waited_ns = 0;
	record->op = wish->op;
	record->pad = 0;
	name_it(record->path, path, file);
	submit(record, sizeof(*record), true);
}

static __always_inline int end(const struct wish *wish, struct mamplus_head *judged, const unsigned char *sha256,
			       struct path *path, struct file *file)
{
	if (wish->op)
		tell_access(wish, judged, sha256, path, file);
	else
		tell_start(wish, judged, sha256, path, file);
	if (!(judged->flags & MAMPLUS_F_REFUSED))
		return 0;
	count(MAMPLUS_C_REFUSED);
	return -MAMPLUS_EPERM;
}

#endif
