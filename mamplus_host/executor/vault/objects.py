# SPDX-License-Identifier: Apache-2.0
"""Contents that the vault keeps: files named by their SHA-256, plain or packed.

Journey: vault -> [vault/objects] -> disk.

An object is on the disk, whole, before the index names it. It shares its blocks with the original where the
file system can do that; elsewhere the kernel copies (copy_file_range, sendfile), and nothing passes through Python
but what is hashed. What is seldom needed is packed later with zstd, in a process that ends (`vault/pack`): the newest
golden copy of a file stays plain, because putting it back must not wait for anybody.
"""

import ctypes
import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mamplus_host.errors import VaultError
from mamplus_host.executor.vault.pack import Packing, unpack_file
from mamplus_host.files import sync_directory, sync_file

FICLONE = 0x40049409  # linux/fs.h: share blocks (btrfs, xfs, ...)
CHUNK_BYTES = 1 << 20
PACKED = ".zst"
_NEW = ".new-"
_SYNCED_ALONE = 32  # files that are synced one by one
_ELSEWHERE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)
_libc = ctypes.CDLL(None, use_errno=True)


class Objects:
    """The contents below `directory`. One process, one thread."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._unsynced: list[str] = []

    def has_any(self) -> bool:
        """Say whether contents are here, those aside that an interrupted `copy_in` left."""
        return any(not name.startswith(_NEW) for name in os.listdir(self._directory))

    def copy_in(self, source_fd: int, *, max_bytes: int, sync: bool = True) -> tuple[str, int, int]:
        """Keep the content of `source_fd`; return its SHA-256, its size, and the bytes that it takes here.

        VaultError when it has more than `max_bytes`. Without `sync` it may be lost in a power cut until `sync_all`.
        """
        beside = self._directory / f"{_NEW}{secrets.token_hex(8)}"
        fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        try:
            sha256, size = _copy_and_hash(source_fd, fd, max_bytes)
            if sync:
                os.fsync(fd)
            if self.stored_bytes(sha256) < 0:
                beside.replace(self._directory / sha256)
                if sync:
                    sync_directory(self._directory)
                else:
                    self._unsynced.append(sha256)
        except OSError as error:
            raise VaultError(f"cannot keep a copy in {str(self._directory)!r}: {error}; make room there") from None
        finally:
            os.close(fd)
            beside.unlink(missing_ok=True)
        return sha256, size, self.stored_bytes(sha256)

    def open(self, sha256: str) -> int:
        """Return a descriptor of a kept content, unpacked; VaultError when it is gone or damaged."""
        try:
            return os.open(self._directory / sha256, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return self._unpacked(sha256)
        except OSError as error:
            raise _unreadable(sha256, error) from None

    def stored_bytes(self, sha256: str) -> int:
        """Return how many bytes a content takes here; -1 when it is not kept."""
        for name in (sha256, sha256 + PACKED):
            with suppress(FileNotFoundError):
                return os.stat(self._directory / name).st_size
        return -1

    def is_packed(self, sha256: str) -> bool:
        return not (self._directory / sha256).exists() and (self._directory / (sha256 + PACKED)).exists()

    def begin_packing(self, wanted: list[str]) -> Packing:
        """Have another process pack contents where that pays: what is packed is on the disk before the plain goes."""
        return Packing({one: self._directory / one for one in wanted}, PACKED)

    def unpack(self, sha256: str) -> None:
        """Have a content plain again: it is what a protected file should be."""
        if not self.is_packed(sha256):
            return
        source = self._unpacked(sha256)
        try:
            again, _size, _stored = self._plain_copy(source, sha256)
        finally:
            os.close(source)
        if again != sha256:
            raise VaultError(f"the kept content {sha256} is damaged; protect the file again")

    def sync_all(self) -> None:
        """Make last what was copied in without `sync`: a few one by one, many with the whole file system."""
        names, self._unsynced = self._unsynced, []
        if len(names) > _SYNCED_ALONE:
            sync_file_system(self._directory)
            return
        for name in names:
            with suppress(FileNotFoundError):  # a batch that failed took it away
                sync_file(self._directory / name)
        if names:
            sync_directory(self._directory)

    def remove_but(self, kept: set[str]) -> None:
        """Remove all contents that are not in `kept`, and what an interrupted copy left."""
        for entry in list(os.scandir(self._directory)):
            if entry.name.removesuffix(PACKED) not in kept:
                os.unlink(entry.path)

    def remove(self, unwanted: Iterator[str] | list[str]) -> None:
        for sha256 in unwanted:
            for name in (sha256, sha256 + PACKED):
                with suppress(FileNotFoundError):
                    os.unlink(self._directory / name)

    def _plain_copy(self, source: int, sha256: str) -> tuple[str, int, int]:
        beside = self._directory / f"{_NEW}{secrets.token_hex(8)}"
        fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        try:
            found, size = _copy_and_hash(source, fd, 1 << 62)
            os.fsync(fd)
            if found == sha256:
                beside.replace(self._directory / sha256)
                sync_directory(self._directory)
                (self._directory / (sha256 + PACKED)).unlink(missing_ok=True)
        finally:
            os.close(fd)
            beside.unlink(missing_ok=True)
        return found, size, size

    def _unpacked(self, sha256: str) -> int:
        packed = self._directory / (sha256 + PACKED)
        if not packed.exists():
            raise _unreadable(sha256, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
        fd = os.open(self._directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o400)
        try:
            unpack_file(packed, fd)
        except OSError as error:
            os.close(fd)
            raise _unreadable(sha256, error) from None
        return fd


def sync_file_system(path: Path) -> None:
    """Make everything last that was written to the file system of `path`; VaultError when the disk did not take it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) < 0:
            number = ctypes.get_errno()
            raise VaultError(f"cannot write {str(path)!r} to the disk: {os.strerror(number)}")
    finally:
        os.close(fd)


