# SPDX-License-Identifier: Apache-2.0
"""Where our pins lie, and which of them an agent may adopt.

    <bpffs>/packet_in, packet_out       what iptables rules name: one path through all releases
    <bpffs>/<stamp>-<cgroup id>/        maps by name, prog_<name>, link_<name>

The directory's name is the stamp: a digest of the objects that were loaded, and the cgroup
that they are attached to. An agent that would load the same adopts; any other makes its own
directory beside it and removes this one when its own tables are filled.
"""

import hashlib
import os
import re
import subprocess
from pathlib import Path

from mamplus_host.config import Config
from mamplus_host.errors import NotPossible
from mamplus_host.kernel._native import lib
from mamplus_host.kernel.bpf import Fd, checked
from mamplus_host.mountinfo import mounted

HERE = Path(__file__).resolve().parent
OBJECTS = tuple(HERE / "objects" / f"{name}.bpf.o" for name in ("exec", "connect", "packet", "refuse", "watch"))
OPTIONAL_OBJECTS = tuple(  # their headers say which kernels take them
    HERE / "objects" / f"{name}.bpf.o" for name in ("resumed", "signal", "tamper", "lsm_exec")
)
GUARD_OBJECT = HERE / "objects" / "lsm_guard.bpf.o"  # `guard.py` loads it
FILES_OBJECT = HERE / "objects" / "lsm_files.bpf.o"  # loaded by whoever has rules about files
# Without BTF: what reads no kernel struct, and the source of what does, for bcc (bcc_exec.py).
PLAIN_OBJECTS = tuple(HERE / "objects" / f"{name}.plain.bpf.o" for name in ("connect", "packet", "refuse", "watch"))
BCC_SOURCES = HERE / "bcc"
BTF = Path("/sys/kernel/btf/vmlinux")
LOADER = HERE / "native" / "mamplus-loader"
RESPONDER = HERE / "native" / "mamplus-responder"
HASHER = HERE / "native" / "mamplus-hash"

