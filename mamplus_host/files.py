# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there, whenever the power goes.

Only a file, or nothing, is replaced: who names a device as a place to write to wants it to be written to.

A file is written beside its place, synced, renamed over it, and the directory is synced:
a reader meets the old content or the new one. A full disk is NotPossible and leaves the old.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mamplus_host.errors import NotPossible

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replacing(path: Path, *, mode: int) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` when the block ends, for good; when it fails, the old one stays.

    `mode` as for open(2): the umask takes from it. FileExistsError where something else than a file is.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise FileExistsError(errno.EEXIST, "it is a device or a pipe, which a file would replace", str(path))
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        put_in_place(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace the content of `path`; NotPossible when there is no room for it."""
    try:
        with replacing(path, mode=mode) as file:
            file.write(data)
    except OSError as error:
        raise no_room(error, path) from None


def put_in_place(beside: Path, path: Path) -> None:
    """Rename the synced file `beside` to `path` in the same directory, for good."""
    beside.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in `path` last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def no_room(error: OSError, path: Path) -> Exception:
    """Return the error to raise for `error` at `path`: NotPossible for a full disk, else `error` itself."""
    if error.errno in _NO_ROOM:
        return NotPossible(f"no room for {str(path)!r}: {error.strerror}; make room, the old content stays in force")
    return error


def sync_file(path: Path) -> None:
    """Make the content of `path` last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