def copy_content(source: int, target: int) -> None:
    """Make the empty file `target` hold what `source` holds, in the kernel, sharing blocks where that is possible."""
    with suppress(OSError):
        fcntl.ioctl(target, FICLONE, source)
        return
    size = os.fstat(source).st_size
    done = _by_kernel(source, target, size)
    while chunk := os.pread(source, CHUNK_BYTES, done):  # what the kernel would not copy, or grew meanwhile
        os.lseek(target, done, os.SEEK_SET)
        write_all(target, chunk)
        done += len(chunk)


def _by_kernel(source: int, target: int, size: int) -> int:
    """Copy by copy_file_range(2), else by sendfile(2); return how many bytes were copied."""
    done = 0
    try:
        while done < size and (count := os.copy_file_range(source, target, size - done, done, done)):
            done += count
    except OSError as error:
        if error.errno not in _ELSEWHERE:
            raise
        os.lseek(target, done, os.SEEK_SET)
        with suppress(OSError):
            while done < size and (count := os.sendfile(target, source, done, size - done)):
                done += count
    return done


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`; OSError when that is not possible."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sha256_of(fd: int, max_bytes: int) -> str:
    """Return the hash of at most `max_bytes` + 1 bytes: a longer file differs from what is expected anyway."""
    digest, at = hashlib.sha256(), 0
    while at <= max_bytes and (chunk := os.pread(fd, min(CHUNK_BYTES, max_bytes + 1 - at), at)):
        digest.update(chunk)
        at += len(chunk)
    return digest.hexdigest()


def _copy_and_hash(source: int, target: int, max_bytes: int) -> tuple[str, int]:
    """Copy, sharing blocks where possible; return SHA-256 and size of what `target` has now."""
    try:
        fcntl.ioctl(target, FICLONE, source)
        cloned = True
    except OSError:
        cloned = False
    digest, size = hashlib.sha256(), 0
    reader = target if cloned else source
    while chunk := os.pread(reader, CHUNK_BYTES, size):
        size += len(chunk)
        if size > max_bytes:
            raise VaultError(f"the file has more than {max_bytes} bytes, the most that is kept of one file")
        digest.update(chunk)
        if not cloned:
            write_all(target, chunk)
    return digest.hexdigest(), size


def _unreadable(sha256: str, error: OSError) -> VaultError:
    return VaultError(f"the kept content {sha256} cannot be read: {error}; protect the file again")
