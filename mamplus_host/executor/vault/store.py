# SPDX-License-Identifier: Apache-2.0
"""The vault's index: which path was what at which time, in SQLite. The contents lie beside it (`vault/objects`).

Journey: vault -> [vault/store] -> disk.

The index is committed with `synchronous=FULL`, and many changes at once in `batch`. Paths are bytes: a file name need
not be text. What a path should be is its newest golden version; that it should not be there is one, too (`ABSENT`), so
that a whole tree has a state at every point in time. A vault whose index is damaged is put aside with all its contents,
for nothing else knows what they are of; then this one is empty, and `put_aside` says so.

This module does not look at the protected files and decides nothing.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from mamplus_host.errors import VaultError
from mamplus_host.executor.vault.objects import Objects
from mamplus_host.files import sync_directory

GOLDEN, REPLACED = "golden", "replaced"
FILE, DIRECTORY, SYMLINK, ABSENT = "file", "directory", "symlink", "absent"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS protected (path BLOB PRIMARY KEY, suspended_at REAL NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS trees (path BLOB PRIMARY KEY);
CREATE TABLE IF NOT EXISTS objects (sha256 TEXT PRIMARY KEY, size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS versions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL, kind TEXT NOT NULL, taken_at REAL NOT NULL,
    sha256 TEXT NOT NULL, size INTEGER NOT NULL, mode INTEGER NOT NULL,
    uid INTEGER NOT NULL, gid INTEGER NOT NULL, atime_ns INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    xattrs BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS versions_by_path ON versions(path, kind, taken_at);
CREATE INDEX IF NOT EXISTS versions_by_content ON versions(sha256);
CREATE TABLE IF NOT EXISTS directories (
    path BLOB PRIMARY KEY, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL);
"""
# What an index of an earlier release lacks.
_COLUMNS = (
    ("versions", "type", "TEXT NOT NULL DEFAULT 'file'"),
    ("versions", "target", "BLOB NOT NULL DEFAULT x''"),
    ("versions", "inode", "TEXT NOT NULL DEFAULT ''"),
    ("versions", "action", "TEXT NOT NULL DEFAULT ''"),
    ("objects", "stored", "INTEGER NOT NULL DEFAULT -1"),  # bytes on the disk; -1: as many as `size`
    ("objects", "looked_at", "INTEGER NOT NULL DEFAULT 0"),  # somebody tried to pack it
)
_FIELDS = "id, path, kind, taken_at, sha256, size, mode, uid, gid, atime_ns, mtime_ns, xattrs, type, target, inode"
_NEWEST = """SELECT MAX(id) FROM versions AS v WHERE kind = 'golden' AND taken_at =
    (SELECT MAX(taken_at) FROM versions WHERE path = v.path AND kind = 'golden') GROUP BY path"""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a file, directory or link is besides its content."""

    size: int
    mode: int  # permission bits, set-id and sticky included
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    xattrs: tuple[tuple[str, bytes], ...] = ()  # all namespaces, ACLs and capabilities raw; sorted
    type: str = FILE  # or DIRECTORY, SYMLINK, ABSENT
    target: str = ""  # of a link
    inode: str = ""  # "device:inode" when it was taken, of a file with several names; "" of one with a single name


NOTHING = Facts(size=0, mode=0, uid=0, gid=0, atime_ns=0, mtime_ns=0, type=ABSENT)


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One kept state of one path."""

    id: int
    path: str
    kind: str  # golden, or replaced: what a restoration found in its place
    taken_at: float  # seconds since the epoch, by the device's clock
    sha256: str  # "" of what has no content
    facts: Facts


