# SPDX-License-Identifier: Apache-2.0
"""The kernel's tables: the BLE generation, the guard set, the posture, known files, counters.

A generation is built in the side that nobody reads (`filling`), and one 8-byte write makes it the
one that is asked (`sides`): a program sees the old one or the new one, never parts of both.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from pathlib import Path
from socket import htons
from typing import NamedTuple

import msgspec

from mamplus_host.ble.entry import address_key
from mamplus_host.ble.format import Generation
from mamplus_host.ble.stack import Stack
from mamplus_host.config import Config
from mamplus_host.errors import KernelRefused
from mamplus_host.events import File
from mamplus_host.kernel import layout, pins
from mamplus_host.kernel.births import Births
from mamplus_host.kernel.bpf import Map
from mamplus_host.kernel.budget import BYTES_AN_ENTRY, Rules, rules
from mamplus_host.kernel.filling import (
    ENFORCED,
    TABLES,
    Filled,
    NoRoom,
    Part,
    changed,
    count_in,
    empty_like,
    fill,
    room,
)
from mamplus_host.kernel.sides import Sides
from mamplus_host.mountinfo import mounted
from mamplus_host.policy.standing import UNSAID, Standing

ENTRIES_A_SECOND = 20_000  # of building anew because entries end: a thousandth of a core
RESPONDER_STALE_MS = 3000  # three heartbeats
_BATCH = 4096  # keys deleted in one call
_FIRST = bytes(4)  # key of a one-element array
_COUNTERS = {
    "produced": layout.C_PRODUCED,
    "lost": layout.C_LOST,
    "refused": layout.C_REFUSED,
    "held": layout.C_HELD,
    "hold_lost": layout.C_HOLD_LOST,
    "declared": layout.C_DECLARED,
    "acted": layout.C_ACTED,
}


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a generation."""

    entries: int  # values in the kernel's tables
    by_kind: dict[str, int] = {}  # not enforced: of a kind that nothing here enforces yet
    expired: int = 0  # not enforced: past their date when all was loaded last
    over_budget: int = 0  # not enforced: no kernel memory is granted for them, `[limits] ble_table_bytes`
    unprobed: int = 0  # not enforced: IPv6 networks of too many lengths and qualifiers
    table_bytes: int = 0  # kernel memory that they have
    took_ns: int  # until the kernel asked them
    next_end_s: int = 0  # load again then, for entries will have ended; 0: none ends
    is_patch: bool = False  # made from what was loaded before

    @property
    def not_enforced(self) -> int:
        """How many entries are in force in user space alone, or not at all."""
        return sum(self.by_kind.values()) + self.expired + self.over_budget + self.unprobed

    @property
    def because(self) -> dict[str, int | dict[str, int]]:
        """Why: how many for each reason."""
        reasons: dict[str, int | dict[str, int]] = {
            "kind": self.by_kind, "expired": self.expired, "budget": self.over_budget, "ipv6_lengths": self.unprobed,
        }  # fmt: skip
        return {name: count for name, count in reasons.items() if count}


class _Loaded(NamedTuple):
    """What is asked now, as far as this process made it."""

    word: int
    salt: bytes
    tables: list[Filled]
    names: tuple[str, ...]
    now_s: float  # entries that had ended by then are left out
    expired: int = 0  # so many


def file_of(descriptor: int) -> File:
    """Return the identity of an open file, as the kernel's probes see it.

    The device is that of the mount, not of stat(2): on btrfs each subvolume has one of its own
    there. On overlayfs the inode number may still be another one; then the file is unknown.
    """
    stat = os.fstat(descriptor)
    ctime_s, ctime_ns = divmod(stat.st_ctime_ns, 1_000_000_000)
    return File(_device(descriptor), stat.st_ino, stat.st_size, ctime_s, ctime_ns, stat.st_mode)


def _device(descriptor: int) -> int:
    """Return the kernel's dev_t of the file system that an open file lies on."""
    about = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines())
    mount_id = int(about["mnt_id"])
    for one in mounted():
        if one.id == mount_id:
            major, minor = one.device.split(":")
            return int(major) << 20 | int(minor)
    device_number = os.fstat(descriptor).st_dev  # a mount that /proc does not show: another namespace's, or detached
    return os.major(device_number) << 20 | os.minor(device_number)


