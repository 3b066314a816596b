# SPDX-License-Identifier: Apache-2.0
"""The kernel's tables: the BLE generation, the guard set, the posture, known files, counters.

A generation is built in the side that nobody reads, and one 8-byte write makes it the one
that is asked: a program sees the old one or the new one, never parts of both. If building
fails, the old one stays. The old side is freed once no program can still be reading it.
"""

import os
import sys
import time
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from socket import htons
from typing import NamedTuple

import msgspec

from mamplus_host.ble.entry import Kind, address_key, domain_hash
from mamplus_host.ble.format import Generation
from mamplus_host.config import Config
from mamplus_host.errors import KernelRefused
from mamplus_host.events import File
from mamplus_host.kernel import layout
from mamplus_host.kernel._native import ffi, lib
from mamplus_host.kernel.bpf import Map, checked

RESPONDER_STALE_MS = 3000  # three heartbeats
_FIRST = bytes(4)  # key of a one-element array
_MASK64 = (1 << 64) - 1
_HASH, _LPM_TRIE, _NO_PREALLOC = 1, 11, 1  # enum bpf_map_type, BPF_F_NO_PREALLOC


class _Table(NamedTuple):
    pin: str
    map_type: int
    key_size: int
    flags: int = 0


_TABLES = {
    Kind.SHA256: _Table("ble_sha256", _HASH, layout.SHA256_LEN),
    Kind.IP: _Table("ble_addr", _HASH, layout.ADDR_LEN),
    Kind.CIDR: _Table("ble_cidr", _LPM_TRIE, layout.CIDR_KEY.size, _NO_PREALLOC),
    Kind.DOMAIN: _Table("ble_domain", _HASH, 8),
}
_COUNTERS = {
    "produced": layout.C_PRODUCED,
    "lost": layout.C_LOST,
    "refused": layout.C_REFUSED,
    "held": layout.C_HELD,
    "hold_lost": layout.C_HOLD_LOST,
    "declared": layout.C_DECLARED,
}


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a generation."""

    entries: int  # in the kernel's tables
    not_enforced: int  # of the generation, but past their date
    took_ns: int
    next_end_s: int = 0  # when the first loaded entry ends: load again then; 0: none ends


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
    mount_id = about["mnt_id"].strip()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        number, _parent, device, *_rest = line.split()
        if number == mount_id:
            major, minor = device.split(":")
            return int(major) << 20 | int(minor)
    device_number = os.fstat(descriptor).st_dev  # a mount that /proc does not show: another namespace's, or detached
    return os.major(device_number) << 20 | os.minor(device_number)


class Tables:
    """The maps pinned in `directory`. KernelRefused when one cannot be opened."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._active = self._map("active", 4, layout.ACTIVE.size)
        self._posture = self._map("posture", 4, layout.POSTURE.size)
        self._guard = self._map("guard", layout.GUARD_KEY.size, 4)
        self._known = self._map("known", layout.FILE_KEY.size, layout.KNOWN.size)
        self._counters = self._map("counters", 4, 8 * _possible_cpus())

    def generation(self) -> int:
        """Return the number of the generation that the kernel asks; 0: none."""
        return self._word() >> 1

    def load(self, generation: Generation, now_s: float, *, guarded_names: Sequence[str] = ()) -> LoadReport:
        """Build the tables of `generation` and make them the ones that are asked.

        Entries that ended before `now_s` (seconds since the epoch) are left out. `guarded_names`
        are never refused, whatever the list says of them or of the domains above them.
        KernelRefused when the kernel has no memory: the old generation stays in force.
        """
        started_ns = time.monotonic_ns()
        old = self._word()
        side = 1 - (old & 1) if old else 0
        built = {kind: self._build(kind, generation, now_s, spare=len(guarded_names)) for kind in _TABLES}
        for name in guarded_names:
            alone = ~domain_hash(name) & _MASK64  # the most specific there is: this name itself
            guarded = layout.HIT.pack(layout.NO_SLOT, layout.GUARD, 0)
            built[Kind.DOMAIN].map.set(alone.to_bytes(8, sys.byteorder), guarded)
        for kind, table in built.items():
            self._install(kind, side, table.map)
        self._active.set(_FIRST, layout.ACTIVE.pack(generation.number << 1 | side))
        if old:
            self._free(1 - side, built[Kind.SHA256].map)
        entries = sum(table.entries for table in built.values())
        return LoadReport(
            entries=entries,
            not_enforced=generation.count - entries,
            took_ns=time.monotonic_ns() - started_ns,
            next_end_s=min((table.next_end_s for table in built.values() if table.next_end_s), default=0),
        )

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

    def set_posture(self, config: Config, *, report_allowed: bool = False) -> None:
        """Tell the kernel the mode and the declared answers. `report_allowed`: report every connect."""
        answers = {"allow": layout.ANSWER_ALLOW, "refuse": layout.ANSWER_REFUSE}
        modes = {"enforce": layout.MODE_ENFORCE, "monitor": layout.MODE_MONITOR}
        value = layout.POSTURE.pack(
            modes[config.agent.mode],
            answers[config.exec.on_responder_down],
            answers[config.exec.on_deadline],
            config.exec.deadline_ms,
            RESPONDER_STALE_MS,
            report_allowed,
        )
        self._posture.set(_FIRST, value)

    def counters(self) -> dict[str, int]:
        """Return the counters since the programs were loaded, summed over the CPUs."""
        found = {}
        for name, index in _COUNTERS.items():
            values = self._counters.get(index.to_bytes(4, sys.byteorder)) or b""
            found[name] = sum(memoryview(values).cast("Q"))
        return found

    def known(self, file: File) -> str:
        """Return the SHA-256 (hex) that is remembered for this very file, "" when none is."""
        value = self._known.get(layout.FILE_KEY.pack(file.dev, file.ino))
        if value is None:
            return ""
        size, ctime_s, ctime_ns, _flags, sha256 = layout.KNOWN.unpack(value)
        is_same = (size, ctime_s, ctime_ns) == (file.size, file.ctime_s, file.ctime_ns)
        return sha256.hex() if is_same else ""

    def remember(self, file: File, sha256: str) -> None:
        """Make the next start of `file` be judged as content `sha256` (hex), without waiting."""
        value = layout.KNOWN.pack(file.size, file.ctime_s, file.ctime_ns, 0, bytes.fromhex(sha256))
        self._known.set(layout.FILE_KEY.pack(file.dev, file.ino), value)

    def forget(self, dev: int, ino: int) -> bool:
        """Make the next start of the file wait for its hash; False when it was not remembered."""
        return self._known.remove(layout.FILE_KEY.pack(dev, ino))

    def _map(self, name: str, key_size: int, value_size: int) -> Map:
        return Map.pinned(self._directory / name, key_size, value_size)

    def _word(self) -> int:
        return int.from_bytes(self._active.get(_FIRST) or b"", sys.byteorder)

    def _drop_guards(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._guard.remove(key)

    def _install(self, kind: Kind, side: int, inner: Map) -> None:
        self._map(_TABLES[kind].pin, 4, 4).set(side.to_bytes(4, sys.byteorder), inner.number.to_bytes(4, sys.byteorder))

    def _build(self, kind: Kind, generation: Generation, now_s: float, *, spare: int) -> "_Built":
        """Return the inner map of `kind`, filled, with room for `spare` more."""
        table, section = _TABLES[kind], generation.sections.get(kind)
        count = section.count if section else 0
        inner = Map.create(
            table.map_type, table.key_size, layout.HIT.size, max(count + spare, 1), table.flags, table.pin
        )
        if section is None:
            return _Built(inner, 0, 0)
        next_end_s = ffi.new("uint64_t *")
        with ffi.from_buffer(generation.buffer) as data:
            where = ffi.new("struct mamplus_section *")
            where.records, where.entries = data + section.offset, data + generation.entries_offset
            where.count, where.entry_count = section.count, generation.count
            where.kind, where.now_s = kind, int(now_s)
            entries = checked(lib.mamplus_table_fill(inner.number, where, next_end_s), f"fill {table.pin}")
        return _Built(inner, entries, int(next_end_s[0]))

    def _free(self, side: int, other: Map) -> None:
        """Drop the tables of `side`, which is not asked any more.

        The kernel waits for running programs after each write to a map of maps. So the other
        side's table is written once more: after that, no program still reads this side.
        """
        self._install(Kind.SHA256, 1 - side, other)
        for table in _TABLES.values():
            self._map(table.pin, 4, 4).remove(side.to_bytes(4, sys.byteorder))


class _Built(NamedTuple):
    map: Map
    entries: int
    next_end_s: int


def _possible_cpus() -> int:
    """Return how many values a per-CPU map has: possible CPUs, not those that are on."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")[-1]
    return int(last.split("-")[-1]) + 1
