# SPDX-License-Identifier: Apache-2.0
"""Tables of a generation, filled in the memory of the kernel's maps: anew, or as a changed copy.

Journey: store -> [filling] -> `tables`, which makes them the ones that are asked.

The work is done in C (kernel_probes/native/table_*.c); here stands which parts go where, and
what is done when a table turns out too small.
"""

import math
import os
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from mamplus_host.ble.format import Generation, Section
from mamplus_host.ble.stack import Stack
from mamplus_host.errors import KernelRefused
from mamplus_host.kernel import layout
from mamplus_host.kernel._native import ffi, lib
from mamplus_host.kernel.bpf import checked
from mamplus_host.kernel.budget import Rules, whole, windows
from mamplus_host.kernel.table_memory import TableMemory

_WORDS_A_BUCKET = 6.4  # of eight: 11.25 bytes an entry, filters included
_MASKS_AN_ENTRY, _MASK_BITS = 0.75 / 8, (3, 24)  # of the table of networks: 0.75 bytes; and the range
_MASKS_FEW = 1 << 16  # up to so many (512 KB) there is one an entry
_ADDED_FEW = 10_000  # keys may come into any table before their bits crowd its filters
_ROOMIER = 1.05  # than the attempt before
_ATTEMPTS = 8  # at a size that has room
_THREADS = min(len(os.sched_getaffinity(0)), 4)
_PAIRS6 = 129 * 4  # IPv6 prefix lengths, four qualifiers each
_ENOSPC = -28


class NoRoom(Exception):
    """A table has no room for what should go into it: take a larger one."""


class Table(NamedTuple):
    name: str
    number: int  # enum mamplus_table
    sections: tuple[Section, ...]


TABLES = (
    Table("sha256", layout.T_SHA256, (Section.SHA256,)),
    Table("addr", layout.T_ADDR, (Section.IP4, Section.IP6)),
    Table("net", layout.T_NET, (Section.NET,)),
    Table("domain", layout.T_DOMAIN, (Section.DOMAIN,)),
)
ENFORCED = frozenset(section for table in TABLES for section in table.sections)


class Part(NamedTuple):
    """A file that goes into the tables."""

    generation: Generation
    rules: Rules
    is_resolved: bool  # its keys are set to what the stack says of them; otherwise the greater verdict stays


@dataclass(slots=True)
class Filled:
    """A table in the kernel's memory, and what went into it."""

    table: Table
    memory: TableMemory
    blocks: int
    block_buckets: int
    mask_bits: int
    label: str  # what the kernel calls its map
    stashed: int = 0
    words: int = 0
    added: int = 0  # since it was filled
    expired: int = 0
    over_budget: int = 0
    unprobed: int = 0
    next_end_s: int = 0
    probes4: list[int] = field(default_factory=list)  # as in struct mamplus_build
    probes6: list[int] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    skip6: bytes = b""

    @property
    def bytes(self) -> int:
        """Kernel memory."""
        return self.memory.bytes

    @property
    def pairs6(self) -> list[int]:
        """IPv6 lengths and qualifiers that occur, as prefix * 4 + qualifier."""
        return [pair for pair, count in enumerate(self.probes6) if count]


def room(table: Table, count: int, attempt: int = 0, *, label: str = "mamplus_table") -> Filled:
    """Return an empty table for `count` entries, in a map of that label. KernelRefused without memory."""
    buckets = max(math.ceil(count / _WORDS_A_BUCKET * _ROOMIER**attempt), 1) + attempt
    blocks = math.ceil(buckets / layout.BLOCK_BUCKETS)
    block_buckets = math.ceil(buckets / blocks)
    mask_bits = 0
    if Section.NET in table.sections:
        bits = (min(count, _MASKS_FEW) - 1).bit_length(), int(count * _MASKS_AN_ENTRY).bit_length() - 1
        mask_bits = min(max(*bits, _MASK_BITS[0]), _MASK_BITS[1])
    return _empty(table, blocks if count else 0, block_buckets, mask_bits, label)


