# SPDX-License-Identifier: Apache-2.0
"""Changes mounts in the mount namespace of process 1, and ends: the agent's own is another one (ProtectSystem=).

Journey: mount, wipe -> [mount_helper] -> mount(2), umount2(2).

    python -m mamplus_host.executor.storage.mount_helper NAMESPACE flags POINT NUMBER   of this mount alone
    python -m mamplus_host.executor.storage.mount_helper NAMESPACE unmount POINT [lazy]
    python -m mamplus_host.executor.storage.mount_helper NAMESPACE mount SOURCE POINT TYPE NUMBER OPTIONS
    python -m mamplus_host.executor.storage.mount_helper NAMESPACE run COMMAND...   becomes that, there if it may
"""

import contextlib
import ctypes
import errno
import os
import sys

CLONE_NEWNS = 0x20000
MS_REMOUNT, MS_BIND = 32, 4096
UMOUNT_NOFOLLOW, MNT_DETACH = 8, 2


def main() -> int:
    namespace, command, *words = sys.argv[1:]
    try:
        with contextlib.suppress(*([OSError] if command == "run" else [])):
            enter(namespace)
        if command == "flags":
            _mount("none", words[0], "", MS_REMOUNT | MS_BIND | int(words[1]), "")
        elif command == "unmount":
            _unmount(words[0], is_lazy="lazy" in words[1:])
        elif command == "run":
            os.execvp(words[0], words)
        else:
            source, point, kind, flags, options = words
            _mount(source, point, kind, int(flags), options)
    except OSError as error:
        hint = "; a program has a file open there: close it" if error.errno == errno.EBUSY else ""
        print(f"{error.strerror}{hint}", file=sys.stderr)
        return 1
    return 0


def enter(namespace: str) -> None:
    """Be in the mount namespace that the file `namespace` names, unless we are already."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    own, wanted = os.stat("/proc/self/ns/mnt"), os.fstat(descriptor)
    if own.st_ino != wanted.st_ino and libc.setns(descriptor, CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _mount(source: str, point: str, kind: str, flags: int, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [os.fsencode(word) for word in (source, point, kind)]
    if libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(options) or None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _unmount(point: str, *, is_lazy: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(point), UMOUNT_NOFOLLOW | (MNT_DETACH if is_lazy else 0)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    sys.exit(main())
