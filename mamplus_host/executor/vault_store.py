# SPDX-License-Identifier: Apache-2.0
"""Where golden copies lie: objects by their SHA-256, and an SQLite index of what they were.

Journey: vault -> [vault_store] -> disk.

An object is on the disk, whole, before the index names it; an object that nothing names is
removed. Objects share their blocks with the original where the file system can do that.
The index is committed with `synchronous=FULL`. Paths are bytes: a file name need not be text.

This module does not look at the protected files and decides nothing.
"""

import fcntl
import hashlib
import os
import secrets
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from mamplus_host.errors import VaultError
from mamplus_host.files import sync_directory

GOLDEN, REPLACED = "golden", "replaced"
FICLONE = 0x40049409  # linux/fs.h: share blocks (btrfs, xfs, ...)
CHUNK_BYTES = 1 << 20
_SCHEMA = """
CREATE TABLE IF NOT EXISTS protected (path BLOB PRIMARY KEY, suspended_at REAL NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS objects (sha256 TEXT PRIMARY KEY, size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS versions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL, kind TEXT NOT NULL, taken_at REAL NOT NULL,
    sha256 TEXT NOT NULL REFERENCES objects(sha256), size INTEGER NOT NULL, mode INTEGER NOT NULL,
    uid INTEGER NOT NULL, gid INTEGER NOT NULL, atime_ns INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    xattrs BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS versions_by_path ON versions(path, kind, taken_at);
CREATE TABLE IF NOT EXISTS directories (
    path BLOB PRIMARY KEY, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL);
"""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a file is besides its content."""

    size: int
    mode: int  # permission bits, set-id and sticky included
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    xattrs: tuple[tuple[str, bytes], ...] = ()  # all namespaces, ACLs and capabilities raw; sorted


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One kept state of one file."""

    id: int
    path: str
    kind: str  # golden, or replaced: what a restoration found in its place
    taken_at: float  # seconds since the epoch, by the device's clock
    sha256: str
    facts: Facts


