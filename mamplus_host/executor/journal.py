# SPDX-License-Identifier: Apache-2.0
"""What the executor meant to do, and did: hash-chained lines in `state/journal/`.

Journey: execute -> [journal], read again by `undo`, by recovery after a crash, and by people.

An intent is on the disk (fsync) before it is acted upon; an outcome may be lost in a power
cut, and recovery then looks again. Each line carries the SHA-256 of the line before it, so
a changed, moved or missing line is found by `verify`. A torn last line is cut at the next
start, and the cut is noted. Above `max_bytes` the oldest segment goes; `rotated_away`
counts its records, and the chain of what is left still holds.

One writer at a time: the agent's lock on its state directory sees to that. What this does
not stop is someone who is root and rewrites the whole chain; `head` is for telling others.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from mamplus_host.clock import Clock
from mamplus_host.errors import ActionFailed
from mamplus_host.files import sync_directory

Kind = Literal["intent", "outcome", "note"]
START = "0" * 64  # `prev` of record 1
SEGMENTS = 8  # the journal is this many files, so rotation drops an eighth of it
MAX_RECORD_BYTES = 64 << 10


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `data` is plain JSON; undecodable bytes in it are surrogates, written as escapes."""

    n: int  # counts from 1, without gaps
    at: float  # seconds since the epoch, by the device's clock
    boot_ns: int
    kind: Kind
    id: str  # of the decision; "" for notes about the journal itself
    data: dict[str, Any]
    prev: str  # hash of the record before
    hash: str  # SHA-256 of this record without `hash`, in its canonical spelling


class BrokenLink(msgspec.Struct, frozen=True, kw_only=True):
    """Where the chain breaks first."""

    segment: str
    line: int  # counts from 1
    why: str