def empty_like(old: Filled) -> Filled:
    """Return an empty table as large as `old`, which is mapped meanwhile. KernelRefused without memory."""
    mapping = threading.Thread(target=_map_to_read, args=(old,))
    mapping.start()
    try:
        return _empty(old.table, old.blocks, old.block_buckets, old.mask_bits, old.label)
    finally:
        mapping.join()


def count_in(table: Table, parts: Iterable[Part], names: Sequence[str] = ()) -> int:
    """Return how many entries of `parts`, and guarded names, belong into a table."""
    return sum(
        part.generation.sections[section].count
        for part in parts for section in table.sections if section in part.generation.sections
    ) + (len(names) if Section.DOMAIN in table.sections else 0)  # fmt: skip


def fill(empty: Filled, stack: Stack, parts: Sequence[Part], names: Sequence[str], salt: bytes, now_s: int) -> Filled:
    """Fill a table; where it has no room, a larger one in its place. KernelRefused without memory.

    `names` are domains that are never refused. IPv6 lengths and qualifiers beyond what the programs look
    up are left out, those with the fewest entries first.
    """
    filled, skip6, unprobed = empty, bytes(_PAIRS6), 0
    count = count_in(empty.table, parts, names)
    attempt = 0
    while count:
        try:
            filled = _fill(filled, stack, parts, names, salt, now_s, skip6)
        except NoRoom:
            if attempt == _ATTEMPTS:
                raise KernelRefused(
                    f"the table {empty.table.name} has no room for {count} entries; this should not happen"
                ) from None
            attempt += 1
        else:
            too_many = _too_many(_recounted6(filled, parts, salt))
            if not any(too_many):
                filled.unprobed = unprobed
                return filled
            skip6 = too_many
            unprobed = sum(counted for counted, is_left_out in zip(filled.probes6, skip6, strict=True) if is_left_out)
        filled.memory.let_go()
        filled = room(filled.table, count, attempt, label=filled.label)
    return filled


