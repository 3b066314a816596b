# SPDX-License-Identifier: Apache-2.0
"""What was seen lately, kept in C: nearly every record is quiet, and nobody ever asks for it.

Journey: ring -> [past] -> decode, lineage, recent.

The ring notes each record here and hands on only what may need an answer (`Pipeline` says what it wants besides).
What is kept is decoded when somebody asks. A record that is malformed is not kept: it is handed on, and told.
"""

from collections import deque
from collections.abc import Callable, Iterator
from struct import Struct

from mamplus_host.collector.decode import decode_record
from mamplus_host.errors import EventMalformed
from mamplus_host.events import Event, Exec, Exit, FileEvent, Fork
from mamplus_host.kernel import layout
from mamplus_host.kernel._native import ffi, lib


class Past:
    """At most `tasks` tasks, and the last `events` records. One thread."""

    def __init__(self, *, tasks: int, events: int) -> None:
        self.handle = ffi.gc(lib.mamplus_past_new(max(1, tasks), max(1, events)), lib.mamplus_past_free)
        if self.handle == ffi.NULL:
            raise MemoryError(f"no room for {tasks} tasks and {events} records")
        self._others: deque[Event] = deque(maxlen=events)  # of files, above all: no ring tells them
        self._events = events
        self._out = ffi.new("unsigned char[]", lib.MAMPLUS_RECORD_BYTES)

    def wish(self, *, everything: bool, starts: bool) -> None:
        """Say what the ring is to hand on besides what may need an answer."""
        lib.mamplus_past_wish(self.handle, everything, starts)

    def note(self, event: Event) -> None:
        """Take in an event that did not come through the ring."""
        if isinstance(event, Exec | Fork | Exit):
            record = _record_of(event)
            lib.mamplus_past_note(self.handle, record, len(record))
        else:
            self._others.append(event)

    @property
    def unseen(self) -> int:
        """How many records the ring did not hand on."""
        return int(lib.mamplus_past_unseen(self.handle))

    @property
    def tasks(self) -> int:
        return int(lib.mamplus_past_tasks(self.handle))

    @property
    def forgotten(self) -> int:
        """How many tasks had to go for others."""
        return int(lib.mamplus_past_forgotten(self.handle))

    @property
    def lost(self) -> int:
        """How many records found no memory."""
        return int(lib.mamplus_past_lost(self.handle))

    def task(self, tgid: int) -> tuple[Event, int, bool] | None:
        """Return what `tgid` is known by (its start, else a fork or exit that told of it), its parent, if it lives."""
        ppid, is_alive = ffi.new("uint32_t *"), ffi.new("bool *")
        size = lib.mamplus_past_task(self.handle, tgid & 0xFFFFFFFF, self._out, ppid, is_alive)
        return (self._event(size), int(ppid[0]), bool(is_alive[0])) if size else None

    def recent(self) -> list[Event]:
        """Return the last events, by time."""
        told = self._each(lambda number: lib.mamplus_past_recent(self.handle, number, self._out))
        seen = sorted([*told, *self._others], key=_boot_ns)
        return seen[max(0, len(seen) - self._events) :]

    def uses(self) -> list[Event]:
        """Return what was used since the last call, of each kind what was used longest ago first."""
        return list(self._each(lambda _number: lib.mamplus_past_use(self.handle, self._out)))

    def _each(self, give: Callable[[int], int]) -> Iterator[Event]:
        number = 0
        while size := give(number):
            number += 1
            try:
                yield self._event(size)
            except EventMalformed:
                continue  # told when it was handed on

    def _event(self, size: int) -> Event:
        return decode_record(bytes(ffi.buffer(self._out, size)))


def _boot_ns(event: Event) -> int:
    return event.boot_ns if isinstance(event, FileEvent) else event.head.boot_ns


def _record_of(event: Exec | Fork | Exit) -> bytes:
    if isinstance(event, Fork):
        return _packed(layout.FORK, layout.KIND_FORK, event, event.child_tgid, 0)
    if isinstance(event, Exit):
        return _packed(layout.EXIT, layout.KIND_EXIT, event, event.exit_code, 0)
    file, kind = event.file, layout.KIND_HELD if event.held else layout.KIND_EXEC
    return _packed(
        layout.EXEC, kind, event, file.dev, file.ino, file.size, file.ctime_s, file.ctime_ns, file.mode,
        bytes.fromhex(event.sha256), event.waited_ns, _text(event.path, layout.PATH_LEN),
    )  # fmt: skip


def _packed(record: Struct, kind: int, event: Exec | Fork | Exit, *own: int | bytes) -> bytes:
    head = event.head
    return record.pack(
        head.boot_ns, head.cgroup_id, head.generation, record.size, head.tgid, head.ppid, head.uid, head.slot,
        head.flags, kind, head.verdict, 0, _text(head.comm, layout.COMM_LEN), *own,
    )  # fmt: skip


def _text(text: str, room: int) -> bytes:
    """Return as much of `text` as ends with a zero byte within `room` bytes."""
    return text.encode("utf-8", "surrogateescape")[: room - 1]
