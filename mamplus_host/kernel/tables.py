# SPDX-License-Identifier: Apache-2.0
"""The kernel's tables: the BLE generation, the guard set, the posture, known files, counters.

A generation is built in the side that nobody reads, and one 8-byte write makes it the one
that is asked: a program sees the old one or the new one, never parts of both. If building
fails, the old one stays. The old side is freed once no program can still be reading it.
"""

import math
import mmap
import os
import struct
import sys
import time
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from socket import htons
from typing import NamedTuple

import msgspec

from mamplus_host.ble.entry import address_key
from mamplus_host.ble.format import Generation, Section, View
from mamplus_host.ble.hashes import domain_hash
from mamplus_host.config import Config
from mamplus_host.errors import KernelRefused
from mamplus_host.events import File
from mamplus_host.kernel import layout
from mamplus_host.kernel._native import ffi, lib
from mamplus_host.kernel.bpf import Map, checked

RESPONDER_STALE_MS = 3000  # three heartbeats
_FIRST = bytes(4)  # key of a one-element array
_MASK64 = (1 << 64) - 1
_ARRAY, _INNER_FLAGS = 2, 1 << 10 | 1 << 12  # BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE | BPF_F_INNER_MAP
_WORDS_A_BUCKET = 6.4  # of eight: 10 bytes an entry
_ATTEMPTS = 8  # at a size that has room; each takes a twentieth more
_WINDOW = 1 << 20  # entries after which the file's pages are given back
_ENOSPC = -28


class _Table(NamedTuple):
    pin: str
    number: int  # enum mamplus_table
    sections: tuple[Section, ...]


