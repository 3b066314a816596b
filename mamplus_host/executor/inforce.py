# SPDX-License-Identifier: Apache-2.0
"""What is in force right now: `state/actions.json`, the one place of truth about it.

Journey: execute -> [inforce], read again by the next agent when this one was killed.

An entry is on the disk before its action is done, and is taken away after that was undone; so whatever stands
because of us can be found and taken back. The journal tells the story, this file the state.

How long an action has been in force is measured by CLOCK_BOOTTIME, which counts suspend, while the device runs.
Across a restart it is the time by which entries of the list end (clock.py: the clock's, bounded by what was
signed), and at least the time since the device started: so no clock that is set back holds anything for ever. What
had passed is written down every ten minutes, and such a clock can take no more than that off it.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from mamplus_host.clock import ListClock
from mamplus_host.errors import ActionFailed, NotPossible
from mamplus_host.executor.shape import Facts
from mamplus_host.files import write_whole
from mamplus_host.verdicts import ActionKind, Indicator

MAX_IN_FORCE = 1024
NOTE_EVERY_S = 600
_NS = 1_000_000_000


class InForce(msgspec.Struct, frozen=True, kw_only=True):
    """One action that holds until it is undone."""

    id: str  # of the action
    decision_id: str
    kind: ActionKind
    facts: Facts
    indicator: Indicator | None = None  # what an answer of the enterprise will be about
    place: str = ""  # see shape.Shared
    since_s: float = 0.0  # seconds since the epoch, by the device's clock: for people
    ttl_s: int = 0  # 0: until somebody undoes it
    on_end: Literal["undo", "kill"] = "undo"  # kill: end what is held, when nobody answered
    spent_s: float = 0.0  # how long it had been in force at the moment that the next three say
    boot_id: str = ""
    boot_ns: int = 0
    believed_s: float = 0.0  # ListClock.list_s


class _File(msgspec.Struct, frozen=True, kw_only=True):
    entries: list[InForce]


def elapsed_s(entry: InForce, clock: ListClock, boot_id: str) -> float:
    """Return how long `entry` has been in force."""
    running_s = clock.boot_ns() / _NS
    if entry.boot_id == boot_id:
        return entry.spent_s + max(0.0, running_s - entry.boot_ns / _NS)
    return entry.spent_s + max(running_s, clock.list_s() - entry.believed_s)


def left_s(entry: InForce, clock: ListClock, boot_id: str) -> float | None:
    """Return how long `entry` still holds, 0 when its time is over; None: until somebody undoes it."""
    return max(0.0, entry.ttl_s - elapsed_s(entry, clock, boot_id)) if entry.ttl_s else None


class InForceStore:
    """The entries, in memory and in the file alike."""

    def __init__(self, path: Path, *, clock: ListClock, boot_id: str) -> None:
        """Read `path`. One that cannot be read is kept beside as `.damaged`, and `was_damaged` says so."""
        self._path, self._clock, self._boot_id = path, clock, boot_id
        self._entries: dict[str, InForce] = {}
        self.was_damaged = False
        try:
            kept = msgspec.convert(json.loads(path.read_bytes()), _File)
        except FileNotFoundError:
            return
        except (msgspec.ValidationError, ValueError):
            path.replace(path.with_name(path.name + ".damaged"))
            self.was_damaged = True
            return
        self._entries = {entry.id: self._rebased(entry) for entry in kept.entries}

    def stamped(self, entry: InForce) -> InForce:
        """Return `entry` as of now: it has just begun."""
        return self._now(entry, 0.0)

    def put(self, entries: Iterable[InForce]) -> None:
        """Note `entries` for good; ActionFailed when there is no room, and then none may be done."""
        added = {entry.id: entry for entry in entries}
        if not added:
            return
        changed = self._entries | added
        if len(changed) > MAX_IN_FORCE:
            raise ActionFailed(f"{MAX_IN_FORCE} actions are in force already; undo some of them first")
        self._write(changed)

    def drop(self, ids: Iterable[str]) -> None:
        """Take entries away, for good."""
        gone = set(ids) & self._entries.keys()
        if gone:
            self._write({key: entry for key, entry in self._entries.items() if key not in gone})

    def get(self, action_id: str) -> InForce | None:
        return self._entries.get(action_id)

    def all(self) -> list[InForce]:
        """Return everything in force, oldest first."""
        return list(self._entries.values())

    def of(self, decision_id: str) -> list[InForce]:
        return [entry for entry in self._entries.values() if entry.decision_id == decision_id]

    def sharing(self, kind: ActionKind, place: str) -> list[InForce]:
        """Return the entries with this effect: the last of them that ends is undone."""
        return [entry for entry in self._entries.values() if place and (entry.kind, entry.place) == (kind, place)]

    def left_s(self, entry: InForce) -> float | None:
        return left_s(entry, self._clock, self._boot_id)

    def tick(self) -> None:
        """Write down, seldom, how long each has been in force: a restart with a wrong clock loses no more than that."""
        now_ns = self._clock.boot_ns()
        if any(entry.ttl_s and now_ns - entry.boot_ns >= NOTE_EVERY_S * _NS for entry in self._entries.values()):
            changed = [self._now(entry, elapsed_s(entry, self._clock, self._boot_id)) for entry in self.all()]
            self._write({entry.id: entry for entry in changed})

    def _rebased(self, entry: InForce) -> InForce:
        """Measure an entry of an earlier boot from now on by this one's clock."""
        if entry.boot_id == self._boot_id:
            return entry
        return self._now(entry, elapsed_s(entry, self._clock, self._boot_id))

    def _now(self, entry: InForce, spent_s: float) -> InForce:
        clock = self._clock
        return msgspec.structs.replace(
            entry, spent_s=spent_s, boot_id=self._boot_id, boot_ns=clock.boot_ns(), believed_s=clock.list_s()
        )

    def _write(self, entries: dict[str, InForce]) -> None:
        content = _File(entries=list(entries.values()))
        try:
            # A cgroup's name need not be UTF-8: json writes its surrogates as escapes, msgspec refuses them.
            write_whole(self._path, json.dumps(msgspec.to_builtins(content), ensure_ascii=True).encode())
        except (OSError, NotPossible) as error:
            raise ActionFailed(f"cannot note what is in force in {str(self._path)!r}: {error}") from None
        self._entries = entries