class Journal:
    """The journal, open for appending."""

    def __init__(self, directory: Path, *, max_bytes: int, clock: Clock) -> None:
        """Open or begin the journal in `directory`; OSError when it cannot be written."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory, self._clock = directory, clock
        self._max_bytes, self._segment_bytes = max_bytes, max_bytes // SEGMENTS
        self._n, self.head = 0, START
        names = _segments(directory)
        self._segment = names[-1] if names else directory / _name(1)
        cut = _cut_torn_tail(self._segment) if names else 0
        self._adopt(names)
        self._fd = self._open()
        if cut:
            self.append("note", "", {"torn_bytes_cut": cut})

    def close(self) -> None:
        os.close(self._fd)

    @property
    def rotated_away(self) -> int:
        """Return how many records the size bound has removed since the journal began."""
        return int(_segments(self._directory)[0].stem) - 1

    def append(self, kind: Kind, decision_id: str, data: dict[str, Any]) -> Record:
        """Write one record; an intent is on the disk when this returns.

        Raises ActionFailed when it cannot be written: what is not journalled must not be done.
        """
        (record,) = self.append_many(kind, [(decision_id, data)])
        if isinstance(record, ActionFailed):
            raise record
        return record

    def append_many(
        self, kind: Kind, wanted: Iterable[tuple[str, dict[str, Any]]], *, sync: bool | None = None
    ) -> list[Record | ActionFailed]:
        """Write records of one kind, each (id of the decision, data), all with one sync; intents are on the disk then.

        `sync` False: an intent that a power cut may take, for the next start finds what is to be done without it.
        A record that is too long is returned as the error it is, and left out. Raises ActionFailed when nothing
        could be written.
        """
        found: list[Record | ActionFailed] = []
        lines, n, head = list[bytes](), self._n, self.head
        for decision_id, data in wanted:
            fields, line = self._fields(kind, decision_id, data, n + 1, head)
            if len(line) > MAX_RECORD_BYTES:
                found.append(ActionFailed(f"a journal record has {len(line)} bytes, want at most {MAX_RECORD_BYTES}"))
                continue
            found.append(Record(**fields))
            lines.append(line)
            n, head = fields["n"], fields["hash"]
        try:
            if lines:
                self._write(b"".join(lines), sync=kind == "intent" if sync is None else sync)
        except OSError as error:
            raise ActionFailed(f"cannot write to {str(self._segment)!r}: {error}; make room there") from None
        self._n, self.head = n, head
        return found

    def _fields(
        self, kind: Kind, decision_id: str, data: dict[str, Any], n: int, prev: str
    ) -> tuple[dict[str, Any], bytes]:  # fmt: skip
        """Return a record, and its line."""
        fields: dict[str, Any] = {
            "n": n, "at": self._clock.wall_s(), "boot_ns": self._clock.boot_ns(),
            "kind": kind, "id": decision_id, "data": data, "prev": prev,
        }  # fmt: skip
        unhashed = _canonical(fields)
        fields["hash"] = hashlib.sha256(unhashed).hexdigest()
        before, name, after = unhashed.rpartition(b',"id":')  # `hash` comes before it; the data is before both
        return fields, b'%b,"hash":"%b"%b%b\n' % (before, fields["hash"].encode(), name, after)

    def records(self, *, segments: int = 0) -> Iterator[Record]:
        """Yield what is kept, oldest first; only of the last `segments` files when that is not 0."""
        for path in _segments(self._directory)[-segments:]:
            for _number, _line, record in _lines(path):
                if record is not None:
                    yield record

    def open_intents(self) -> list[Record]:
        """Return the intents without an outcome: what a crash interrupted. Looks at the last two segments."""
        waiting: dict[tuple[str, str], Record] = {}
        for record in self.records(segments=2):
            key = (record.id, str(record.data.get("id", "") or record.data.get("action", "")))
            if record.kind == "intent":
                waiting[key] = record
            elif record.kind == "outcome":
                waiting.pop(key, None)
        return list(waiting.values())

    def of(self, decision_id: str) -> list[Record]:
        """Return everything kept about one decision, oldest first."""
        return [record for record in self.records() if record.id == decision_id]

    def verify(self) -> BrokenLink | None:
        return verify(self._directory)

    def _adopt(self, names: list[Path]) -> None:
        """Go on after the last whole record, also when the last segment is still empty."""
        self._n = int(self._segment.stem) - 1
        for path in names[-2:]:
            for _number, _line, record in _lines(path):
                if record is not None:
                    self._n, self.head = record.n, record.hash

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(self._segment, flags, 0o600)
        sync_directory(self._directory)
        return fd

    def _write(self, line: bytes, *, sync: bool) -> None:
        size = os.fstat(self._fd).st_size
        if size and size + len(line) > self._segment_bytes:
            self._rotate()
            size = 0
        try:
            written = os.write(self._fd, line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes were written")
            if sync:
                os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, size)  # half a line would hide every later one
            raise

    def _rotate(self) -> None:
        os.fsync(self._fd)
        old, before = self._fd, self._segment
        self._segment = self._directory / _name(self._n + 1)
        try:
            self._fd = self._open()
        except OSError:  # a full disk: the old segment stays the one that is written
            self._segment = before
            raise
        os.close(old)
        names = _segments(self._directory)
        total = sum(path.stat().st_size for path in names)
        for path in names[:-1]:
            if total + self._segment_bytes <= self._max_bytes:
                break
            total -= path.stat().st_size
            path.unlink()


def verify(directory: Path) -> BrokenLink | None:
    """Return the first broken link of the journal in `directory`, None when the chain holds.

    The first kept record is taken at its word about the record before it, which may be gone.
    """
    expected: tuple[int, str] | None = None
    for path in _segments(directory):
        first = int(path.stem)
        if expected is not None and expected[0] != first:
            return BrokenLink(segment=path.name, line=1, why=f"record {expected[0]} should begin here")
        expected = expected or (first, START if first == 1 else "")
        for number, line, record in _lines(path):
            why = _fault(line, record, *expected)
            if why or record is None:
                return BrokenLink(segment=path.name, line=number, why=why)
            expected = (record.n + 1, record.hash)
    return None


def _fault(line: bytes, record: Record | None, n: int, prev: str) -> str:
    """Return what is wrong with one line; "" when it is the one that belongs here."""
    if record is None:
        return "no record of a journal"
    if record.n != n:
        return f"record {record.n} stands where {n} belongs"
    if prev and record.prev != prev:
        return f"record {n} does not follow the record before it"
    fields = msgspec.structs.asdict(record)
    if line != _canonical(fields) + b"\n":
        return f"record {n} is not in its canonical spelling"
    seen = fields.pop("hash")
    return "" if seen == _hash(fields) else f"record {n} was changed"


def _lines(path: Path) -> Iterator[tuple[int, bytes, Record | None]]:
    """Yield (number from 1, bytes, the record or None) of each line; no line is taken to be endless."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_RECORD_BYTES + 1):
            number += 1
            yield number, line, _parse(line)


def _parse(line: bytes) -> Record | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return msgspec.convert(json.loads(line), Record)
    except (ValueError, RecursionError, msgspec.ValidationError):
        return None


def _cut_torn_tail(path: Path) -> int:
    """Cut what follows the last whole record, and return how many bytes that was.

    Whole means readable: a line that reads well and lies stays, for `verify` to find.
    """
    good = end = 0
    for _number, line, record in _lines(path):
        end += len(line)
        if record is not None:
            good = end
    if end > good:
        with path.open("r+b") as file:
            file.truncate(good)
            os.fsync(file.fileno())
    return end - good


def _canonical(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def _hash(fields: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(fields)).hexdigest()


def _name(first: int) -> str:
    return f"{first:016d}.jsonl"


def _segments(directory: Path) -> list[Path]:
    """Return the segments, oldest first: their names are the number of their first record."""
    return sorted(path for path in directory.glob("*.jsonl") if path.stem.isdigit())
