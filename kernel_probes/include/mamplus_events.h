/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What crosses the rings from the kernel to user space, and nothing else.
 *
 * Plain C integers and no includes, so clang, gcc, bcc and cffi's parser read the
 * same text. No holes: padding has a name and sizes are asserted. Kinds and
 * flags are never renumbered or reused. All integers are in host byte order
 * unless the name ends in _be.
 */
#ifndef MAMPLUS_EVENTS_H
#define MAMPLUS_EVENTS_H

#define MAMPLUS_COMM_LEN 16	/* TASK_COMM_LEN: fixed by the kernel */
#define MAMPLUS_PATH_LEN 256	/* bytes kept of a file name, NUL included */
#define MAMPLUS_LONG_PATH 4096
#define MAMPLUS_SHA256_LEN 32
#define MAMPLUS_ADDR_LEN 16	/* IPv6, or IPv4 as ::ffff:a.b.c.d */
#define MAMPLUS_NAME_LEN 256	/* a DNS name in text, NUL included (RFC 1035: 253) */
#define MAMPLUS_NO_SLOT 0xffffffff

enum mamplus_kind {
	MAMPLUS_KIND_EXEC = 1,		/* struct mamplus_exec */
	MAMPLUS_KIND_FORK = 2,		/* struct mamplus_fork */
	MAMPLUS_KIND_EXIT = 3,		/* struct mamplus_exit */
	MAMPLUS_KIND_CONNECT = 4,	/* struct mamplus_connect: connect(2) */
	MAMPLUS_KIND_SENDMSG = 5,	/* struct mamplus_connect: unconnected sendto(2) and kin */
	MAMPLUS_KIND_PACKET = 6,	/* struct mamplus_packet: refused by xt_bpf */
	MAMPLUS_KIND_DNS = 7,		/* struct mamplus_dns: a query, refused */
	MAMPLUS_KIND_HELD = 8,		/* struct mamplus_exec: the answer to a start that waited */
	MAMPLUS_KIND_FILE = 9,		/* struct mamplus_access: refused, suspected, or answered by declaration */
	MAMPLUS_KIND_TAMPER = 10,	/* struct mamplus_tamper */
};

/* In order: the greater wins. */
enum mamplus_verdict {
	MAMPLUS_NOTHING = 0,
	MAMPLUS_SUSPECT = 1,
	MAMPLUS_BLOCK = 2,
	MAMPLUS_ALLOW = 3,
	MAMPLUS_GUARD = 4,
};

/* What was asked of a file. Never renumbered. */
enum mamplus_op {
	MAMPLUS_OP_OPEN = 1,
	MAMPLUS_OP_MAP_EXEC = 2,	/* mmap or mprotect with PROT_EXEC: a library, or a program through its loader */
	MAMPLUS_OP_WRITE = 3,		/* opened for writing */
	MAMPLUS_OP_TRUNCATE = 4,
	MAMPLUS_OP_UNLINK = 5,
	MAMPLUS_OP_RENAME = 6,
	MAMPLUS_OP_LINK = 7,
	MAMPLUS_OP_SETATTR = 8,
	MAMPLUS_OP_MAP_WRITE = 9,
	MAMPLUS_OP_READ = 10,
	MAMPLUS_OP_CREATE = 11,		/* a new name */
	MAMPLUS_OP_MOUNT = 12,		/* over it, or over the way to it */
};

/* mamplus_head.flags */
#define MAMPLUS_F_REFUSED 0x01		/* the kernel refused, killed or dropped */
#define MAMPLUS_F_MONITOR 0x02		/* would have been refused; monitor mode let it go on */
#define MAMPLUS_F_UNKNOWN 0x04		/* no SHA-256 was known for the file */
#define MAMPLUS_F_HELD 0x08		/* the start waits for its SHA-256 */
#define MAMPLUS_F_WORLD_WRITABLE 0x10	/* the program lies in a directory that others may write */
#define MAMPLUS_F_DECLARED 0x20		/* the policy's declared answer was used (see mamplus_posture) */
#define MAMPLUS_F_INGRESS 0x40		/* packet: towards the device */
#define MAMPLUS_F_DELETED 0x80		/* exec: the file has no link left (memfd, unlinked) */
#define MAMPLUS_F_ACTED 0x100		/* connect, sendmsg: an action is in force (isolation, a refused app or host) */

