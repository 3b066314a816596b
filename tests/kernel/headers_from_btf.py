# SPDX-License-Identifier: Apache-2.0
"""Headers of the running kernel for bcc where no package has them: other headers, with our structs from its BTF.

Only what exec.bpf.c reads is right in them, at the offsets that this kernel's own description says.
"""

import subprocess
from pathlib import Path

from mamplus_host.kernel.headers import kernel_headers

BTF = "/sys/kernel/btf/vmlinux"
CTIMES = {  # what kernels have called it, newest first: member -> type
    "i_ctime_sec": {"i_ctime_sec": "long long", "i_ctime_nsec": "unsigned int"},
    "__i_ctime": {"__i_ctime": "struct { long long tv_sec; long tv_nsec; }"},
    "i_ctime": {"i_ctime": "struct { long long tv_sec; long tv_nsec; }"},
}
STRUCTS = {
    "super_block": {"s_dev": "unsigned int", "s_magic": "unsigned long"},
    "inode": {
        "i_mode": "unsigned short", "i_ino": "unsigned long", "i_nlink": "unsigned int", "i_size": "long long",
        "i_sb": "struct super_block *",
    },
    "dentry": {"d_parent": "struct dentry *", "d_inode": "struct inode *"},
    "path": {"dentry": "struct dentry *"},
    "file": {"f_path": "struct path", "f_inode": "struct inode *"},
    "linux_binprm": {"file": "struct file *", "filename": "const char *"},
    "cred": {"uid": "struct { unsigned int val; }"},
    "signal_struct": {"group_exit_code": "int", "live": "struct { int counter; }"},
    "task_struct": {
        "ptrace": "unsigned int", "pid": "int", "tgid": "int", "exit_code": "int",
        "real_parent": "struct task_struct *", "group_leader": "struct task_struct *",
        "start_boottime": "unsigned long long", "cred": "const struct cred *", "signal": "struct signal_struct *",
        "comm": "char [16]",
    },
}  # fmt: skip
# Where exec.bpf.c's loader looks for them, and what then holds nothing more.
OURS, EMPTY = "include/linux/fs.h", ("sched.h", "sched/signal.h", "binfmts.h", "cred.h")


def make(directory: Path) -> Path:
    """Return a tree for BCC_KERNEL_SOURCE, made in `directory`."""
    tree = directory / "headers"
    with kernel_headers() as other:
        _copy_links(other, tree)
    for name in (OURS, *(f"include/linux/{name}" for name in EMPTY)):
        (tree / name).unlink(missing_ok=True)
        (tree / name).write_text("")
    (tree / OURS).write_text(_structs(directory))
    return tree


def _copy_links(other: Path, tree: Path) -> None:
    """Make a tree of our own of what is linked, with a directory `linux` whose files can be others."""
    subprocess.run(["cp", "-a", other, tree], check=True)
    linux = (tree / "include/linux").resolve()
    (tree / "include/linux").unlink()
    subprocess.run(["cp", "-rs", linux, tree / "include/linux"], check=True)


def _structs(directory: Path) -> str:
    types = directory / "types.h"
    with types.open("w") as out:
        subprocess.run(["bpftool", "btf", "dump", "file", BTF, "format", "c"], stdout=out, check=True)
    declared = types.read_text()
    ctime = next(members for name, members in CTIMES.items() if f" {name};" in declared)
    wanted = STRUCTS | {"inode": STRUCTS["inode"] | ctime}
    offsets = _offsets(directory, [(struct, member) for struct, members in wanted.items() for member in members])
    lines = ["typedef unsigned short umode_t;", *(f"struct {name};" for name in wanted)]
    for struct, members in wanted.items():
        lines.append(f"struct {struct} {{ union {{")
        for member, kind in members.items():
            base, _, length = kind.partition(" [")
            array = f"[{length}" if length else ""
            lines.append(f"\tstruct {{ char before_{member}[{offsets[struct, member]}]; {base} {member}{array}; }};")
        lines.append("}; };")
    return "\n".join(lines) + "\n"


def _offsets(directory: Path, members: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Return where a member lies, in bytes, as a compiler reads this kernel's types."""
    prints = "".join(f'printf("%lu\\n", __builtin_offsetof(struct {struct}, {member}));' for struct, member in members)
    source = f'#include "types.h"\nextern int printf(const char *, ...);\nint main(void) {{ {prints} }}\n'
    command = ["clang", "-w", "-x", "c", "-", "-o", str(directory / "offsets"), f"-I{directory}"]
    subprocess.run(command, input=source, text=True, check=True)
    told = subprocess.run([directory / "offsets"], capture_output=True, text=True, check=True).stdout
    return dict(zip(members, map(int, told.split()), strict=True))
