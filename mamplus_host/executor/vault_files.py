# SPDX-License-Identifier: Apache-2.0
"""The protected files themselves: looked at and put back without following any link.

Journey: vault -> [vault_files] -> file system.

Whoever damages a file may also swap its directory for a link to somewhere else, and we
are root; so every path is walked from / one name at a time, and a name that is a link or no
directory is moved aside, never followed. A file appears whole: written under another name,
synced, renamed.
"""

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec

from mamplus_host.executor.vault_store import CHUNK_BYTES, Facts, write_all

TEMPORARY = ".mamplus-put-"
ASIDE = ".mamplus-aside-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME

DirectoryFacts = Callable[[str], tuple[int, int, int]]  # path -> mode, uid, gid


class Found(msgspec.Struct, frozen=True):
    """What stood where a file was put back."""

    fd: int  # of the replaced regular file, still open for reading; -1 when there was none
    note: str  # what had to be moved aside, for people; "" mostly


def look(path: str) -> int:
    """Return a descriptor of the regular file at `path`; OSError when it is not there, or a link is on the way."""
    with _walk(path, _no_such) as (directory, name, _notes):
        return _open_regular(directory, name)


def facts_of(fd: int) -> Facts:
    """Return everything that is kept about an open file besides its content."""
    found = os.fstat(fd)
    return Facts(
        size=found.st_size, mode=stat.S_IMODE(found.st_mode), uid=found.st_uid, gid=found.st_gid,
        atime_ns=found.st_atime_ns, mtime_ns=found.st_mtime_ns,
        xattrs=tuple(sorted((name, os.getxattr(fd, name)) for name in os.listxattr(fd))),
    )  # fmt: skip


def directories_above(path: str) -> Iterator[tuple[str, int, int, int]]:
    """Yield (path, mode, uid, gid) of every directory above `path`, the root excepted."""
    parent = os.path.dirname(path)
    while parent != "/":
        found = os.stat(parent, follow_symlinks=False)
        yield parent, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid
        parent = os.path.dirname(parent)


def put(path: str, content_fd: int, facts: Facts, directories: DirectoryFacts) -> Found:
    """Make `path` the file that `content_fd` and `facts` describe; OSError when it cannot be.

    Missing directories are made as they were. The caller closes `Found.fd`.
    """
    with _walk(path, directories) as (directory, name, notes):
        temporary = f"{TEMPORARY}{secrets.token_hex(8)}"
        old = -1
        try:
            _write_temporary(directory, temporary, content_fd, facts)
            old = _take_down(directory, name, notes)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            if old >= 0:
                os.close(old)
            raise
        return Found(old, "; ".join(notes))


def sweep(path: str) -> None:
    """Remove what an interrupted `put` of `path` left beside it."""
    with suppress(OSError), _walk(path, _no_such) as (directory, _name, _notes):
        for name in os.listdir(directory):
            if name.startswith(TEMPORARY):
                os.unlink(name, dir_fd=directory)


def _write_temporary(directory: int, name: str, content_fd: int, facts: Facts) -> None:
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        at = 0
        while chunk := os.pread(content_fd, CHUNK_BYTES, at):
            write_all(fd, chunk)
            at += len(chunk)
        dress(fd, facts)
        os.fsync(fd)
    finally:
        os.close(fd)


def dress(fd: int, facts: Facts) -> None:
    """Give an open file its owner, mode, attributes and times.

    In this order: chown clears set-id bits and capabilities, an ACL rewrites the mode's
    group bits (to what was recorded), and everything before touches the times.
    """
    os.fchown(fd, facts.uid, facts.gid)
    os.fchmod(fd, facts.mode)
    wanted = dict(facts.xattrs)
    for name in os.listxattr(fd):  # inherited from the directory: default ACLs, labels
        if name not in wanted:
            os.removexattr(fd, name)
    for name, value in wanted.items():
        os.setxattr(fd, name, value)
    os.utime(fd, ns=(facts.atime_ns, facts.mtime_ns))


def _take_down(directory: int, name: str, notes: list[str]) -> int:
    """Make room for the rename; return a descriptor of the regular file that goes, or -1."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return -1
    if stat.S_ISREG(found.st_mode):
        return _open_regular(directory, name)
    _move_aside(directory, name, notes)
    return -1


def _open_regular(directory: int, name: str) -> int:
    before = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISREG(before.st_mode):  # asked first: opening a device can have effects
        fd = os.open(name, _READ, dir_fd=directory)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
    raise FileNotFoundError(f"{name!r} is no regular file")


@contextmanager
def _walk(path: str, directories: DirectoryFacts) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (descriptor of the directory, last name, notes), making what is missing as `directories` says."""
    *above, name = [part for part in path.split("/") if part]
    notes: list[str] = []
    directory = os.open("/", _DIRECTORY)
    walked = ""
    try:
        for part in above:
            walked += "/" + part
            below = _enter(directory, part, walked, directories, notes)
            os.close(directory)
            directory = below
        yield directory, name, notes
    finally:
        os.close(directory)


def _enter(directory: int, part: str, path: str, directories: DirectoryFacts, notes: list[str]) -> int:
    try:
        return os.open(part, _DIRECTORY, dir_fd=directory)
    except FileNotFoundError:
        mode, uid, gid = directories(path)
    except NotADirectoryError:  # O_NOFOLLOW | O_DIRECTORY says this of links too
        mode, uid, gid = directories(path)
        _move_aside(directory, part, notes)
    os.mkdir(part, 0o700, dir_fd=directory)
    made = os.open(part, _DIRECTORY, dir_fd=directory)
    os.fchown(made, uid, gid)
    os.fchmod(made, mode)
    os.fsync(directory)
    notes.append(f"{path!r} was made again")
    return made


def _move_aside(directory: int, name: str, notes: list[str]) -> None:
    aside = f"{ASIDE}{secrets.token_hex(4)}"
    os.rename(name, aside, src_dir_fd=directory, dst_dir_fd=directory)
    notes.append(f"{name!r} was something else and is {aside!r} now")


def _no_such(path: str) -> tuple[int, int, int]:
    raise FileNotFoundError(f"{path!r} is no directory")