/* First member of every event. Times are CLOCK_BOOTTIME, so suspend counts. */
struct mamplus_head {
	unsigned long long boot_ns;
	unsigned long long cgroup_id;	/* cgroup v2 inode number */
	unsigned long long generation;	/* of the BLE that was asked; 0 while none is loaded */
	unsigned int size;		/* bytes, this header included */
	unsigned int tgid;		/* the "pid" that user space shows */
	unsigned int ppid;		/* tgid of the parent */
	unsigned int uid;
	unsigned int slot;		/* where the deciding word lies in its BLE table; MAMPLUS_NO_SLOT: none did */
	unsigned int flags;		/* MAMPLUS_F_ */
	unsigned short kind;		/* enum mamplus_kind */
	unsigned short verdict;		/* enum mamplus_verdict */
	unsigned int pad;
	char comm[MAMPLUS_COMM_LEN];	/* NUL-terminated, chosen by the task: untrusted */
};

/* A file as the kernel holds it. dev is the kernel's dev_t: major << 20 | minor. */
struct mamplus_file {
	unsigned long long dev;
	unsigned long long ino;
	unsigned long long size;
	long long ctime_s;
	unsigned int ctime_ns;
	unsigned int mode;		/* st_mode */
};

struct mamplus_exec {
	struct mamplus_head head;
	struct mamplus_file file;
	unsigned char sha256[MAMPLUS_SHA256_LEN];	/* zero while MAMPLUS_F_UNKNOWN */
	unsigned long long waited_ns;	/* HELD only: from the start to the answer */
	char path[MAMPLUS_PATH_LEN];	/* as given to execve: may be relative or a link */
};

/* What a task wanted of a file. An access that nothing is said about has no record. */
struct mamplus_access {
	struct mamplus_head head;
	struct mamplus_file file;
	unsigned char sha256[MAMPLUS_SHA256_LEN];	/* zero where no hash was asked for or known */
	unsigned long long waited_ns;	/* 0, or from the first try to the answer */
	unsigned int op;		/* enum mamplus_op */
	unsigned int pad;
	char path[MAMPLUS_PATH_LEN];	/* as the kernel names it, the end of it when it is longer; "" where no hook can tell */
};

struct mamplus_fork {
	struct mamplus_head head;	/* of the parent */
	unsigned int child_tgid;
	unsigned int pad;
};

struct mamplus_exit {
	struct mamplus_head head;
	int exit_code;			/* as in task_struct: signal in the low 7 bits, status << 8 */
	unsigned int pad;
};

struct mamplus_connect {
	struct mamplus_head head;
	unsigned char addr[MAMPLUS_ADDR_LEN];
	unsigned short port_be;
	unsigned char protocol;		/* IPPROTO_ */
	unsigned char family;		/* AF_INET 2, AF_INET6 10: the socket's, before mapping */
	unsigned int pad;
};

struct mamplus_packet {
	struct mamplus_head head;	/* the task is whoever ran on that CPU: not evidence */
	unsigned char saddr[MAMPLUS_ADDR_LEN];
	unsigned char daddr[MAMPLUS_ADDR_LEN];
	unsigned short sport_be;
	unsigned short dport_be;
	unsigned char protocol;
	unsigned char pad[3];
};

struct mamplus_dns {
	struct mamplus_head head;
	unsigned char server[MAMPLUS_ADDR_LEN];
	char name[MAMPLUS_NAME_LEN];	/* lower case, dotted, no trailing dot */
};