class Store:
    """Objects and index below one directory. One process, one thread."""

    def __init__(self, directory: Path) -> None:
        """Open or create the vault in `directory`; leftovers of an interrupted `add` are removed.

        A damaged one is renamed, for people, and an empty one begun: it must not keep the agent from starting.
        """
        self.put_aside = ""  # the name that a damaged vault has now; "": this one is whole
        try:
            self._begin(directory)
        except sqlite3.OperationalError:
            raise  # locked, or no room: that passes
        except sqlite3.DatabaseError:
            self.put_aside = _put_aside(directory)
            self._begin(directory)

    def _begin(self, directory: Path) -> None:
        self._is_in_batch = False
        self.objects = Objects(directory / "objects")
        directory.chmod(0o700)
        self._db = sqlite3.connect(directory / "index.sqlite", isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA cache_size=-256")
            if not self._has_tables() and self.objects.has_any():
                raise sqlite3.DatabaseError("the index is empty, and contents are there")  # else they would be dropped
            self._db.executescript(_SCHEMA)
            self._add_missing_columns()
            self.drop_unused()
        except sqlite3.Error:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Commit what is done inside once, at its end; none of it when that raises. Contents are synced with it."""
        if self._is_in_batch:
            yield
            return
        self._is_in_batch = True
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self.objects.sync_all()
        finally:
            self._is_in_batch = False

    def used_bytes(self) -> int:
        """Return the bytes that all contents take which a version names; shared blocks count in full."""
        query = """SELECT COALESCE(SUM(CASE WHEN stored < 0 THEN size ELSE stored END), 0) FROM objects
            WHERE sha256 IN (SELECT sha256 FROM versions)"""
        return int(self._db.execute(query).fetchone()[0])

    def copy_in(self, source_fd: int, *, max_bytes: int) -> str:
        """Keep the content of `source_fd`; return its SHA-256. VaultError when it has more than `max_bytes`."""
        sha256, size, stored = self.objects.copy_in(source_fd, max_bytes=max_bytes, sync=not self._is_in_batch)
        self._db.execute(
            "INSERT OR REPLACE INTO objects (sha256, size, stored) VALUES (?, ?, ?)", (sha256, size, stored)
        )
        return sha256

    def note_stored(self, sizes: dict[str, int]) -> None:
        """Remember how many bytes contents take since somebody tried to pack them; -1: nothing came of it."""
        with self.batch():
            self._db.executemany(
                "UPDATE objects SET looked_at = 1, stored = CASE WHEN ?2 < 0 THEN stored ELSE ?2 END WHERE sha256 = ?1",
                list(sizes.items()),
            )

    def add(self, path: str, kind: str, taken_at: float, sha256: str, facts: Facts, *, action: str = "") -> int:
        """Note a version whose content was copied in; return its id. A golden one makes the path protected.

        `action`: what put another in its place, for finding it again. A golden one is never older than the one before
        it: a clock that was set back must not have what an administrator replaced come back for ever.
        """
        key = os.fsencode(path)
        if kind == GOLDEN:
            taken_at = max(taken_at, self._newest_at(key))
        row = (key, kind, taken_at, sha256, facts.size, facts.mode, facts.uid, facts.gid, facts.atime_ns,
               facts.mtime_ns, msgspec.msgpack.encode(facts.xattrs), facts.type, os.fsencode(facts.target),
               facts.inode, action)  # fmt: skip
        with self._transaction():
            if kind == GOLDEN and facts.type != ABSENT:
                self._db.execute("INSERT OR IGNORE INTO protected (path) VALUES (?)", (key,))
            elif kind == GOLDEN:
                self._db.execute("DELETE FROM protected WHERE path = ?", (key,))
            cursor = self._db.execute(
                "INSERT INTO versions (path, kind, taken_at, sha256, size, mode, uid, gid, atime_ns, mtime_ns, xattrs,"
                " type, target, inode, action) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        return int(cursor.lastrowid or 0)

    def _newest_at(self, key: bytes) -> float:
        query = "SELECT COALESCE(MAX(taken_at), 0) FROM versions WHERE path = ? AND kind = 'golden'"
        return float(self._db.execute(query, (key,)).fetchone()[0])

    def versions(self, path: str, *, kind: str | None = None) -> list[Version]:
        """Return what is kept of `path`, newest first."""
        rows = self._db.execute(
            f"SELECT {_FIELDS} FROM versions WHERE path = ?1 AND (?2 IS NULL OR kind = ?2)"
            " ORDER BY taken_at DESC, id DESC",
            (os.fsencode(path), kind),
        )
        return [_version(row) for row in rows]

    def version(self, version_id: int) -> Version:
        """Return one version; VaultError when it is no longer kept."""
        row = self._db.execute(f"SELECT {_FIELDS} FROM versions WHERE id = ?", (version_id,)).fetchone()
        if row is None:
            raise VaultError(f"version {version_id} is no longer kept; `mamplus vault list` shows what is")
        return _version(row)

    def replaced_by(self, action: str) -> list[Version]:
        """Return what stood where `action` put another in its place, as far as it is kept; of each path the first."""
        rows = self._db.execute(
            f"SELECT {_FIELDS} FROM versions WHERE id IN"
            " (SELECT MIN(id) FROM versions WHERE action = ? AND action != '' GROUP BY path) ORDER BY path",
            (action,),
        )
        return [_version(row) for row in rows]

    def latest(self, path: str, *, at: float | None = None) -> Version:
        """Return the newest golden version of `path`, not newer than `at`; VaultError when there is none."""
        row = self._db.execute(
            f"SELECT {_FIELDS} FROM versions WHERE path = ?1 AND kind = 'golden' AND (?2 IS NULL OR taken_at <= ?2)"
            " ORDER BY taken_at DESC, id DESC LIMIT 1",
            (os.fsencode(path), at),
        ).fetchone()
        if row is None:
            when = "" if at is None else f" as of {at:.0f} s since the epoch"
            raise VaultError(f"no golden copy of {path!r}{when}; `mamplus protect` makes one")
        return _version(row)

    def newest_below(self, root: str, *, at: float | None = None) -> Iterator[Version]:
        """Yield the golden version of each path at or below `root` as of `at`, by path; none where there was none."""
        key = os.fsencode(root)
        rows = self._db.execute(
            f"""SELECT {_FIELDS} FROM versions AS v WHERE kind = 'golden' AND (path = ?1 OR (path > ?2 AND path < ?3))
            AND id = (SELECT id FROM versions WHERE path = v.path AND kind = 'golden'
                AND (?4 IS NULL OR taken_at <= ?4) ORDER BY taken_at DESC, id DESC LIMIT 1) ORDER BY path""",
            (key, *_below(key), at),
        )
        for row in rows.fetchall():
            yield _version(row)

    def count_of_versions(self) -> dict[str, int]:
        """Return how many versions of each path are kept, golden and replaced."""
        rows = self._db.execute("SELECT path, COUNT(*) FROM versions GROUP BY path")
        return {os.fsdecode(path): count for path, count in rows}

    def names_of(self, inode: str) -> list[str]:
        """Return the protected paths that were names of one file: hard links."""
        rows = self._db.execute(
            f"SELECT path FROM versions WHERE inode = ? AND id IN ({_NEWEST}) ORDER BY path", (inode,)
        )
        return [os.fsdecode(path) for (path,) in rows]

    def protected(self, root: str = "") -> dict[str, float]:
        """Return the protected paths, and when their restoration was suspended (0: it was not); below `root` only."""
        key = os.fsencode(root)
        rows = self._db.execute(
            "SELECT path, suspended_at FROM protected WHERE ?1 = x'' OR path = ?1 OR (path > ?2 AND path < ?3)"
            " ORDER BY path",
            (key, *_below(key)),
        )
        return {os.fsdecode(path): suspended_at for path, suspended_at in rows}

    def count(self) -> int:
        """Return how many paths are protected."""
        return int(self._db.execute("SELECT COUNT(*) FROM protected").fetchone()[0])

    def is_protected(self, path: str) -> bool:
        return self.suspended_at(path) is not None

    def suspended_at(self, path: str) -> float | None:
        """Return when restoration of `path` was suspended, 0 when it was not, None when it is not protected."""
        row = self._db.execute("SELECT suspended_at FROM protected WHERE path = ?", (os.fsencode(path),)).fetchone()
        return None if row is None else float(row[0])

    def suspend(self, path: str, at: float) -> None:
        self._db.execute("UPDATE protected SET suspended_at = ? WHERE path = ?", (at, os.fsencode(path)))

    # --- trees -------------------------------------------------------------------------------

    def trees(self) -> list[str]:
        """Return the directories whose new files are protected, too."""
        return [os.fsdecode(path) for (path,) in self._db.execute("SELECT path FROM trees ORDER BY path")]

    def add_tree(self, path: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO trees (path) VALUES (?)", (os.fsencode(path),))

    # --- what goes ---------------------------------------------------------------------------

    def forget(self, paths: Iterable[str]) -> None:
        """Drop all versions of `paths`, and the contents that nothing else names."""
        keys = [(os.fsencode(path),) for path in paths]
        with self._transaction():
            self._db.executemany("DELETE FROM versions WHERE path = ?", keys)
            self._db.executemany("DELETE FROM protected WHERE path = ?", keys)
            self._db.executemany("DELETE FROM trees WHERE path = ?", keys)
        self.drop_unused()

    def make_room(self, size: int, max_bytes: int) -> int:
        """Drop contents until `size` more bytes fit; return the bytes then in use.

        Replaced ones go first, then golden ones that are not the newest of their path; of each the oldest first.
        """
        dropped = 0
        while (used := self.used_bytes()) + size > max_bytes:
            oldest = self._oldest_dispensable()
            if oldest is None:
                break
            dropped += self._db.execute("DELETE FROM versions WHERE id = ?", oldest).rowcount
        if dropped:
            self.drop_unused()
        return used

    def _oldest_dispensable(self) -> tuple[int] | None:
        for condition in ("kind = 'replaced'", f"sha256 != '' AND id NOT IN ({_NEWEST})"):
            (oldest,) = self._db.execute(f"SELECT MIN(id) FROM versions WHERE {condition}").fetchone()
            if oldest is not None:
                return (oldest,)
        return None

    def retire(self, *, most: int, before: float) -> int:
        """Drop versions beyond the `most` newest of each path, and those taken before `before`; return how many.

        The newest golden version of a protected path always stays.
        """
        dropped = self._db.execute(
            f"""DELETE FROM versions WHERE id NOT IN ({_NEWEST}) AND (taken_at < ?1 OR id IN (SELECT id FROM (
            SELECT id, ROW_NUMBER() OVER (PARTITION BY path ORDER BY taken_at DESC, id DESC) AS place FROM versions)
            WHERE place > ?2))""",
            (before, most),
        ).rowcount
        dropped += self._db.execute(
            "DELETE FROM versions WHERE type = 'absent'"
            " AND path NOT IN (SELECT path FROM versions WHERE type != 'absent')"
        ).rowcount
        if dropped:
            self.drop_unused()
        return dropped

    def seldom_needed(self, least_bytes: int, limit: int) -> list[str]:
        """Return contents that no protected path has now, and that nobody tried to pack."""
        rows = self._db.execute(
            f"""SELECT sha256 FROM objects WHERE size >= ?1 AND NOT looked_at
            AND sha256 IN (SELECT sha256 FROM versions)
            AND sha256 NOT IN (SELECT sha256 FROM versions WHERE id IN ({_NEWEST})) ORDER BY size DESC LIMIT ?2""",
            (least_bytes, limit),
        )
        return [sha256 for (sha256,) in rows]

    def is_needed_now(self, sha256: str) -> bool:
        """Say whether a content is what some protected path should be."""
        query = f"SELECT 1 FROM versions WHERE sha256 = ? AND id IN ({_NEWEST}) LIMIT 1"
        return self._db.execute(query, (sha256,)).fetchone() is not None

    def drop_unused(self) -> None:
        """Remove objects that no version names, also those that an interrupted `add` left."""
        if self._is_in_batch:
            return
        self._db.execute("DELETE FROM objects WHERE sha256 NOT IN (SELECT sha256 FROM versions)")
        self.objects.remove_but({row[0] for row in self._db.execute("SELECT sha256 FROM objects")})

    # --- directories above what is protected -------------------------------------------------

    def note_directories(self, facts: Iterable[tuple[str, int, int, int]]) -> None:
        """Remember (path, mode, uid, gid) of directories, for putting them back."""
        rows = [(os.fsencode(path), mode, uid, gid) for path, mode, uid, gid in facts]
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO directories VALUES (?, ?, ?, ?)", rows)

    def directory(self, path: str) -> tuple[int, int, int]:
        """Return (mode, uid, gid) of a directory as it was; root's and private when it was never seen."""
        row = self._db.execute("SELECT mode, uid, gid FROM directories WHERE path = ?", (os.fsencode(path),)).fetchone()
        return row if row is not None else (0o700, 0, 0)

    # --- inside ------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._is_in_batch:
            yield
            return
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    def _has_tables(self) -> bool:
        return self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'versions'").fetchone() is not None

    def _add_missing_columns(self) -> None:
        for table, name, definition in _COLUMNS:
            known = {row[1] for row in self._db.execute(f"PRAGMA table_info({table})")}
            if name not in known:
                self._db.execute(f"ALTER TABLE {table} ADD COLUMN {name} {definition}")


def _put_aside(directory: Path) -> str:
    """Rename a damaged vault beside itself; return its new name. An earlier one that was put aside stays."""
    name, number = f"{directory.name}.damaged", 0
    while os.path.lexists(directory.with_name(name)):
        number += 1
        name = f"{directory.name}.damaged.{number}"
    directory.rename(directory.with_name(name))
    sync_directory(directory.parent)
    return name


def _below(key: bytes) -> tuple[bytes, bytes]:
    """Return the bounds, exclusive, of all paths below a directory: "/" and the byte after it."""
    bare = key.rstrip(b"/")
    return bare + b"/", bare + b"0"


def _version(row: tuple[Any, ...]) -> Version:
    number, path, kind, taken_at, sha256, size, mode, uid, gid, atime_ns, mtime_ns, xattrs, type_, target, inode = row
    facts = Facts(
        size=size, mode=mode, uid=uid, gid=gid, atime_ns=atime_ns, mtime_ns=mtime_ns,
        xattrs=msgspec.msgpack.decode(xattrs, type=tuple[tuple[str, bytes], ...]),
        type=type_, target=os.fsdecode(target), inode=inode,
    )  # fmt: skip
    return Version(id=number, path=os.fsdecode(path), kind=kind, taken_at=taken_at, sha256=sha256, facts=facts)
