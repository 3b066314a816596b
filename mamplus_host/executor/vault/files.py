# SPDX-License-Identifier: Apache-2.0
"""The protected files themselves: looked at and put back without following any link.

Journey: vault -> [vault/files] -> file system.

Whoever damages a file may also swap its directory for a link to somewhere else, and we
are root; so every path is walked from / one name at a time, and a name that is a link or no
directory is moved aside, never followed. A file appears whole: written under another name, then the two names are
exchanged. What stood there lies under the other name until it is kept, or the next start finds it. Nothing waits
for the disk before the file is back; `settle` does afterwards, and a power cut in between leaves a file that
differs from what is kept, which the next start puts back.
"""

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec

from mamplus_host.executor.vault.objects import copy_content
from mamplus_host.executor.vault.store import DIRECTORY, FILE, SYMLINK, Facts

TEMPORARY = ".mamplus-put-"
ASIDE = ".mamplus-aside-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME
_DIGITS = 16  # of the hash of a name
_START = len(TEMPORARY) + _DIGITS + 1
_SAYABLE = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_EXCHANGE = 2  # linux/fs.h: RENAME_EXCHANGE
_CANNOT_EXCHANGE = (errno.ENOENT, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)

DirectoryFacts = Callable[[str], tuple[int, int, int]]  # path -> mode, uid, gid
_libc = ctypes.CDLL(None, use_errno=True)


class Placed(msgspec.Struct):
    """A file that is back, and what is still to be done about it; `settle` or `drop` closes it."""

    path: str
    directory: int  # descriptor
    new: int  # descriptor of the file that is there now; -1 of a link, directory or another name
    old: int  # of the regular file that stood there, open for reading; -1 when there was none
    aside: str  # name under which that lies now; "" when it has none
    note: str  # what had to be moved aside, for people; "" mostly
    identity: tuple[int, ...]  # of the file that is there now

    def settle(self) -> None:
        """Make the file last, and take what stood there away."""
        try:
            if self.new >= 0:
                os.fsync(self.new)
            if self.aside:
                with suppress(FileNotFoundError):
                    os.unlink(self.aside, dir_fd=self.directory)
            os.fsync(self.directory)
        finally:
            self.drop()

    def drop(self) -> None:
        """Close what is open."""
        for fd in (self.directory, self.new, self.old):
            if fd >= 0:
                os.close(fd)
        self.directory = self.new = self.old = -1


def look(path: str) -> int:
    """Return a descriptor of the regular file at `path`; OSError when it is not there, or a link is on the way."""
    with _walk(path, _no_such) as (directory, name, _notes):
        return _open_regular(directory, name)


def has_writers(fd: int) -> bool:
    """Say whether somebody has the file behind `fd` (read only) open for writing, or mapped so; False: not known.

    Asked by a lease, which is given back at once. Whoever opens the file in between waits for that, and we are told
    by a signal that does nothing: SIGIO would end us.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:  # this file system has no leases
        return False
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def seen(path: str) -> Facts:
    """Return what `path` is, a file's content aside; OSError when it is not there, or is something else."""
    with _walk(path, _no_such) as (directory, name, _notes):
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode):
            fd = _open_regular(directory, name)
            try:
                return facts_of(fd)
            finally:
                os.close(fd)
        if stat.S_ISDIR(found.st_mode):
            fd = os.open(name, _DIRECTORY, dir_fd=directory)
            try:
                return _facts(os.fstat(fd), DIRECTORY, _xattrs(fd))
            finally:
                os.close(fd)
        if stat.S_ISLNK(found.st_mode):
            return _facts(found, SYMLINK, (), os.readlink(name, dir_fd=directory))
        raise FileNotFoundError(f"{path!r} is neither a file nor a directory nor a link")


def facts_of(fd: int) -> Facts:
    """Return everything that is kept about an open file besides its content."""
    return _facts(os.fstat(fd), FILE, _xattrs(fd))