def changed(
    old: Filled, into: Filled, stack: Stack, parts: Sequence[Part], names: Sequence[str], salt: bytes, now_s: int
) -> Filled:
    """Copy `old` into the empty table `into`, of the same size, and set the keys of `parts`. NoRoom.

    Where lengths are left out, other ones may be now: then it is filled anew. So is one that so many
    keys came into that its filters let through more than they were made for.
    """
    if any(old.skip6):
        raise NoRoom
    with _build(into, salt, now_s, old.skip6) as build:
        lib.mamplus_build_copy(build.words, old.memory.mapped(is_read_only=True), old.bytes // 8, _THREADS)
        build.stashed, build.entries, build.next_end_s = old.stashed, old.words, old.next_end_s
        build.expired, build.added = old.expired, old.added
        build.probes4, build.probes6, build.ports = old.probes4, old.probes6, old.ports
        for part in parts:
            _set(build, stack, part, into.table, now_s)
        _set_names(build, into.table, names)
        made = _made(into, build)
    if any(_too_many(made)) or made.added > max(made.words, _ADDED_FEW):
        raise NoRoom
    return made


def _fill(
    empty: Filled, stack: Stack, parts: Sequence[Part], names: Sequence[str], salt: bytes, now_s: int, skip6: bytes
) -> Filled:
    with _build(empty, salt, now_s, skip6) as build:
        checked(lib.mamplus_build_begin(build), f"make room for {empty.table.name}")
        try:
            for part in parts:
                if not part.is_resolved:
                    _scatter(build, part, empty.table)
            _require_room(lib.mamplus_build_settle(build), empty.table)
        finally:
            lib.mamplus_build_drop(build)
        for part in parts:
            if part.is_resolved:
                _set(build, stack, part, empty.table, now_s)
        _set_names(build, empty.table, names)
        return _made(empty, build)


@contextmanager
def _build(table: Filled, salt: bytes, now_s: int, skip6: bytes) -> Iterator["ffi.CData"]:
    """Yield `struct mamplus_build` on the mapped memory of a table."""
    build = ffi.new("struct mamplus_build *", {"now_s": now_s, "threads": _THREADS, "skip6": skip6})
    build.blocks, build.block_buckets, build.mask_bits = table.blocks, table.block_buckets, table.mask_bits
    build.salt[0], build.salt[1] = struct.unpack("=QQ", salt)
    build.words = table.memory.mapped()
    yield build


def _made(table: Filled, build: "ffi.CData") -> Filled:
    return Filled(
        table.table, table.memory, table.blocks, table.block_buckets, table.mask_bits, table.label, build.stashed,
        build.entries, build.added, build.expired, build.over_budget, next_end_s=build.next_end_s,
        probes4=list(build.probes4), probes6=list(build.probes6), ports=list(build.ports), skip6=bytes(build.skip6),
    )  # fmt: skip


def _map_to_read(table: Filled) -> None:
    with suppress(KernelRefused):  # it is tried again, and told, where it is read
        table.memory.mapped(is_read_only=True)


def _scatter(build: "ffi.CData", part: Part, table: Table) -> None:
    for section in table.sections:
        if section in part.generation.sections:
            with whole(part.generation, part.generation.sections[section], part.rules) as columns:
                _require_room(lib.mamplus_build_scatter(build, columns), table)


def _set(build: "ffi.CData", stack: Stack, part: Part, table: Table, now_s: int) -> None:
    for section in table.sections:
        if section not in part.generation.sections:
            continue
        verdicts, ends = stack.verdicts(part.generation, section, now_s)
        with ffi.from_buffer("uint8_t[]", verdicts) as resolved, ffi.from_buffer(ends) as until:
            done = 0
            for columns in windows(part.generation, part.generation.sections[section], part.rules):
                _require_room(lib.mamplus_build_set(build, columns, resolved + done, until + done * 4), table)
                done += columns.count


def _set_names(build: "ffi.CData", table: Table, names: Sequence[str]) -> None:
    """Put guarded names in: an `allow` on the name alone is the most specific there is."""
    if Section.DOMAIN in table.sections:
        for name in names:
            data = name.encode("ascii")
            _require_room(lib.mamplus_build_set_name(build, data, len(data), 1, layout.ALLOW), table)


def _require_room(result: int, table: Table) -> None:
    if result == _ENOSPC:
        raise NoRoom
    checked(result, f"fill the table {table.name}")


def _recounted6(filled: Filled, parts: Sequence[Part], salt: bytes) -> Filled:
    """Return the table, with exact counts of its IPv6 lengths where they may be too many.

    While it is filled a network counts that another part withdraws, or names again.
    """
    if len(filled.pairs6) <= layout.PROBES6_MAX:
        return filled
    with _build(filled, salt, 0, filled.skip6) as build:
        build.stashed, seen = filled.stashed, ffi.new("uint8_t[]", filled.bytes // 64)
        for part in parts:
            if Section.NET in part.generation.sections:
                for columns in windows(part.generation, part.generation.sections[Section.NET], part.rules):
                    lib.mamplus_build_recount6(build, columns, seen)
        filled.probes6 = list(build.probes6)
    return filled


def _too_many(filled: Filled) -> bytes:
    """Return which IPv6 lengths and qualifiers are too many to be looked up: those with the fewest entries."""
    marks = bytearray(len(filled.probes6))
    by_count = sorted(filled.pairs6, key=lambda pair: filled.probes6[pair])
    for pair in by_count[: max(len(by_count) - layout.PROBES6_MAX, 0)]:
        marks[pair] = 1
    return bytes(marks)


def _empty(table: Table, blocks: int, block_buckets: int, mask_bits: int, label: str) -> Filled:
    lines = int(lib.mamplus_build_words(blocks, block_buckets, mask_bits)) // layout.BUCKET_WORDS
    return Filled(table, TableMemory(lines, f"the table {table.name}", label), blocks, block_buckets, mask_bits, label)