class Store:
    """Objects and index below one directory. One process, one thread."""

    def __init__(self, directory: Path) -> None:
        """Open or create the vault in `directory`; leftovers of an interrupted `add` are removed."""
        self._objects = directory / "objects"
        self._objects.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        self._db = sqlite3.connect(directory / "index.sqlite", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA cache_size=-256")
        self._db.executescript(_SCHEMA)
        self.drop_unused()

    def close(self) -> None:
        self._db.close()

    def used_bytes(self) -> int:
        """Return the bytes of all contents that a version names; shared blocks count in full."""
        query = "SELECT COALESCE(SUM(size), 0) FROM objects WHERE sha256 IN (SELECT sha256 FROM versions)"
        return int(self._db.execute(query).fetchone()[0])

    def copy_in(self, source_fd: int, *, max_bytes: int) -> str:
        """Keep the content of `source_fd`; return its SHA-256. VaultError when it has more than `max_bytes`."""
        beside = self._objects / f".new-{secrets.token_hex(8)}"
        fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        try:
            sha256, size = _copy(source_fd, fd, max_bytes)
            os.fsync(fd)
            beside.replace(self._objects / sha256)
            sync_directory(self._objects)
        except OSError as error:
            raise VaultError(f"cannot keep a copy in {str(self._objects)!r}: {error}; make room there") from None
        finally:
            os.close(fd)
            beside.unlink(missing_ok=True)
        self._db.execute("INSERT OR IGNORE INTO objects VALUES (?, ?)", (sha256, size))
        return sha256

    def open_object(self, sha256: str) -> int:
        """Return a descriptor of a kept content; VaultError when it is gone."""
        try:
            return os.open(self._objects / sha256, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise VaultError(f"the kept content {sha256} cannot be read: {error}; protect the file again") from None

    def add(self, path: str, kind: str, taken_at: float, sha256: str, facts: Facts) -> int:
        """Note a version whose content was copied in; return its id. A golden one makes the path protected."""
        row = (os.fsencode(path), kind, taken_at, sha256, facts.size, facts.mode, facts.uid, facts.gid,
               facts.atime_ns, facts.mtime_ns, msgspec.msgpack.encode(facts.xattrs))  # fmt: skip
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if kind == GOLDEN:
                self._db.execute("INSERT OR IGNORE INTO protected (path) VALUES (?)", (os.fsencode(path),))
            cursor = self._db.execute(
                "INSERT INTO versions (path, kind, taken_at, sha256, size, mode, uid, gid, atime_ns, mtime_ns, xattrs)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        return int(cursor.lastrowid or 0)

    def versions(self, path: str, *, kind: str | None = None) -> list[Version]:
        """Return what is kept of `path`, newest first."""
        rows = self._db.execute(
            "SELECT * FROM versions WHERE path = ?1 AND (?2 IS NULL OR kind = ?2) ORDER BY taken_at DESC, id DESC",
            (os.fsencode(path), kind),
        )
        return [_version(row) for row in rows]

    def version(self, version_id: int) -> Version:
        """Return one version; VaultError when it is no longer kept."""
        row = self._db.execute("SELECT * FROM versions WHERE id = ?", (version_id,)).fetchone()
        if row is None:
            raise VaultError(f"version {version_id} is no longer kept; `mamplus vault list` shows what is")
        return _version(row)

    def latest(self, path: str, *, at: float | None = None) -> Version:
        """Return the newest golden version of `path`, not newer than `at`; VaultError when there is none."""
        row = self._db.execute(
            "SELECT * FROM versions WHERE path = ?1 AND kind = 'golden' AND (?2 IS NULL OR taken_at <= ?2)"
            " ORDER BY taken_at DESC, id DESC LIMIT 1",
            (os.fsencode(path), at),
        ).fetchone()
        if row is None:
            when = "" if at is None else f" as of {at:.0f} s since the epoch"
            raise VaultError(f"no golden copy of {path!r}{when}; `mamplus protect` makes one")
        return _version(row)

    def protected(self) -> dict[str, float]:
        """Return the protected paths, and when their restoration was suspended (0: it was not)."""
        rows = self._db.execute("SELECT path, suspended_at FROM protected ORDER BY path")
        return {os.fsdecode(path): suspended_at for path, suspended_at in rows}

    def is_protected(self, path: str) -> bool:
        return self.suspended_at(path) is not None

    def suspended_at(self, path: str) -> float | None:
        """Return when restoration of `path` was suspended, 0 when it was not, None when it is not protected."""
        row = self._db.execute("SELECT suspended_at FROM protected WHERE path = ?", (os.fsencode(path),)).fetchone()
        return None if row is None else float(row[0])

    def suspend(self, path: str, at: float) -> None:
        self._db.execute("UPDATE protected SET suspended_at = ? WHERE path = ?", (at, os.fsencode(path)))

    def forget(self, paths: Iterable[str]) -> None:
        """Drop all versions of `paths`, and the contents that nothing else names."""
        keys = [(os.fsencode(path),) for path in paths]
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("DELETE FROM versions WHERE path = ?", keys)
            self._db.executemany("DELETE FROM protected WHERE path = ?", keys)
        self.drop_unused()

    def make_room(self, size: int, max_bytes: int) -> int:
        """Drop replaced contents, oldest first, until `size` more bytes fit; return the bytes then in use."""
        dropped = 0
        while (used := self.used_bytes()) + size > max_bytes:
            oldest = self._db.execute("SELECT MIN(id) FROM versions WHERE kind = ?", (REPLACED,)).fetchone()
            if oldest[0] is None:
                break
            dropped += self._db.execute("DELETE FROM versions WHERE id = ?", oldest).rowcount
        if dropped:
            self.drop_unused()
        return used

    def drop_unused(self) -> None:
        """Remove objects that no version names, also those that an interrupted `add` left."""
        self._db.execute("DELETE FROM objects WHERE sha256 NOT IN (SELECT sha256 FROM versions)")
        kept = {row[0] for row in self._db.execute("SELECT sha256 FROM objects")}
        for entry in os.scandir(self._objects):
            if entry.name not in kept:
                os.unlink(entry.path)

    def note_directories(self, facts: Iterable[tuple[str, int, int, int]]) -> None:
        """Remember (path, mode, uid, gid) of directories, for putting them back."""
        rows = [(os.fsencode(path), mode, uid, gid) for path, mode, uid, gid in facts]
        self._db.executemany("INSERT OR REPLACE INTO directories VALUES (?, ?, ?, ?)", rows)

    def directory(self, path: str) -> tuple[int, int, int]:
        """Return (mode, uid, gid) of a directory as it was; root's and private when it was never seen."""
        row = self._db.execute("SELECT mode, uid, gid FROM directories WHERE path = ?", (os.fsencode(path),)).fetchone()
        return row if row is not None else (0o700, 0, 0)


def _copy(source: int, target: int, max_bytes: int) -> tuple[str, int]:
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


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`; OSError when that is not possible."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _version(row: tuple[Any, ...]) -> Version:
    number, path, kind, taken_at, sha256, size, mode, uid, gid, atime_ns, mtime_ns, xattrs = row
    facts = Facts(
        size=size, mode=mode, uid=uid, gid=gid, atime_ns=atime_ns, mtime_ns=mtime_ns,
        xattrs=msgspec.msgpack.decode(xattrs, type=tuple[tuple[str, bytes], ...]),
    )  # fmt: skip
    return Version(id=number, path=os.fsdecode(path), kind=kind, taken_at=taken_at, sha256=sha256, facts=facts)
