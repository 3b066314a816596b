# SPDX-License-Identifier: Apache-2.0
"""Deletes the content of one directory and gives its blocks back, and ends; whenever it is cut off, it may begin again.

Journey: wipe -> [wipe_helper] -> file system.

    python -m mamplus_host.executor.storage.wipe_helper NAMESPACE HOW PATH
        tree    all below PATH, on its file system; PATH stays
        file    one file: zeros over it, a hole, unlink
        device  all blocks of a device or image are given back
        trim    free blocks of its file system are given back

NAMESPACE is the mount namespace of process 1: in the agent's own (ProtectSystem=strict) most folders are read-only.
Where process 1 lets nobody in, the agent's own has to do.
Answers with {"files": ..., "bytes": ..., "note": ...}. A link is never followed, and no other file system entered.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator

from mamplus_host.executor.storage.mount_helper import enter
from mamplus_host.executor.storage.names import DIRECTORY, above

PUNCH = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
FITRIM, BLKDISCARD, BLKGETSIZE64 = 0xC0185879, 0x1277, 0x80081272
_NOT_POSSIBLE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOKEY, errno.EPERM)
_ZEROS = bytes(1 << 16)

Answer = dict[str, object]


class Gone:
    """What has been deleted."""

    def __init__(self) -> None:
        self.files = self.bytes = 0
        self.kept: list[str] = []  # names that could not be removed


def tree(path: str) -> Answer:
    """Delete all below `path`."""
    gone = Gone()
    try:
        with above(path) as (parent, name):
            descriptor = os.open(name, DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        return {"files": 0, "bytes": 0, "note": "was not there"}
    try:
        _empty(descriptor, gone)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    note = f"{len(gone.kept)} names stay, as {gone.kept[0]!r}" if gone.kept else ""
    return {"files": gone.files, "bytes": gone.bytes, "note": note}


def _empty(top: int, gone: Gone) -> None:
    """Delete all below `top`, however deep that is: one directory is open at a time, and `..` leads back."""
    device = os.fstat(top).st_dev
    levels = [_level(top, "")]
    current = os.dup(top)
    try:
        while True:
            names, _identity, own = levels[-1]
            name = next(names, None)
            if name is not None:
                below = _delete(current, name, device, gone)
                if below >= 0:
                    os.close(current)
                    current = below
                    levels.append(_level(below, name))
                continue
            levels.pop()
            if not levels:
                return
            above_it = _up(current, levels[-1][1])
            os.close(current)
            current = above_it
            try:
                os.rmdir(own, dir_fd=current)
            except OSError:
                gone.kept.append(own)
    finally:
        os.close(current)


def _level(directory: int, name: str) -> tuple[Iterator[str], tuple[int, int], str]:
    """Return what is to be known of a directory on the way down: names in it, what it is, its own name."""
    found = os.fstat(directory)
    return iter(os.listdir(directory)), (found.st_dev, found.st_ino), name


def _up(directory: int, wanted: tuple[int, int]) -> int:
    """Return a descriptor of the directory above; OSError when that is another by now: it was moved elsewhere."""
    parent = os.open("..", DIRECTORY, dir_fd=directory)
    found = os.fstat(parent)
    if (found.st_dev, found.st_ino) != wanted:
        os.close(parent)
        raise OSError(errno.ESTALE, "a directory was moved meanwhile; the next try goes on")
    return parent


def _delete(directory: int, name: str, device: int, gone: Gone) -> int:
    """Delete one name; return a descriptor of what has to be emptied first, -1 when there is nothing more to do."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if found.st_dev != device:
            gone.kept.append(name)  # something is mounted there
        elif stat.S_ISDIR(found.st_mode):
            return os.open(name, DIRECTORY, dir_fd=directory)
        else:
            if stat.S_ISREG(found.st_mode):
                _punch_name(directory, name, found)
            os.unlink(name, dir_fd=directory)
            gone.files += 1
            gone.bytes += found.st_size
    except OSError:
        gone.kept.append(name)
    return -1


def _punch_name(directory: int, name: str, found: os.stat_result) -> None:
    """Give the blocks back before the name goes; what is open elsewhere loses its content with it."""
    if found.st_nlink > 1:
        return  # its other names may lie outside of the container
    with contextlib.suppress(OSError):  # no key, or an immutable file: unlink says the rest
        descriptor = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            _punch(descriptor, found.st_size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def one_file(path: str) -> Answer:
    """Overwrite, punch and unlink one file."""
    try:
        with above(path) as (directory, name):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            descriptor = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                for at in range(0, found.st_size, len(_ZEROS)):
                    os.pwrite(descriptor, _ZEROS[: found.st_size - at], at)
                os.fsync(descriptor)
                with contextlib.suppress(OSError):
                    _punch(descriptor, found.st_size)
            finally:
                os.close(descriptor)
            os.unlink(name, dir_fd=directory)
            os.fsync(directory)
    except FileNotFoundError:
        return {"files": 0, "bytes": 0, "note": "was not there"}
    return {"files": 1, "bytes": found.st_size, "note": ""}


def device(path: str) -> Answer:
    """Give all blocks of a block device (BLKDISCARD) or of an image (a hole) back; say so where that does not go."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if stat.S_ISBLK(os.fstat(descriptor).st_mode):
            size = struct.unpack("=Q", fcntl.ioctl(descriptor, BLKGETSIZE64, bytes(8)))[0]
            fcntl.ioctl(descriptor, BLKDISCARD, struct.pack("=QQ", 0, size))
        else:
            size = os.fstat(descriptor).st_size
            _punch(descriptor, size)
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_POSSIBLE:
            raise
        return {"files": 0, "bytes": 0, "note": f"its blocks cannot be given back: {error.strerror}"}
    finally:
        os.close(descriptor)
    return {"files": 0, "bytes": size, "note": ""}


def trim(path: str) -> Answer:
    """Give the free blocks of the file system of `path` back (FITRIM); where that is not possible, say so."""
    descriptor = os.open(path, DIRECTORY)
    try:
        asked = bytearray(struct.pack("=QQQ", 0, (1 << 64) - 1, 0))
        fcntl.ioctl(descriptor, FITRIM, asked, True)
    except OSError as error:
        if error.errno not in _NOT_POSSIBLE:
            raise
        return {"files": 0, "bytes": 0, "note": f"free blocks cannot be given back: {error.strerror}"}
    finally:
        os.close(descriptor)
    return {"files": 0, "bytes": struct.unpack_from("=Q", asked, 8)[0], "note": ""}


def _punch(descriptor: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if size and libc.fallocate(descriptor, PUNCH, ctypes.c_long(0), ctypes.c_long(size)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


COMMANDS: dict[str, Callable[[str], Answer]] = {"tree": tree, "file": one_file, "device": device, "trim": trim}


def main() -> int:
    namespace, command, path = sys.argv[1:]
    try:
        with contextlib.suppress(OSError):
            enter(namespace)
        print(json.dumps(COMMANDS[command](path)))
    except OSError as error:
        print(f"{path!r}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
