# SPDX-License-Identifier: Apache-2.0
"""Which entries get kernel memory when there is not enough for all.

Allowed ones first, for without them something of the enterprise's own is refused; then by severity,
then by confidence. A group, entries that share verdict and remarks, is taken as a whole; the last
one that has room only in part is cut, in the order of its keys. What is left out is counted.
"""

import mmap
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from mamplus_host.ble.format import GROUP, Generation, Section, View
from mamplus_host.ble.native import reading
from mamplus_host.kernel._native import ffi, lib
from mamplus_host.kernel.bpf import checked
from mamplus_host.verdicts import Verdict

BYTES_AN_ENTRY = 12  # of kernel memory, rounded up: 11.25, and the masks of networks
OVER_BUDGET = 4  # instead of a verdict (table_words.h)
_U32 = struct.Struct("<I")
_WINDOW = 1 << 20  # entries after which the file's pages are given back


@dataclass(slots=True)
class Rules:
    """What a file's groups are worth in the kernel's tables."""

    verdicts: bytearray  # by group: 0 withdrawn, OVER_BUDGET
    cut_group: int = -1
    cuts: dict[Section, int] = field(default_factory=dict)  # how many entries are before the cut

    @classmethod
    def of(cls, part: Generation) -> "Rules":
        begin = part.groups_offset
        return cls(bytearray(part.buffer[begin : begin + part.group_count * GROUP.size : GROUP.size]))


def rules(parts: Sequence[Generation], sections: frozenset[Section], now_s: int, budget_bytes: int) -> list[Rules]:
    """Return the rules of each part. `budget_bytes`: kernel memory for all of them; 0: no bound."""
    found = [Rules.of(part) for part in parts]
    room = budget_bytes // BYTES_AN_ENTRY
    at_most = sum(view.count for part in parts for view in _views(part, sections))
    if not budget_bytes or at_most <= room:
        return found
    ranked = sorted(
        (_rank(part, group), -number, -group, count)
        for number, part in enumerate(parts)
        for group, count in enumerate(_counts(part, found[number], sections, now_s))
        if count and found[number].verdicts[group]
    )
    for _, number, group, count in reversed(ranked):
        if count > room:
            _cut(parts[-number], found[-number], sections, -group, now_s, room)
        room -= min(count, room)
    return found


def windows(part: Generation, view: View, rule: Rules) -> Iterator["ffi.CData"]:
    """Yield a section as `struct mamplus_columns`, window by window; pages that were read are given back."""
    for first in range(0, view.count, _WINDOW):
        with _columns(part, view, rule, first, min(_WINDOW, view.count - first)) as columns:
            yield columns
        _give_back(part, view, first, columns.count)


@contextmanager
def whole(part: Generation, view: View, rule: Rules) -> Iterator["ffi.CData"]:
    """Yield a section as one `struct mamplus_columns`, which C reads from its file where there is one."""
    with _columns(part, view, rule, 0, view.count) as columns, reading(part.buffer) as data:
        columns.is_mapped, columns.fd, columns.file = part.descriptor >= 0, part.descriptor, data
        yield columns


@contextmanager
def _columns(part: Generation, view: View, rule: Rules, first: int, count: int) -> Iterator["ffi.CData"]:
    columns = ffi.new("struct mamplus_columns *", {"section": view.section, "group_count": len(rule.verdicts)})
    with reading(part.buffer) as data, ffi.from_buffer("uint8_t[]", rule.verdicts) as verdicts:
        columns.verdicts, columns.count = verdicts, count
        columns.strings, columns.strings_size = data + part.strings.start, len(part.strings)
        columns.keys = data + view.keys + first * view.key_size
        columns.groups, columns.ends = data + view.groups + first * 4, data + view.ends + first * 4
        columns.texts = data + view.texts + first * 4 if view.texts else ffi.NULL
        columns.has_cut = view.section in rule.cuts
        if columns.has_cut:
            columns.cut_group = rule.cut_group
            columns.cut = min(max(rule.cuts[view.section] - first, 0), count)
        yield columns


def _views(part: Generation, sections: frozenset[Section]) -> Iterator[View]:
    return (view for view in part.sections.values() if view.section in sections)


def _rank(part: Generation, group: int) -> tuple[bool, int, int]:
    verdict, severity, confidence, *_ = GROUP.unpack_from(part.buffer, part.groups_offset + group * GROUP.size)
    return verdict == Verdict.ALLOW, severity, confidence


def _counts(part: Generation, rule: Rules, sections: frozenset[Section], now_s: int) -> list[int]:
    counts = ffi.new("uint64_t[]", max(part.group_count, 1))
    for view in _views(part, sections):
        for columns in windows(part, view, rule):
            checked(lib.mamplus_count_groups(columns, now_s, counts), f"count {view.section.name.lower()}")
    return list(counts)[: part.group_count]


def _cut(part: Generation, rule: Rules, sections: frozenset[Section], group: int, now_s: int, room: int) -> None:
    """Let only the first `room` entries of a group in."""
    if not room:
        rule.verdicts[group] = OVER_BUDGET
        return
    wanted = ffi.new("uint64_t *", room)
    cuts = {
        view.section: sum(
            lib.mamplus_count_until(columns, now_s, group, wanted) for columns in windows(part, view, rule)
        )
        for view in _views(part, sections)
    }
    rule.cut_group, rule.cuts = group, cuts


def _give_back(part: Generation, view: View, first: int, count: int) -> None:
    """Let go of the file's pages that were read: a list of ten million must not stay resident."""
    buffer = part.buffer
    if not isinstance(buffer, mmap.mmap):
        return
    columns = [(view.keys, view.key_size), (view.groups, 4), (view.ends, 4)] + ([(view.texts, 4)] if view.texts else [])
    spans = [(offset + first * size, count * size) for offset, size in columns]
    if view.texts:  # in the order of the keys, as `encode` writes them; of another order some pages stay
        begin, end = (_U32.unpack_from(buffer, view.texts + at * 4)[0] for at in (first, first + count - 1))
        spans.append((part.strings.start + begin, max(end - begin, 0)))
    for offset, size in spans:
        page = offset // mmap.PAGESIZE * mmap.PAGESIZE
        buffer.madvise(mmap.MADV_DONTNEED, page, min(size, len(buffer) - page))