_TABLES = (
    _Table("ble_sha256", layout.T_SHA256, (Section.SHA256,)),
    _Table("ble_addr", layout.T_ADDR, (Section.IP4, Section.IP6)),
    _Table("ble_net", layout.T_NET, (Section.NET,)),
    _Table("ble_domain", layout.T_DOMAIN, (Section.DOMAIN,)),
)
_ENFORCED = frozenset(section for table in _TABLES for section in table.sections)
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
    not_enforced: int  # of the generation: past their date, or of a kind without a table
    by_kind: dict[str, int] = {}  # those of a kind that nothing here enforces yet
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
        self._shape = self._map("shape", 4, layout.SHAPE.size)
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
        salt = os.urandom(16)
        names = [~domain_hash(name) & _MASK64 for name in guarded_names]  # the most specific there is: the name alone
        built = [_build(table, generation, now_s, salt, names) for table in _TABLES]
        shape = _shape(salt, built)
        for table in built:
            self._install(table.pin, side, table.map)
        self._shape.set(side.to_bytes(4, sys.byteorder), shape)
        self._active.set(_FIRST, layout.ACTIVE.pack(generation.number << 1 | side))
        if old:
            self._free(1 - side, built[0])
        entries = sum(table.entries for table in built)
        idle = {
            view.section.name.lower(): view.count
            for view in generation.sections.values()
            if view.section not in _ENFORCED
        }
        return LoadReport(
            entries=entries,
            not_enforced=generation.count - entries,
            by_kind=idle,
            took_ns=time.monotonic_ns() - started_ns,
            next_end_s=min((table.next_end_s for table in built if table.next_end_s), default=0),
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

    def set_posture(self, config: Config, *, report_allowed: bool = False, suspect_as_block: bool = False) -> None:
        """Tell the kernel the mode and the declared answers.

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

    def _install(self, pin: str, side: int, inner: Map) -> None:
        self._map(pin, 4, 4).set(side.to_bytes(4, sys.byteorder), inner.number.to_bytes(4, sys.byteorder))

    def _free(self, side: int, other: "_Built") -> None:
        """Drop the tables of `side`, which is not asked any more.

        The kernel waits for running programs after each write to a map of maps. So the other
        side's table is written once more: after that, no program still reads this side.
        """
        self._install(other.pin, 1 - side, other.map)
        for table in _TABLES:
            self._map(table.pin, 4, 4).remove(side.to_bytes(4, sys.byteorder))


class _Built(NamedTuple):
    pin: str
    map: Map
    number: int
    buckets: int
    stashed: int
    entries: int
    next_end_s: int
    probes4: bytes  # as in struct mamplus_build
    probes6: bytes
    ports: int


def _build(table: _Table, generation: Generation, now_s: float, salt: bytes, names: Sequence[int]) -> _Built:
    """Return the inner map of `table`, filled; `names` go into the table of domains. KernelRefused without memory."""
    spare = names if Section.DOMAIN in table.sections else ()
    views = [generation.sections[section] for section in table.sections if section in generation.sections]
    count = sum(view.count for view in views) + len(spare)
    buckets = max(math.ceil(count / _WORDS_A_BUCKET), 1)
    for _ in range(_ATTEMPTS):
        built = _try_build(table, generation, views, spare, salt, buckets, int(now_s))
        if built is not None:
            return built
        buckets += buckets // 20 + 1
    raise KernelRefused(f"{table.pin} has no room for {count} entries in {buckets} buckets; this should not happen")


def _try_build(
    table: _Table, generation: Generation, views: Sequence[View], names: Sequence[int], salt: bytes, buckets: int,
    now_s: int,
) -> _Built | None:  # fmt: skip
    """Return the table in `buckets`, None when it has no room there."""
    inner = Map.create(_ARRAY, 4, layout.BUCKET.size, buckets + 1, _INNER_FLAGS, table.pin)
    build = ffi.new("struct mamplus_build *", {"buckets": buckets, "now_s": now_s})
    build.salt[0], build.salt[1] = struct.unpack("=QQ", salt)
    with (
        mmap.mmap(inner.number, (buckets + 1) * layout.BUCKET.size) as memory,
        ffi.from_buffer("uint64_t[]", memory, require_writable=True) as words,
        ffi.from_buffer(generation.buffer) as data,
    ):
        build.words = words
        build.groups, build.group_count = data + generation.groups_offset, generation.group_count
        has_room = all(_add(build, generation, data, view) for view in views) and all(
            lib.mamplus_build_add_domain(build, name, layout.ALLOW) == 0 for name in names
        )
    if not has_room:
        return None
    return _Built(
        table.pin, inner, table.number, buckets if views or names else 0, build.stashed, build.entries,
        build.next_end_s, bytes(build.probes4), bytes(build.probes6), build.ports,
    )  # fmt: skip


def _add(build: "ffi.CData", generation: Generation, data: "ffi.CData", view: View) -> bool:
    """Add a section, window by window; False when there is no room."""
    columns = ffi.new("struct mamplus_columns *", {"section": view.section})
    for first in range(0, view.count, _WINDOW):
        columns.count = min(_WINDOW, view.count - first)
        columns.keys = data + view.keys + first * view.key_size
        columns.groups, columns.ends = data + view.groups + first * 4, data + view.ends + first * 4
        result = lib.mamplus_build_add(build, columns)
        if result == _ENOSPC:
            return False
        checked(result, f"fill the table of {view.section.name.lower()}")
        _give_back(generation.buffer, [(view.keys, view.key_size), (view.groups, 4), (view.ends, 4)], first)
    return True


def _give_back(buffer: "bytes | mmap.mmap", columns: Sequence[tuple[int, int]], first: int) -> None:
    """Let go of the file's pages that were read: a list of ten million must not stay resident."""
    if not isinstance(buffer, mmap.mmap):
        return
    for offset, size in columns:
        begin = (offset + first * size) // mmap.PAGESIZE * mmap.PAGESIZE
        buffer.madvise(mmap.MADV_DONTNEED, begin, min(_WINDOW * size, len(buffer) - begin))


def _shape(salt: bytes, built: Sequence[_Built]) -> bytes:
    """Return `struct mamplus_shape` of a side: what the programs must know to ask its tables."""
    net = next(table for table in built if table.number == layout.T_NET)
    probes4, probes6 = _probes(net.probes4), _probes(net.probes6)
    if len(probes6) > layout.PROBES6_MAX:
        raise KernelRefused(
            f"the list has IPv6 networks of {len(probes6)} lengths and qualifiers, want at most {layout.PROBES6_MAX}"
        )
    ordered = sorted(built, key=lambda table: table.number)
    return layout.SHAPE.pack(
        salt,
        struct.pack(f"={layout.T_MAX}I", *(table.buckets for table in ordered)),
        struct.pack(f"={layout.T_MAX}I", *(table.stashed for table in ordered)),
        net.ports, 0, len(probes4), len(probes6), _packed(probes4), _packed(probes6),
    )  # fmt: skip


_SPECIFIC = (layout.Q_PORT | layout.Q_PROTOCOL, layout.Q_PORT, layout.Q_PROTOCOL, 0)  # the most specific first


def _probes(marks: bytes) -> list[tuple[int, int]]:
    """Return (prefix length, qualifier) of all networks that came in, the most specific first."""
    return [
        (prefix, qualifier)
        for prefix in reversed(range(len(marks)))
        for qualifier in _SPECIFIC
        if marks[prefix] >> qualifier & 1
    ]


def _packed(probes: Sequence[tuple[int, int]]) -> bytes:
    return b"".join(bytes(probe) for probe in probes)


def _possible_cpus() -> int:
    """Return how many values a per-CPU map has: possible CPUs, not those that are on."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")[-1]
    return int(last.split("-")[-1]) + 1
