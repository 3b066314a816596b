# SPDX-License-Identifier: Apache-2.0
"""System calls that Python has no function for. Each raises OSError as those of `os` do."""

import ctypes
import fcntl
import os
import platform
import signal
import struct
from collections.abc import Callable
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
IS_X86 = platform.machine() == "x86_64"
# Calls younger than 424 have one number everywhere.
NUMBERS = {
    "execveat": 322 if IS_X86 else 281,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "clone3": 435,
    "pidfd_getfd": 438,
    "name_to_handle_at": 303 if IS_X86 else 264,
    "open_by_handle_at": 304 if IS_X86 else 265,
}
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWCGROUP = 0x00020000, 0x10000000, 0x20000000, 0x02000000
CLONE_INTO_CGROUP = 0x200000000
FICLONE = 0x40049409
MS_BIND, MS_REC, MS_PRIVATE, MS_MOVE = 4096, 16384, 1 << 18, 8192


def call(name: str, *arguments: Any) -> int:
    """Make a system call by name; integers and bytes are passed as such."""
    plain = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return checked(_libc.syscall(ctypes.c_long(NUMBERS[name]), *plain))


def checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def executable_at(descriptor: int, path: bytes, arguments: list[bytes], flags: int = AT_EMPTY_PATH) -> None:
    """execveat(2), with no environment. Returns never, or raises."""
    vector = (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)
    empty = (ctypes.c_char_p * 1)(None)
    call("execveat", descriptor, path, vector, empty, flags)


def memory_file(body: bytes, *, is_sealed: bool = False) -> int:
    """A memfd with that content, executable."""
    descriptor = os.memfd_create("x", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, body)
    if is_sealed:
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        return descriptor
    readable = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(descriptor)  # with a writer left, the kernel would not start it (ETXTBSY)
    return readable


def unshare(flags: int) -> None:
    checked(_libc.unshare(flags))


def mount(source: bytes, target: bytes, kind: bytes = b"", flags: int = 0, data: bytes = b"") -> None:
    checked(_libc.mount(source, target, kind, ctypes.c_ulong(flags), data))


def exchange(one: os.PathLike[str], other: os.PathLike[str]) -> None:
    """renameat2(2) with RENAME_EXCHANGE."""
    checked(_libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), 2))


def fallocate(descriptor: int, mode: int, offset: int, size: int) -> None:
    checked(_libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(size)))


def is_whole_machine_ours() -> bool:
    """Whether this is a virtual machine that is thrown away: only there may something be done to all of it."""
    return "MAMPLUS_VM" in os.environ


def clone_blocks(target: int, source: int) -> None:
    """ioctl(2) with FICLONE: the target gets the blocks of the source."""
    fcntl.ioctl(target, FICLONE, source)


def own_mounts() -> None:
    """Have a mount namespace of one's own, from which nothing comes back."""
    unshare(CLONE_NEWNS)
    mount(b"none", b"/", flags=MS_REC | MS_PRIVATE)


def fork_into(cgroup: int) -> int:
    """As fork(2), into a cgroup by its descriptor: clone3(2) with CLONE_INTO_CGROUP."""
    arguments = struct.pack("=11Q", CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup)
    return call("clone3", arguments, len(arguments))


def child(deed: Callable[[], Any], fork: Callable[[], int] = os.fork) -> int:
    """Do something in a child and return how it ended, as a shell does: 128 + the signal."""
    pid = fork()
    if pid == 0:
        try:
            deed()
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def own_user() -> None:
    """Have a user and a mount namespace of one's own, in which one is root."""
    uid, gid = os.getuid(), os.getgid()
    unshare(CLONE_NEWUSER | CLONE_NEWNS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    mount(b"none", b"/", flags=MS_REC | MS_PRIVATE)


def unmount(path: os.PathLike[str]) -> None:
    """umount2(2), lazily."""
    checked(_libc.umount2(os.fsencode(path), 2))
