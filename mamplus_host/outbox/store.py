# SPDX-License-Identifier: Apache-2.0
"""Escalations waiting for the enterprise, in one SQLite file.

Journey: executor -> [outbox] -> enterprise.

A record is committed with ``synchronous=FULL`` before `put` returns, so a power cut loses
none. Sequence numbers are never reused. A record is signed when it is handed out: Ed25519 and
the encoding are deterministic, so every retry sends the same bytes, and a full disk does
not keep it here. Above `max_bytes` the oldest of the lowest severity
go first and `evicted` counts them: recent and severe evidence is worth more.

    put = acknowledged + refused + evicted + queued, always; `lost` is what a full disk kept out

This module neither decides what to escalate nor talks to the network.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mamplus_host.errors import NotPossible
from mamplus_host.jsonlines import encode_line
from mamplus_host.verdicts import Escalation

MAX_BODY_BYTES = 256 << 10  # one record; more evidence than that is left out, and said to be
MAX_BATCH = 100  # docs/protocol.md
MAX_BATCH_BYTES = 1 << 20
REMEMBERED = 2000  # answered records whose state is still known
_OVERHEAD_BYTES = 512  # of a record beyond its fields: device, seq, signature, indexes
_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- AUTOINCREMENT: a number is never given twice, whatever was deleted
    id TEXT NOT NULL, severity INTEGER NOT NULL, bytes INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_priority ON record (severity DESC, seq);
CREATE INDEX IF NOT EXISTS by_worth ON record (severity, seq, bytes);
CREATE INDEX IF NOT EXISTS by_id ON record (id);
CREATE TABLE IF NOT EXISTS fate (nth INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, state TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS fate_id ON fate (id);
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES
    ('put', 0), ('acknowledged', 0), ('refused', 0), ('evicted', 0), ('queued', 0), ('queued_bytes', 0);
"""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A record as it travels."""

    seq: int
    body: bytes  # JSON, UTF-8
    signature: bytes  # over `body`


@dataclass(frozen=True, slots=True)
class Counters:
    """Since the outbox was made; `lost` and `trimmed` since it was opened."""

    put: int
    acknowledged: int
    refused: int  # by the enterprise, record by record
    evicted: int
    queued: int
    queued_bytes: int
    lost: int  # could not be written: disk full or broken
    trimmed: int  # kept, but without evidence beyond MAX_BODY_BYTES


class Outbox:
    """The spool. Every method may be called from any thread."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        """Open or make the spool at `path`; a damaged one is set aside and `note` says so."""
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._lost = self._trimmed = 0
        self.note = ""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._database = _open(path)
        except sqlite3.DatabaseError as error:
            if _is_full(error):
                raise NotPossible(f"no room for {str(path)!r}: {error}; make room and start again") from None
            aside = _set_aside(path)
            self.note = f"{str(path)!r} is damaged ({error}); it was set aside as {aside.name!r} and a new one begun"
            self._database = _open(path, first_seq=int(time.time()))

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def put(self, escalation: Escalation) -> int:
        """Commit `escalation` to disk and return its sequence number; NotPossible (and counted) when it cannot be."""
        return self.put_many([escalation])[0]

    def put_many(self, escalations: Sequence[Escalation]) -> list[int]:
        """As `put`, of several: all with one sync, or none."""
        rows = [(one.id, int(one.severity), self._bounded(one)) for one in escalations]
        try:
            with self._transaction() as database:
                seqs = [_insert(database, *row) for row in rows]
                size = sum(len(data) + _OVERHEAD_BYTES for _id, _severity, data in rows)
                _count(database, put=len(rows), queued=len(rows), queued_bytes=size)
                _evict(database, self._max_bytes)
                return seqs
        except NotPossible:
            self._lost += len(rows)
            raise

    def batch(
        self, device: str, sign: Callable[[bytes], bytes],
        *, max_count: int = MAX_BATCH, max_bytes: int = MAX_BATCH_BYTES,
    ) -> list[Sealed]:  # fmt: skip
        """Return the next records to send, signed, most severe first, then oldest; at least one when any waits.

        `max_bytes` bounds the request that carries them. NotPossible when the disk is broken.
        """
        with self._access() as database:
            chosen: list[Sealed] = []
            for seq, size, body in database.execute(
                "SELECT seq, bytes, body FROM record ORDER BY severity DESC, seq LIMIT ?", (max_count,)
            ):
                max_bytes -= 2 * size  # inside a request, every quote of the body is escaped
                if max_bytes < 0 and chosen:
                    break
                whole = msgspec.json.encode({**msgspec.json.decode(body), "device": device, "seq": seq})
                chosen.append(Sealed(seq, whole, sign(whole)))
            return chosen

    def acknowledge(self, seqs: Iterable[int]) -> None:
        """Forget records that the enterprise stored; unknown numbers are ignored."""
        self._settle(seqs, "acknowledged")

    def refuse(self, seq: int) -> None:
        """Forget a record that the enterprise will never take; counted."""
        self._settle([seq], "refused")

    def counters(self) -> Counters:
        with self._access() as database:
            rows = dict(database.execute("SELECT name, value FROM counter").fetchall())
        return Counters(**rows, lost=self._lost, trimmed=self._trimmed)

    def state_of(self, alert_id: str) -> str:
        """Return queued, acknowledged, refused, evicted, or "" when it was never here or long ago."""
        with self._access() as database:
            row = database.execute(
                "SELECT 'queued' FROM record WHERE id = ? UNION ALL SELECT state FROM fate WHERE id = ? LIMIT 1",
                (alert_id, alert_id),
            ).fetchone()
        return str(row[0]) if row else ""

    def _settle(self, seqs: Iterable[int], state: str) -> None:
        with self._transaction() as database:
            for seq in seqs:
                _take(database, seq, state)

    def _bounded(self, escalation: Escalation) -> bytes:
        data = encode_line(escalation)
        if len(data) <= MAX_BODY_BYTES:
            return data
        self._trimmed += 1
        short = msgspec.structs.replace(
            escalation, summary=escalation.summary[:1000], evidence={"left_out_bytes": len(data)}, actions=[]
        )
        return encode_line(short)

    @contextmanager
    def _access(self) -> Iterator[sqlite3.Connection]:
        """One thread at a time; NotPossible when the disk is full or broken."""
        with self._lock:
            try:
                yield self._database
            except sqlite3.Error as error:
                raise NotPossible(f"cannot use the outbox: {error}; what is queued stays, make room") from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing."""
        with self._access() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            finally:
                if database.in_transaction:
                    database.execute("ROLLBACK")