TRACING = {
    "mamplus_exec": "tp_btf/sched_process_exec",
    "mamplus_fork": "tp_btf/sched_process_fork",
    "mamplus_exit": "tp_btf/sched_process_exit",
}
# What ends a waiting program that somebody else lets go on: the first of them that the kernel attaches.
WAKER_HOOKS = {"mamplus_resumed": "fexit/get_signal", "mamplus_signal": "tp_btf/signal_generate"}
# What an optional object brings; attached where its program was loaded. The call is the same for a tracepoint and an
# LSM hook.
_OPTIONAL_HOOKS = {
    "mamplus_tamper": "tp_btf/signal_generate",
    "mamplus_bprm": "lsm/bprm_check_security",
    "mamplus_mmap": "lsm/mmap_file",
    "mamplus_mprotect": "lsm/file_mprotect",
    "mamplus_inode_gone": "lsm/inode_free_security",
    "mamplus_mounting": "fentry/security_sb_set_mnt_opts",
    "mamplus_mounted": "lsm/sb_set_mnt_opts",
    "mamplus_prctl": "lsm/task_prctl",
    "mamplus_open": "lsm/file_open",
}
GUARD = {  # self-protection, where the kernel has BPF LSM: all of them or none
    "mamplus_guard_kill": "lsm/task_kill",
    "mamplus_guard_ptrace": "lsm/ptrace_access_check",
    "mamplus_guard_rlimit": "lsm/task_setrlimit",
    "mamplus_guard_nice": "lsm/task_setnice",
    "mamplus_guard_scheduler": "lsm/task_setscheduler",
    "mamplus_guard_map": "lsm/bpf_map",
    "mamplus_guard_prog": "lsm/bpf_prog",
    "mamplus_guard_bpf": "lsm/bpf",
    "mamplus_guard_unlink": "lsm/inode_unlink",
    "mamplus_guard_rmdir": "lsm/inode_rmdir",
    "mamplus_guard_rename": "lsm/inode_rename",
    "mamplus_guard_umount": "lsm/sb_umount",
    "mamplus_guard_open": "lsm/file_open",
    "mamplus_guard_exit": "tp_btf/sched_process_exit",
}
FILE_HOOKS = {  # guarded paths; file_open comes last: with its link they are whole
    f"mamplus_file_{name}": f"lsm/{hook}"
    for name, hook in {
        "permission": "file_permission", "map": "mmap_file", "protect": "file_mprotect",
        "ioctl": "file_ioctl", "ioctl32": "file_ioctl_compat", "unlink": "inode_unlink", "rmdir": "inode_rmdir",
        "rename": "inode_rename", "link": "inode_link", "create": "inode_create", "symlink": "inode_symlink",
        "mkdir": "inode_mkdir", "mknod": "inode_mknod", "attr_2args": "inode_setattr", "attr_3args": "inode_setattr",
        "xattr": "inode_setxattr", "noxattr": "inode_removexattr", "acl": "inode_set_acl",
        "noacl": "inode_remove_acl", "mount": "sb_mount", "move_mount": "move_mount",
        "umount": "sb_umount", "pivot": "sb_pivotroot", "open": "file_open",
    }.items()
}  # fmt: skip
LAST_FILE_HOOK = "mamplus_file_open"
OPTIONAL_TRACING = _OPTIONAL_HOOKS | FILE_HOOKS  # but for WAKER_HOOKS
CGROUP = {  # name: (section, enum bpf_attach_type)
    "mamplus_connect4": ("cgroup/connect4", 10),
    "mamplus_connect6": ("cgroup/connect6", 11),
    "mamplus_sendmsg4": ("cgroup/sendmsg4", 14),
    "mamplus_sendmsg6": ("cgroup/sendmsg6", 15),
    "mamplus_dns": ("cgroup_skb/egress", 1),
    "mamplus_egress": ("cgroup_skb/egress", 1),
    "mamplus_ingress": ("cgroup_skb/ingress", 0),
}
PACKET = {"in": "mamplus_packet_in", "out": "mamplus_packet_out"}
UNATTACHED = ("mamplus_answer", "mamplus_access", *PACKET.values())
LINKS = (*TRACING, *CGROUP)
MAPS = (
    "active", "asked", "births", "ble", "counters", "events", "guard", "heartbeat", "held", "holds", "interpreters",
    "known", "loaders", "names", "opened", "patterns", "posture", "refused", "refusing", "scope", "shape", "waiting",
    "waits", "watch",
)  # fmt: skip
GUARD_MAPS = ("guard_state", "own", "own_objects")
OPTIONAL_MAPS = ("file_rules", "guards", "guard_names", "guard_writers")  # made by the objects that read them

_STAMPED = re.compile(r"[0-9a-f]{16}-[0-9a-f]+")
_BPF_FS_MAGIC = "bpf"
_LABEL_MASK = (1 << 28) - 1  # seven of the fifteen letters that a map's name may have


def has_btf() -> bool:
    """Say whether this kernel describes its types, so that libbpf can place what the objects read."""
    return BTF.exists() and BTF.stat().st_size > 0


def places() -> dict[str, str]:
    """Return where each program that is no cgroup's is attached."""
    if has_btf():
        return TRACING | WAKER_HOOKS | OPTIONAL_TRACING | GUARD
    return {name: place.replace("tp_btf/", "raw_tp/") for name, place in TRACING.items()}


def link_pin(directory: Path, name: str) -> Path:
    return directory / f"link_{name}"


def program_pin(directory: Path, name: str) -> Path:
    return directory / f"prog_{name}"


def packet_pin(config: Config, direction: str) -> Path:
    """Return the pin for `direction` "in" or "out"; it stays where it is when programs are replaced."""
    return config.bpffs / f"packet_{direction}"


def stamp() -> str:
    """Return what stands for the objects that this agent would load: 16 hex digits."""
    digest = hashlib.sha256()
    without_btf = (*PLAIN_OBJECTS, *sorted(BCC_SOURCES.glob("*")))
    for path in (*OBJECTS, *OPTIONAL_OBJECTS, GUARD_OBJECT, FILES_OBJECT) if has_btf() else without_btf:
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise NotPossible(f"a BPF object is missing: {error}; build them with `make build`") from None
    return digest.hexdigest()[:16]


def directory_for(config: Config, cgroup: Path) -> Path:
    """Return where this agent's pins lie, whether they are there or not."""
    return config.bpffs / f"{stamp()}-{cgroup.stat().st_ino:x}"