class Tables:
    """The maps pinned in `directory`. KernelRefused when one cannot be opened."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._label = pins.table_label(directory)
        self._loaded: _Loaded | None = None  # None: an agent before this one loaded it
        self._written_posture = b""  # b"": not by this process
        self._written_guards: set[bytes] | None = None
        self._sides = Sides(directory)
        self._posture = self._map("posture", 4, layout.POSTURE.size)
        self._guard = self._map("guard", layout.GUARD_KEY.size, 4)
        self._known = self._map("known", layout.FILE_KEY.size, layout.KNOWN.size)
        self._births = Births(directory)
        self._names = self._map("names", layout.QUESTION.size, layout.ASKER.size)
        self._counters = self._map("counters", 4, 8 * possible_cpus())
        self._held = self._map("held", 4, layout.HELD.size)

    def generation(self) -> int:
        """Return the number of the generation that the kernel asks; 0: none."""
        return self._sides.word() >> 1

    def load(
        self, source: Stack | Generation, now_s: float, *, guarded_names: Sequence[str] = (), budget_bytes: int = 0
    ) -> LoadReport:
        """Build the tables of what `source` holds, and make them the ones that are asked.

        Entries that ended before `now_s` (seconds since the epoch) are left out. `guarded_names`
        are never refused, whatever the list says of them or of the domains above them. Above
        `budget_bytes` of kernel memory (0: no bound) the least of the entries are left out, and counted.
        KernelRefused when the kernel has no memory: the old generation stays in force.
        """
        started_ns, salt, names = time.monotonic_ns(), os.urandom(16), tuple(guarded_names)
        stack = Stack.of(source) if isinstance(source, Generation) else source
        parts = _parts(stack, int(now_s), budget_bytes)
        with _unmapped_at_end() as mapped:
            empty = [room(table, count_in(table, parts, names), label=self._label) for table in TABLES]
            mapped += empty
            with self._sides.installing(empty) as side:
                made = [fill(table, stack, parts, names, salt, int(now_s)) for table in empty]
                mapped += made
            self._sides.replace(side, empty, made)
            return self._ask(stack, side, _Loaded(stack.number << 1 | side, salt, made, names, now_s), started_ns)

    def patch(
        self, stack: Stack, changes: Sequence[Generation], now_s: float, *, guarded_names: Sequence[str] = (),
        budget_bytes: int = 0,
    ) -> LoadReport:  # fmt: skip
        """Make the tables of `stack` from those that are asked, where `changes` mention every key that may differ.

        Copies are changed, never what programs ask; a table that has no room for the changes is filled anew.
        Where there is nothing to copy from, or the guard or the budget says otherwise, everything is loaded.
        """
        started_ns, loaded = time.monotonic_ns(), self._loaded
        if loaded is None or not _can_patch(loaded, self._sides.word(), changes, tuple(guarded_names), budget_bytes):
            return self.load(stack, now_s, guarded_names=guarded_names, budget_bytes=budget_bytes)
        parts = [Part(part, Rules.of(part), is_resolved=True) for part in changes]
        with _unmapped_at_end() as mapped:
            mapped += loaded.tables
            into = [empty_like(old) if count_in(old.table, parts) else old for old in loaded.tables]
            mapped += into
            with self._sides.installing(into) as side:
                made = [
                    old if old is new else renewed(old, new, stack, parts, loaded.names, loaded.salt, int(now_s))
                    for old, new in zip(loaded.tables, into, strict=True)
                ]
                mapped += made
            self._sides.replace(side, into, made)
            now = loaded._replace(word=stack.number << 1 | side, tables=made)  # what had ended stays in where it was
            return self._ask(stack, side, now, started_ns, is_patch=True)

    def set_guard(self, addresses: Iterable[tuple[str | IPv4Address | IPv6Address, int]]) -> None:
        """Make `addresses`, (address, port; 0 for every port), the ones that are never refused.

        At most GUARD_MAX; KernelRefused beyond. New ones are added before old ones go.
        """
        wanted = {layout.GUARD_KEY.pack(address_key(str(address)), htons(port), 0) for address, port in addresses}
        if len(wanted) > layout.GUARD_MAX:
            raise KernelRefused(f"{len(wanted)} guarded addresses, want at most {layout.GUARD_MAX}")
        stale = set(self._guard.keys()) - wanted
        if len(wanted | stale) > layout.GUARD_MAX:  # no room for both: the old ones give way
            self._drop_guards(stale)
        for key in wanted:
            self._guard.set(key, bytes(4))
        self._drop_guards(stale)
        self._written_guards = wanted

    def set_posture(
        self, config: Config, *, report_allowed: bool = False, suspect_as_block: bool = False,
        standing: Standing = UNSAID,
    ) -> None:  # fmt: skip
        """Tell the kernel the mode, the declared answers, and what holds without an agent (`standing`).

        `report_allowed`: report every connect. `suspect_as_block`: refuse what the list only suspects.
        """
        answers = {"allow": layout.ANSWER_ALLOW, "refuse": layout.ANSWER_REFUSE}
        modes = {"enforce": layout.MODE_ENFORCE, "monitor": layout.MODE_MONITOR}
        value = layout.POSTURE.pack(
            modes[config.agent.mode],
            answers[config.exec.on_responder_down],
            answers[config.exec.on_deadline],
            config.exec.deadline_ms,
            RESPONDER_STALE_MS,
            report_allowed,
            suspect_as_block,
            standing.exec_after_s,
            standing.connect_after_s,
        )
        self._posture.set(_FIRST, value)
        self._written_posture = value

    def restore(self) -> list[str]:
        """Write again what is not as this process wrote it; return the names of the maps that somebody had changed.

        What lies in the tables themselves, in `known` and in `held` is too much to compare.
        """
        found = []
        if self._written_posture and self._posture.get(_FIRST) != self._written_posture:
            self._posture.set(_FIRST, self._written_posture)
            found.append("posture")
        if self._written_guards is not None and set(self._guard.keys()) != self._written_guards:
            extra = set(self._guard.keys()) - self._written_guards
            self._drop_guards(extra)
            for key in self._written_guards:
                self._guard.set(key, bytes(4))
            found.append("guard")
        loaded = self._loaded
        return found + (self._sides.restore(loaded.word, loaded.salt, loaded.tables) if loaded else [])

    def counters(self) -> dict[str, int]:
        """Return the counters since the programs were loaded, summed over the CPUs."""
        found = {}
        for name, index in _COUNTERS.items():
            values = self._counters.get(index.to_bytes(4, sys.byteorder)) or b""
            found[name] = sum(memoryview(values).cast("Q"))
        return found

    def is_waiting(self, tgid: int) -> bool:
        """Say whether a process stands still until the responder has hashed what it starts."""
        value = self._held.get(tgid.to_bytes(4, sys.byteorder))
        if value is None:
            return False
        flags: int = layout.HELD.unpack(value)[layout.HELD_FIELDS.index("exec_head_flags")]
        return bool(flags & layout.F_HELD)

    def known(self, file: File, *, believed: bool = False) -> str:
        """Return the SHA-256 (hex) that is remembered for this very file, "" when none is.

        `believed`: only one that would not be asked for again, for the file cannot have changed unseen.
        """
        value = self._known.get(layout.FILE_KEY.pack(file.dev, file.ino))
        if value is None:
            return ""
        size, ctime_s, ctime_ns, flags, sha256 = layout.KNOWN.unpack(value)
        unwanted = layout.KNOWN_PENDING | (layout.KNOWN_ONCE if believed else 0)
        is_same = (size, ctime_s, ctime_ns) == (file.size, file.ctime_s, file.ctime_ns)
        return sha256.hex() if is_same and not flags & unwanted and self._births.is_there(flags, file.dev) else ""

    def remember(self, file: File, sha256: str) -> None:
        """Make the next start of `file`, which is open, be judged as content `sha256` (hex), without waiting."""
        flags = self._births.flags(file.dev)
        value = layout.KNOWN.pack(file.size, file.ctime_s, file.ctime_ns, flags, bytes.fromhex(sha256))
        self._known.set(layout.FILE_KEY.pack(file.dev, file.ino), value)

    def forget(self, dev: int, ino: int) -> bool:
        """Make the next start of the file wait for its hash; False when it was not remembered."""
        return self._known.remove(layout.FILE_KEY.pack(dev, ino))

    def forget_all(self) -> None:
        """Make every file unknown."""
        while keys := list(islice(self._known.keys(), _BATCH)):
            self._known.remove_many(keys)

    def asked_names(self, since_ns: int) -> list[tuple[str, str]]:
        """Return the DNS names that were asked for and not refused since `since_ns` (CLOCK_BOOTTIME), oldest first.

        Each with the name of the program that asked first, "" where the kernel does not say. The kernel keeps a few
        hundred; of those that come while this reads, some may be missed.
        """
        found, names = [], self._names.keys()
        for key in names:
            value = self._names.get(key)
            boot_ns, comm = layout.ASKER.unpack(value) if value is not None else (0, b"")
            if boot_ns > since_ns:
                found.append((boot_ns, _text(key)[1:], _text(comm)))
        return [(name, comm) for _boot_ns, name, comm in sorted(found)]

    def _map(self, name: str, key_size: int, value_size: int) -> Map:
        return Map.pinned(self._directory / name, key_size, value_size)

    def _drop_guards(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._guard.remove(key)

    def _ask(self, stack: Stack, side: int, now: _Loaded, started_ns: int, *, is_patch: bool = False) -> LoadReport:
        took_ns = self._sides.ask(stack.number, side, now.salt, now.tables) - started_ns
        if not is_patch:
            now = now._replace(expired=_expired(stack, now))
        self._loaded = now
        return LoadReport(
            entries=max(sum(table.words for table in now.tables) - len(now.names), 0),
            by_kind=_idle(stack),
            expired=now.expired,
            over_budget=sum(table.over_budget for table in now.tables),
            unprobed=sum(table.unprobed for table in now.tables),
            table_bytes=sum(table.bytes for table in now.tables),
            took_ns=took_ns,
            next_end_s=_next_end_s(now),
            is_patch=is_patch,
        )


@contextmanager
def _unmapped_at_end() -> Iterator[list[Filled]]:
    """Yield a list of tables whose memory is let go at the end: once they are asked, nobody waits for that."""
    tables = list[Filled]()
    try:
        yield tables
    finally:
        for table in tables:
            table.memory.let_go()


def _parts(stack: Stack, now_s: int, budget_bytes: int) -> list[Part]:
    """Return the files of a stack: a list goes in as it is, the keys of a delta as they are resolved."""
    files = list(stack.parts())
    return [
        Part(part, rule, part.is_delta)
        for part, rule in zip(files, rules(files, ENFORCED, now_s, budget_bytes), strict=True)
    ]


def renewed(
    old: Filled, into: Filled, stack: Stack, parts: Sequence[Part], names: Sequence[str], salt: bytes, now_s: int
) -> Filled:
    """Return a table as `parts` change it: `into`, a copy, or where that has no room a new one."""
    try:
        if old.blocks:
            return changed(old, into, stack, parts, names, salt, now_s)
    except NoRoom:
        pass
    whole = _parts(stack, now_s, budget_bytes=0)
    empty = room(old.table, count_in(old.table, whole, names), label=old.label)
    return fill(empty, stack, whole, names, salt, now_s)


def _expired(stack: Stack, loaded: _Loaded) -> int:
    """Return how many entries were left out of a load; where deltas renewed or repeated some, they are counted anew."""
    if any(part.is_delta for part in stack.parts()):
        return stack.count_ended(ENFORCED, loaded.now_s)
    return sum(table.expired for table in loaded.tables)


def _can_patch(
    loaded: _Loaded, word: int, changes: Sequence[Generation], names: tuple[str, ...], budget_bytes: int
) -> bool:
    """Whether what is asked is what this process loaded, and all of its entries and the new ones are granted."""
    words = sum(table.words for table in loaded.tables)
    words += sum(view.count for part in changes for view in part.sections.values() if view.section in ENFORCED)
    return (
        loaded.word == word
        and loaded.names == names
        and not any(table.over_budget for table in loaded.tables)
        and (not budget_bytes or words * BYTES_AN_ENTRY <= budget_bytes)
    )


def _next_end_s(now: _Loaded) -> int:
    """Return when to load again because entries end, 0 when none does.

    Of a feed with ten million entries some end every second. So building anew for them waits, the longer the
    larger the list: eight minutes then, five seconds for a hundred thousand, not at all for a few.
    """
    first = min((table.next_end_s for table in now.tables if table.next_end_s), default=0)
    earliest = int(now.now_s) + sum(table.words for table in now.tables) // ENTRIES_A_SECOND
    return max(first, earliest) if first else 0


def _idle(stack: Stack) -> dict[str, int]:
    """Return by kind how many entries nothing here enforces; a change of one in a delta counts once more."""
    found: dict[str, int] = {}
    for part in stack.parts():
        for view in part.sections.values():
            if view.section not in ENFORCED:
                name = view.section.name.lower()
                found[name] = found.get(name, 0) + view.count
    return found


def _text(field: bytes) -> str:
    """Return what stands before the first NUL; a name on the wire may hold any byte, and ours are ASCII."""
    return field.partition(b"\0")[0].decode("ascii", "backslashreplace")


def possible_cpus() -> int:
    """Return how many values a per-CPU map has: possible CPUs, not those that are on."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")[-1]
    return int(last.split("-")[-1]) + 1