/* What somebody does to the agent, its responder, or what they have in the kernel. */
enum mamplus_tamper_op {
	MAMPLUS_TAMPER_SIGNAL = 1,	/* argument: the signal; MAMPLUS_TAMPER_BY_KERNEL */
	MAMPLUS_TAMPER_PTRACE = 2,	/* argument: PTRACE_MODE_ of the access; also /proc/PID/mem, process_vm_*, pidfd_getfd */
	MAMPLUS_TAMPER_MAP = 3,		/* a descriptor of a map; argument: its id */
	MAMPLUS_TAMPER_PROGRAM = 4,	/* a descriptor of a program; argument: its id */
	MAMPLUS_TAMPER_LINK = 5,	/* argument: the bpf(2) command */
	MAMPLUS_TAMPER_PIN = 6,		/* a pin unlinked, renamed or replaced; argument: its inode number */
	MAMPLUS_TAMPER_UMOUNT = 7,	/* of the bpffs with our pins; argument: flags of umount2(2) */
	MAMPLUS_TAMPER_CGROUP = 8,	/* freeze, kill or a memory limit of a cgroup above us; argument: its id */
	MAMPLUS_TAMPER_LIMITS = 9,	/* oom_score_adj, resource limits, priority, scheduler; argument: which resource */
	MAMPLUS_TAMPER_IDENTITY = 11,	/* prctl(2), for another file to be its program; argument: PR_SET_MM_ */
	MAMPLUS_TAMPER_TRACING = 12,	/* kernel.ftrace_enabled: 0 takes every program of the LSM's away */
	MAMPLUS_TAMPER_CLAIM = 10,	/* a process becomes the agent, because there was none; not refused */
};

#define MAMPLUS_TAMPER_BY_KERNEL 0x10000	/* of a signal: not sent by a program (out of memory, terminal) */

struct mamplus_tamper {
	struct mamplus_head head;	/* who does it; MAMPLUS_F_REFUSED: it was refused */
	unsigned int op;		/* enum mamplus_tamper_op */
	unsigned int target_tgid;	/* 0: no process */
	unsigned long long argument;
};

/* The holds ring, read by the responder alone: a start that waits. */
struct mamplus_hold {
	unsigned long long boot_ns;
	unsigned int tgid;
	unsigned int op;		/* 0: a start; enum mamplus_op: a struct mamplus_want follows it in memory */
	struct mamplus_file file;
	struct mamplus_file loader;	/* of a start: its ELF interpreter, when that is unknown too; ino 0: none */
};

/* The same ring: an access that waits. The task tries it again when it goes on; `waits` says what came of it. */
struct mamplus_want {
	struct mamplus_hold hold;	/* op is not 0 */
	unsigned long long from;	/* mprotect only: where the file is mapped */
	unsigned long long to;
	unsigned int pid;		/* the thread; 0: nobody waits, it is only to be hashed */
	unsigned int pad;
	/* Below the task's root; the last name alone, when all of it is too long; "" when the file is open or mapped. */
	char path[MAMPLUS_PATH_LEN];	/* a long record has LONG_PATH */
};

_Static_assert(sizeof(struct mamplus_head) == 72, "hole in mamplus_head");
_Static_assert(sizeof(struct mamplus_file) == 40, "hole in mamplus_file");
_Static_assert(sizeof(struct mamplus_exec) == 408, "hole in mamplus_exec");
_Static_assert(sizeof(struct mamplus_access) == 416, "hole in mamplus_access");
_Static_assert(sizeof(struct mamplus_fork) == 80, "hole in mamplus_fork");
_Static_assert(sizeof(struct mamplus_exit) == 80, "hole in mamplus_exit");
_Static_assert(sizeof(struct mamplus_connect) == 96, "hole in mamplus_connect");
_Static_assert(sizeof(struct mamplus_packet) == 112, "hole in mamplus_packet");
_Static_assert(sizeof(struct mamplus_dns) == 344, "hole in mamplus_dns");
_Static_assert(sizeof(struct mamplus_tamper) == 88, "hole in mamplus_tamper");
_Static_assert(sizeof(struct mamplus_hold) == 96, "hole in mamplus_hold");
_Static_assert(sizeof(struct mamplus_want) == 376, "hole in mamplus_want");
#endif