def _insert(database: sqlite3.Connection, alert_id: str, severity: int, data: bytes) -> int:
    row = (alert_id, severity, len(data) + _OVERHEAD_BYTES, data)
    seq = database.execute("INSERT INTO record (id, severity, bytes, body) VALUES (?, ?, ?, ?)", row).lastrowid
    return int(seq or 0)


def _open(path: Path, *, first_seq: int = 0) -> sqlite3.Connection:
    """Return the checked database at `path`. A new one begins at `first_seq`, when that is given."""
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA wal_autocheckpoint = 128")  # pages: 512 KiB beside the spool, and not 4 MiB
        database.execute("PRAGMA cache_size = -256")
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        database.executescript(_SCHEMA)
        if first_seq:
            database.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('record', ?)", (first_seq - 1,))
    except BaseException:
        database.close()
        raise
    return database


def _set_aside(path: Path) -> Path:
    """Rename a damaged spool and return its new name; the one damaged before it is gone then.

    Its last number cannot be trusted, so the next spool begins at the clock's seconds:
    no device has ever sent that many.
    """
    aside = path.with_name(path.name + ".damaged")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.replace(aside.with_name(aside.name + suffix))
    return aside


def _is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def _evict(database: sqlite3.Connection, max_bytes: int) -> None:
    """Let the oldest of the lowest severity go until the rest fits into `max_bytes`."""
    (queued_bytes,) = database.execute("SELECT value FROM counter WHERE name = 'queued_bytes'").fetchone()
    while queued_bytes > max_bytes:
        row = database.execute("SELECT seq, bytes FROM record ORDER BY severity, seq LIMIT 1").fetchone()
        if row is None:
            return
        _take(database, row[0], "evicted")
        queued_bytes -= row[1]


def _take(database: sqlite3.Connection, seq: int, state: str) -> None:
    """Move a record from the queue to the remembered fates."""
    for alert_id, size in database.execute("DELETE FROM record WHERE seq = ? RETURNING id, bytes", (seq,)).fetchall():
        nth = database.execute("INSERT INTO fate (id, state) VALUES (?, ?)", (alert_id, state)).lastrowid or 0
        database.execute("DELETE FROM fate WHERE nth <= ?", (nth - REMEMBERED,))
        _count(database, **{state: 1}, queued=-1, queued_bytes=-size)


def _count(database: sqlite3.Connection, **changes: int) -> None:
    database.executemany(
        "UPDATE counter SET value = value + ? WHERE name = ?", [(change, name) for name, change in changes.items()]
    )