def identity_of(found: os.stat_result) -> tuple[int, ...]:
    """Return what changes with nearly every change of a file."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_nlink)


def directories_above(path: str) -> Iterator[tuple[str, int, int, int]]:
    """Yield (path, mode, uid, gid) of every directory above `path`, the root excepted."""
    parent = os.path.dirname(path)
    while parent != "/":
        found = os.stat(parent, follow_symlinks=False)
        yield parent, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid
        parent = os.path.dirname(parent)


def put(path: str, content_fd: int, facts: Facts, directories: DirectoryFacts, action: str = "") -> Placed:
    """Make `path` the file that `content_fd` and `facts` describe; OSError when it cannot be.

    Missing directories are made as they were. The caller settles what is returned. `action` is part of the other
    name: what is left of it after a power cut is found by that.
    """

    def write(directory: int, temporary: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            copy_content(content_fd, fd)
            dress(fd, facts)
        except BaseException:
            os.close(fd)
            raise
        return fd

    return _place(path, write, directories, action)


def put_same(path: str, fd: int, directories: DirectoryFacts) -> Placed:
    """Make `path` another name of the open file `fd`; OSError when it lies on another file system or has no name."""

    def link(directory: int, temporary: str) -> int:
        os.link(f"/proc/self/fd/{fd}", temporary, dst_dir_fd=directory, follow_symlinks=True)
        return -1

    return _place(path, link, directories)


def put_link(path: str, facts: Facts, directories: DirectoryFacts) -> Placed:
    """Make `path` the symbolic link that `facts` describe; OSError when it cannot be."""

    def make(directory: int, temporary: str) -> int:
        os.symlink(facts.target, temporary, dir_fd=directory)
        os.chown(temporary, facts.uid, facts.gid, dir_fd=directory, follow_symlinks=False)
        os.utime(temporary, ns=(facts.atime_ns, facts.mtime_ns), dir_fd=directory, follow_symlinks=False)
        return -1

    return _place(path, make, directories)


def put_directory(path: str, facts: Facts, directories: DirectoryFacts) -> str:
    """Make `path` the directory that `facts` describe, what is in it aside; return what was moved, for people."""
    with _walk(path, directories) as (directory, name, notes):
        below = _enter(directory, name, path, lambda _path: (facts.mode, facts.uid, facts.gid), notes)
        try:
            dress(below, facts)
            os.fsync(below)
        finally:
            os.close(below)
        os.fsync(directory)
        return "; ".join(notes)


def take_away(path: str) -> None:
    """Remove the file, link or empty directory at `path`; nothing when there is none. OSError when it cannot be."""
    with suppress(FileNotFoundError), _walk(path, _no_such) as (directory, name, _notes):
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            os.rmdir(name, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)
        os.fsync(directory)


def leftovers(directory_path: str, found: Callable[[str, str, int], object]) -> None:
    """Call `found` with each file that interrupted restorations left in a directory, then take it away.

    It is given the start of the file's name (`temporary_of`), the action, and a descriptor.
    """
    with suppress(OSError), _walk(f"{directory_path}/.", _no_such) as (directory, _name, _notes):
        for one in os.listdir(directory):
            if one.startswith(TEMPORARY):
                with suppress(OSError):
                    fd = _open_regular(directory, one)
                    try:
                        found(one[:_START], one[_START:].rpartition("-")[0], fd)
                    finally:
                        os.close(fd)
                os.unlink(one, dir_fd=directory)


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


def _place(path: str, make: Callable[[int, str], int], directories: DirectoryFacts, action: str = "") -> Placed:
    """Have `make` make the new file under another name, and let it take the place of what is at `path`."""
    with _walk(path, directories) as (directory, name, notes):
        known = action if _SAYABLE.fullmatch(action) else ""
        temporary = f"{temporary_of(name)}{known}-{secrets.token_hex(4)}"
        new = old = -1
        try:
            new = make(directory, temporary)
            old = _take_down(directory, name, notes)
            is_aside = _exchange(directory, temporary, name)
            identity = identity_of(os.stat(name, dir_fd=directory, follow_symlinks=False))
            return Placed(
                path=path, directory=os.dup(directory), new=new, old=old, aside=temporary if is_aside else "",
                note="; ".join(notes), identity=identity,
            )  # fmt: skip
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            for fd in (new, old):
                if fd >= 0:
                    os.close(fd)
            raise


def _exchange(directory: int, temporary: str, name: str) -> bool:
    """Let the file `temporary` be `name`; return whether what was `name` is `temporary` now, or has no name."""
    before, after = os.fsencode(temporary), os.fsencode(name)
    if _libc.renameat2(directory, before, directory, after, _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number not in _CANNOT_EXCHANGE:
        raise OSError(number, os.strerror(number), name)
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    return False


def temporary_of(name: str) -> str:
    """Return how the other names of `name` begin: which file a leftover was is known by it."""
    return f"{TEMPORARY}{hashlib.sha256(os.fsencode(name)).hexdigest()[:_DIGITS]}-"


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


def _facts(found: os.stat_result, kind: str, xattrs: tuple[tuple[str, bytes], ...], target: str = "") -> Facts:
    is_file = kind == FILE
    return Facts(
        size=found.st_size if is_file else 0, mode=stat.S_IMODE(found.st_mode), uid=found.st_uid, gid=found.st_gid,
        atime_ns=found.st_atime_ns, mtime_ns=found.st_mtime_ns, xattrs=xattrs, type=kind, target=target,
        inode=f"{found.st_dev}:{found.st_ino}" if is_file and found.st_nlink > 1 else "",
    )  # fmt: skip


def _xattrs(fd: int) -> tuple[tuple[str, bytes], ...]:
    return tuple(sorted((name, os.getxattr(fd, name)) for name in os.listxattr(fd)))


def _no_such(path: str) -> tuple[int, int, int]:
    raise FileNotFoundError(f"{path!r} is no directory")
