# SPDX-License-Identifier: Apache-2.0
"""Golden copies of protected files: taken, compared, put back.

Journey: administrator -> [vault] protects; execute -> [vault] restores.

A restored file has the content, mode, owner, extended attributes (ACLs, capabilities, labels)
and times that were recorded; its inode is a new one. What stood in its place is kept as
a version while there is room, so that a restoration can be undone: first the file is back,
then its replacement is kept, since the defence must not wait for a copy of the damage.

This module does not watch files and does not decide when to restore.
"""

import hashlib
import os
import sqlite3
import stat
from pathlib import Path

import msgspec

from mamplus_host.clock import Clock
from mamplus_host.config import Limits
from mamplus_host.errors import VaultError
from mamplus_host.executor import vault_files
from mamplus_host.executor.vault_store import CHUNK_BYTES, GOLDEN, REPLACED, Facts, Store, Version

MAX_PROTECTED = 20_000  # files


class Protected(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `mamplus vault list`."""

    path: str
    sha256: str  # of the newest golden version
    size: int
    taken_at: float
    versions: int  # kept, golden and replaced
    suspended: bool  # restored too often: waits for an administrator


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restoration did."""

    version: int
    replaced: int  # version id of what stood there; 0 when nothing of it is kept
    note: str  # for people; "" mostly


class Vault:
    """The vault in `directory`. One process, one thread."""

    def __init__(self, directory: Path, *, limits: Limits, clock: Clock) -> None:
        self._store = Store(directory)
        self._limits, self._clock = limits, clock
        self._seen: dict[str, tuple[int, tuple[int, ...]]] = {}  # path -> (version, identity) last found intact
        self.not_kept = 0  # replaced contents for which there was no room

    def close(self) -> None:
        self._store.close()

    # --- what is protected -------------------------------------------------------------------

    def protect(self, path: Path) -> list[str]:
        """Take golden copies of the file, or of every regular file below the directory; return their paths.

        Links on the way to `path` are resolved; inside a directory they, and what is no regular
        file, are left out. VaultError names what does not fit; then nothing new is protected.
        """
        paths = _regular_files(path)
        self._check_room(paths)
        before = self._store.protected()
        try:
            for one in paths:
                self._take(one)
        except (OSError, VaultError) as error:
            self._store.forget(one for one in paths if one not in before)
            raise VaultError(f"cannot protect {str(path)!r}: {error}") from None
        return paths

    def unprotect(self, path: Path) -> list[str]:
        """Forget the file, or all below the directory; return what was protected. VaultError when nothing was."""
        wanted = self._known(path)
        gone = [one for one in self._store.protected() if one == wanted or one.startswith(wanted + "/")]
        if not gone:
            raise VaultError(f"{wanted!r} is not protected; `mamplus vault list` shows what is")
        self._store.forget(gone)
        for one in gone:
            self._seen.pop(one, None)
        return gone

    def paths(self) -> list[str]:
        """Return the protected paths."""
        return list(self._store.protected())

    def versions(self, path: Path) -> list[Version]:
        """Return what is kept of `path`, newest first."""
        return self._store.versions(self._known(path))

    def latest(self, path: str) -> Version:
        """Return the golden version that `path` should be; VaultError when it is not protected."""
        return self._store.latest(path)

    def is_protected(self, path: str) -> bool:
        return self._store.is_protected(path)

    def is_suspended(self, path: str) -> bool:
        return bool(self._store.suspended_at(path))

    def suspend(self, path: str) -> None:
        """Stop restoring `path` by itself until `resume`, `protect` or `restore`; survives restarts."""
        self._store.suspend(path, self._clock.wall_s() or 1.0)

    def resume(self, path: str) -> None:
        self._store.suspend(path, 0)

    # --- is it as it was? --------------------------------------------------------------------

    def intact(self, path: str, *, quick: bool = False) -> bool:
        """Say whether `path` is its newest golden version, its time of last access aside.

        `quick` believes an unchanged inode, size, mtime and ctime. That is for going through all
        files, not for answering an event: on tmpfs a write through a shared mapping leaves all
        four as they were.
        """
        golden = self._store.latest(path)
        try:
            fd = vault_files.look(path)
        except OSError:
            return False
        try:
            identity = _identity(os.fstat(fd))
            if quick and self._seen.get(path) == (golden.id, identity):
                return True
            same = _same(vault_files.facts_of(fd), golden.facts) and _sha256(fd, golden.facts.size) == golden.sha256
        except OSError:
            return False
        finally:
            os.close(fd)
        if same:
            self._seen[path] = (golden.id, identity)
        return same

    # --- put back ----------------------------------------------------------------------------

    def restore(self, path: Path, at: float | None = None) -> Restored:
        """Put the newest golden version back (not newer than `at`, seconds since the epoch).

        What was restored is what `intact` compares with from now on; so an older version that is
        asked for becomes the newest. Ends a suspension. Raises VaultError.
        """
        wanted = self._known(path)
        version = self._store.latest(wanted, at=at)
        restored = self.put_back(wanted, version.id)
        if version.id != self._store.latest(wanted).id:
            self._store.add(wanted, GOLDEN, self._clock.wall_s(), version.sha256, version.facts)
        self.resume(wanted)
        return restored

    def put_back(self, path: str, version_id: int) -> Restored:
        """Make `path` what version `version_id` was, and keep what stood there. Raises VaultError."""
        version = self._store.version(version_id)
        content = self._store.open_object(version.sha256)
        try:
            found = vault_files.put(path, content, version.facts, self._store.directory)
        except OSError as error:
            raise VaultError(f"cannot put {path!r} back: {error}") from None
        finally:
            os.close(content)
        replaced, note = self._keep_replaced(path, found)
        return Restored(version=version_id, replaced=replaced, note=note)

    def make_golden(self, path: str, version_id: int) -> None:
        """Declare a kept version to be what `path` should be: its change was legitimate after all."""
        version = self._store.version(version_id)
        self._store.add(path, GOLDEN, self._clock.wall_s(), version.sha256, version.facts)

    def sweep(self, path: str) -> None:
        """Remove what an interrupted restoration of `path` left beside it."""
        vault_files.sweep(path)

    # --- inside ------------------------------------------------------------------------------

    def _known(self, path: Path) -> str:
        """Return the protected path that `path` means: as it is written, though a directory of it be a link by now."""
        written = os.path.abspath(path)
        below = written + "/"
        is_known = any(one == written or one.startswith(below) for one in self._store.protected())
        return written if is_known else _canonical(path)

    def _check_room(self, paths: list[str]) -> None:
        if len(paths) + len(self._store.protected()) > MAX_PROTECTED:
            raise VaultError(f"{len(paths)} more files would be protected, want at most {MAX_PROTECTED} altogether")
        total = 0
        for one in paths:
            size = os.stat(one, follow_symlinks=False).st_size
            total += size
            if size > self._limits.protected_file_bytes:
                limit = self._limits.protected_file_bytes
                raise VaultError(f"{one!r} has {size} bytes, want at most {limit} ([limits] protected_file_bytes)")
        used, limit = self._store.make_room(total, self._limits.vault_bytes), self._limits.vault_bytes
        if used + total > limit:
            raise VaultError(f"{total} bytes do not fit: {used} of {limit} are in use ([limits] vault_bytes)")

    def _take(self, path: str) -> None:
        fd = vault_files.look(path)
        try:
            before = _identity(os.fstat(fd))
            facts = vault_files.facts_of(fd)
            sha256 = self._store.copy_in(fd, max_bytes=self._limits.protected_file_bytes)
            if _identity(os.fstat(fd)) != before:
                raise VaultError(f"{path!r} is being written; protect it when that has ended")
        finally:
            os.close(fd)
        self._store.note_directories(vault_files.directories_above(path))
        version = self._store.add(path, GOLDEN, self._clock.wall_s(), sha256, facts)
        self._store.suspend(path, 0)
        self._seen[path] = (version, before)

    def _keep_replaced(self, path: str, found: vault_files.Found) -> tuple[int, str]:
        """Return (version id, note); a copy that cannot be made is counted and told, the file is back anyway."""
        if found.fd < 0:
            return 0, found.note
        try:
            facts = vault_files.facts_of(found.fd)
            if facts.size > self._limits.protected_file_bytes:
                raise VaultError(f"it has {facts.size} bytes")
            if self._store.make_room(facts.size, self._limits.vault_bytes) + facts.size > self._limits.vault_bytes:
                raise VaultError("the vault is full of golden copies")
            sha256 = self._store.copy_in(found.fd, max_bytes=self._limits.protected_file_bytes)
            return self._store.add(path, REPLACED, self._clock.wall_s(), sha256, facts), found.note
        except (OSError, VaultError, ValueError, OverflowError, sqlite3.Error) as error:
            self.not_kept += 1
            return 0, "; ".join(filter(None, (found.note, f"what stood there is not kept: {error}")))
        finally:
            os.close(found.fd)

    def list(self) -> list[Protected]:
        """Return what `mamplus vault list` shows. Last in the class: its name hides the built-in one."""
        found = []
        for path, suspended_at in self._store.protected().items():
            golden = self._store.latest(path)
            found.append(Protected(
                path=path, sha256=golden.sha256, size=golden.facts.size, taken_at=golden.taken_at,
                versions=len(self._store.versions(path)), suspended=suspended_at > 0,
            ))  # fmt: skip
        return found


def _canonical(path: Path) -> str:
    """Return `path` with the links of its directories resolved; its last name is not followed."""
    whole = os.path.abspath(path)
    return os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))