def table_label(directory: Path) -> str:
    """Return what the kernel calls the tables of the list that the agent of `directory` fills.

    By its cgroup, which no two agents share and an upgrade keeps: they come and go with each generation, and
    lsm_guard.bpf.c knows its own by this name.
    """
    return f"mamplus_{int(directory.name.rpartition('-')[2], 16) & _LABEL_MASK:07x}"


def directories(config: Config) -> list[Path]:
    """Return every directory of ours below `config.bpffs`, of whatever release and cgroup."""
    if not config.bpffs.is_dir():
        return []
    return sorted(path for path in config.bpffs.iterdir() if path.is_dir() and _STAMPED.fullmatch(path.name))


def is_ours(name: str) -> bool:
    """Whether a pin of this name in a directory of ours is one that we made."""
    return name in (*MAPS, *GUARD_MAPS, *OPTIONAL_MAPS) or name.startswith(("link_mamplus_", "prog_mamplus_"))


def of_file_hooks(directory: Path) -> list[Path]:
    """Return the pins in `directory` that lsm_files made, links first."""
    wanted = [pin(directory, name) for pin in (link_pin, program_pin) for name in FILE_HOOKS]
    return [path for path in (*wanted, *(directory / name for name in OPTIONAL_MAPS)) if path.exists()]


def is_complete(directory: Path) -> bool:
    """Say whether everything is pinned: an attach that was cut off is not adopted.

    Of the optional objects that which the kernel took, with its links.
    """
    wanted = [link_pin(directory, name) for name in LINKS]
    wanted += [program_pin(directory, name) for name in (*LINKS, *UNATTACHED)]
    wanted += [directory / name for name in MAPS]
    wanted += [link_pin(directory, name) for name in OPTIONAL_TRACING if program_pin(directory, name).exists()]
    return all(path.exists() for path in wanted)


def remove(directory: Path) -> None:
    """Remove one directory of ours, links first: that is what detaches. What is not ours stays."""
    for path in sorted(directory.iterdir(), key=lambda path: not path.name.startswith("link_")):
        if is_ours(path.name):
            _detach(path)
            path.unlink()
    _remove_if_empty(directory)


def _detach(path: Path) -> None:
    """Detach a cgroup link at once: the kernel frees an unlinked one later, from a work queue (bpf_link_put)."""
    if path.name.startswith("link_") and path.name.removeprefix("link_") in CGROUP:
        with Fd.open(path) as link:
            checked(lib.mamplus_link_detach(link.number), f"detach {path.name}")


def remove_all(config: Config) -> None:
    """Remove every pin of ours and only ours."""
    for directory in directories(config):
        remove(directory)
    for direction in PACKET:
        packet_pin(config, direction).unlink(missing_ok=True)
        packet_pin(config, f"{direction}_new").unlink(missing_ok=True)
    if config.bpffs.is_dir():
        _remove_if_empty(config.bpffs)


def _remove_if_empty(directory: Path) -> None:
    if not any(directory.iterdir()):
        directory.rmdir()


def make_room(config: Config) -> None:
    """Make `config.bpffs` a directory on a bpffs; NotPossible when it cannot be one.

    /sys/fs/bpf is mounted when nothing is: on a device without systemd that is the normal state.
    """
    default = Path("/sys/fs/bpf")
    if config.bpffs.is_relative_to(default) and default.is_dir() and _file_system(default) != _BPF_FS_MAGIC:
        subprocess.run(["mount", "-t", "bpf", "bpf", str(default)], check=False, capture_output=True)
    try:
        config.bpffs.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise NotPossible(f"cannot make {str(config.bpffs)!r}: {error}; name a place with [paths] bpffs") from None
    seen = _file_system(config.bpffs)
    if seen != _BPF_FS_MAGIC:
        raise NotPossible(f"{str(config.bpffs)!r} lies on {seen!r}, want a bpffs; mount one: mount -t bpf bpf DIR")


def _file_system(path: Path) -> str:
    """Return the type of the file system that `path` lies on, "" when /proc does not say."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return next((one.kind for one in mounted() if one.device == wanted), "")