def _regular_files(path: Path) -> list[str]:
    wanted = _canonical(path)
    try:
        mode = os.stat(wanted, follow_symlinks=False).st_mode
    except OSError as error:
        raise VaultError(f"cannot protect {str(path)!r}: {error.strerror}") from None
    if stat.S_ISREG(mode):
        return [wanted]
    if stat.S_ISLNK(mode):
        raise VaultError(f"{str(path)!r} is a link; protect what it points to: {os.path.realpath(wanted)!r}")
    if not stat.S_ISDIR(mode):
        raise VaultError(f"{str(path)!r} is neither a file nor a directory")
    found: list[str] = []
    for directory, _below, names in os.walk(wanted):
        found += [one for one in (os.path.join(directory, name) for name in sorted(names)) if _is_regular(one)]
        if len(found) > MAX_PROTECTED:
            raise VaultError(f"{str(path)!r} holds more than {MAX_PROTECTED} files; protect a smaller part")
    if not found:
        raise VaultError(f"{str(path)!r} holds no regular file")
    return found


def _is_regular(path: str) -> bool:
    return stat.S_ISREG(os.stat(path, follow_symlinks=False).st_mode)


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _same(seen: Facts, golden: Facts) -> bool:
    return msgspec.structs.replace(seen, atime_ns=golden.atime_ns) == golden


def _sha256(fd: int, size: int) -> str:
    """Return the hash of at most `size` + 1 bytes: a longer file differs anyway."""
    digest, at = hashlib.sha256(), 0
    while at <= size and (chunk := os.pread(fd, min(CHUNK_BYTES, size + 1 - at), at)):
        digest.update(chunk)
        at += len(chunk)
    return digest.hexdigest()
