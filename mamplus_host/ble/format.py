# SPDX-License-Identifier: Apache-2.0
"""The file in which a BLE generation travels and in which the device keeps it, version 2.

One file, little-endian, read through mmap: an entry becomes a Python object only when it is
looked at. Columns, so that the kernel's tables are built from the few bytes an entry that
they need. docs/bundle-format.md describes it byte by byte for other implementers.

    header     128 bytes  magic "MAMPBLE\\0", version, generation, creation time, counts, offsets, state root
    directory   48 bytes  a section: number, key size, entry count, offsets of its columns
    columns               per section: keys (sorted), groups, ids, ends, and texts where a key is a hash
    groups      32 bytes  what many entries share: verdict, severity, confidence, four remarks
    strings               length (u16) + UTF-8; offset 0 is the empty string

A delta is laid out alike: what it adds and replaces, and what it withdraws (verdict nothing).

The reader trusts nothing: sizes and offsets are checked when a file is opened, everything
else by `check`, both in C (kernel_probes/native/ble_file.c). Every fault raises BleInvalid.
`encode.py` writes it.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from mamplus_host.ble import native
from mamplus_host.ble._file import ffi, lib
from mamplus_host.ble.endpoint import Endpoint, endpoint_value
from mamplus_host.ble.entry import MAX_TEXT_BYTES, MAX_VALUE_BYTES, Entry, Kind, canonical
from mamplus_host.errors import BleInvalid, ConfigInvalid
from mamplus_host.verdicts import Severity, Verdict

MAGIC = b"MAMPBLE\0"
VERSION = 2
NO_SHRINK_CHECK = 0x1  # header flag: the author meant this generation to be empty or much smaller
DELTA = 0x2  # header flag: changes to the list of number `from`, not a list
SAYABLE = frozenset({Verdict.ALLOW, Verdict.BLOCK, Verdict.SUSPECT})  # guard stands above the list, never in it
MAX_NUMBER = (1 << 63) - 1  # of a generation and of an entry
MAX_END = (1 << 32) - 1  # valid_until, seconds since the epoch: in 2106

# magic, version, flags, generation, created_s, entries, sections, groups offset, groups,
# audience (string offset), strings offset, strings size; from, state root, total; reserved
HEADER = struct.Struct("<8sIIQQIIQIIQQQ32sI12x")
ROOT_AT = 80
DIRECTORY = struct.Struct("<HHIQQQQQ")  # section, key size, entries; offsets of five columns
GROUP = struct.Struct("<BBBxIIII12x")  # verdict, severity, confidence; source, reason, message, link
LENGTH = struct.Struct("<H")
NET_KEY = struct.Struct(">16sBBH")  # network, prefix length 0-128, protocol, port
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
assert (HEADER.size, DIRECTORY.size, GROUP.size) == (128, 48, 32)


class Section(IntEnum):
    """Sections by number on disk; never renumbered or reused (enum mamplus_ble_section)."""

    SHA256 = 1
    IP4 = 2  # hosts, every port
    IP6 = 3  # hosts, every port; never IPv4-mapped
    NET = 4  # networks, ports, and hosts with a port or protocol
    DOMAIN = 5
    PATH = 6
    PACKAGE = 7
    USER = 8
    GROUP = 9
    USB = 10
    TLS = 11
    YARA = 12
    SIGMA = 13


KEY_SIZE = {Section.SHA256: 32, Section.IP4: 4, Section.IP6: 16, Section.NET: NET_KEY.size, Section.TLS: 32}
TEXT_KINDS = {  # sections whose key is the hash of a text, which is among the strings
    Section.DOMAIN: Kind.DOMAIN, Section.PATH: Kind.PATH, Section.PACKAGE: Kind.PACKAGE, Section.USER: Kind.USER,
    Section.GROUP: Kind.GROUP, Section.USB: Kind.USB, Section.YARA: Kind.YARA, Section.SIGMA: Kind.SIGMA,
}  # fmt: skip
FEW_SECTIONS = TEXT_KINDS.keys() - {Section.DOMAIN}  # of kinds that user space searches one by one
MAX_FEW = int(lib.MAMPLUS_BLE_FEW)  # entries of each
KEY_SIZE |= dict.fromkeys(TEXT_KINDS, 8)


@dataclass(frozen=True, slots=True)
class View:
    """A section: `count` entries, the first of them in slot `first`; then where its columns begin in the file."""

    section: Section
    count: int
    first: int
    keys: int
    groups: int
    ids: int
    ends: int
    texts: int  # 0: there are none

    @property
    def key_size(self) -> int:
        return KEY_SIZE[self.section]


class Generation:
    """A generation's file, open for reading. Close it, or use it as a context manager.

    A slot is an entry's place: sections in order, in each the order of the keys.
    """

    descriptor = -1  # of a list that is a file: what is read from begin to end is not mapped page by page

    def __init__(self, data: native.Buffer) -> None:
        self._data, self._file = data, ExitStack()
        _require_version(data)
        opened = ffi.new("struct mamplus_ble_file *")
        with ffi.from_buffer(data) as bytes_:
            native.call(lib.mamplus_ble_open, bytes_, len(data), opened)
        self.flags, self.number, self.created_s = int(opened.flags), int(opened.number), int(opened.created_s)
        self.count, self.group_count, self.groups_offset = opened.entries, int(opened.group_count), int(opened.groups)
        self._strings, self._strings_size = int(opened.strings), int(opened.strings_size)
        self.from_number, self.total = int(opened.before), int(opened.total)
        self.root = bytes(opened.root)
        self.sections = {view.section: view for view in _views(opened)}
        self.audience = self._string(opened.audience, MAX_TEXT_BYTES)
        native.require_whole(data)

    @classmethod
    def open(cls, path: Path) -> "Generation":
        """Map the file at `path`; OSError when it cannot be read, BleInvalid when it is no BLE."""
        with ExitStack() as opened:
            file = opened.enter_context(path.open("rb", buffering=0))
            made = cls(native.Mapped(file))
            if not made.is_delta:  # which is small
                made.descriptor, made._file = file.fileno(), opened.pop_all()
            return made

    def close(self) -> None:
        self._file.close()
        if isinstance(self._data, native.Mapped):
            self._data.close()

    def __enter__(self) -> "Generation":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def buffer(self) -> native.Buffer:
        """The whole file, for C: the columns lie where `sections` says."""
        return self._data

    @property
    def strings(self) -> range:
        """Where in the buffer the strings lie."""
        return range(self._strings, self._strings + self._strings_size)

    @property
    def may_shrink(self) -> bool:
        return bool(self.flags & NO_SHRINK_CHECK)

    @property
    def is_delta(self) -> bool:
        """Whether this holds changes to the generation `from_number`, and is no list."""
        return bool(self.flags & DELTA)

    def check(self) -> None:
        """Read everything once: order and form of the keys, groups, numbers, texts, the state root. BleInvalid.

        Past it, what the kernel's tables are built from and what people are shown say the
        same, each value once and in its canonical spelling. Of a delta the root is that of what it
        makes of another list: `native.after` tells.
        """
        root = native.check(self._data)
        for section in FEW_SECTIONS & self.sections.keys():
            self._check_spelling(section)
        if not self.is_delta and root != self.root:
            raise BleInvalid("the list is damaged: its entries do not make the state root that it names")

    def _check_spelling(self, section: Section) -> None:
        """What C leaves: that each text is the one spelling of its value, or a search by spelling would miss it."""
        for slot in self.slots(section):
            kind, text = self.value(slot)
            try:
                is_canonical = canonical(kind, text) == text
            except ConfigInvalid:
                is_canonical = False
            if not is_canonical:
                where = f"entry {slot - self.sections[section].first} of {section.name.lower()}"
                raise BleInvalid(f"the list is damaged: its spelling does not fit in {where}")

    def slots(self, section: Section) -> range:
        """Return the slots of `section`, none when the list has no such section."""
        view = self.sections.get(section)
        return range(view.first, view.first + view.count) if view else range(0)

    @native.of_whole
    def key(self, section: Section, index: int) -> bytes:
        return self._key(self.sections[section], index)

    def find(self, section: Section, key: bytes) -> range:
        """Return the slots whose key is `key`: none, one, more where texts share a hash. Then ask `require_whole`."""
        view = self.sections.get(section)
        if view is None:
            return range(0)
        low = end = bisect_left(range(view.count), key, key=lambda index: self._key(view, index))
        while end < view.count and self._key(view, end) == key:
            end += 1
        native.require_whole(self._data, by_size=False)
        return range(view.first + low, view.first + end)

    @native.of_whole
    def entry(self, slot: int) -> Entry:
        """Return the entry in `slot` (0 to count - 1); IndexError beyond, BleInvalid when it is damaged."""
        view, index = self._place(slot)
        kind, value = self.value(slot)
        verdict, severity, confidence, *remarks = self._group(view, index)
        source, reason, message, link = (self._string(at, MAX_TEXT_BYTES) for at in remarks)
        try:
            return Entry(
                id=_U64.unpack_from(self._data, view.ids + index * 8)[0], kind=kind, value=value,
                verdict=Verdict(verdict), severity=Severity(severity), confidence=confidence,
                valid_until=_U32.unpack_from(self._data, view.ends + index * 4)[0],
                source=source, reason=reason, message=message, link=link,
            )  # fmt: skip
        except ValueError as error:
            raise BleInvalid(f"entry in slot {slot} is damaged: {error}") from None

    @native.of_whole
    def value(self, slot: int) -> tuple[Kind, str]:
        """Return kind and canonical value of the entry in `slot`."""
        view, index = self._place(slot)
        if view.texts:
            (at,) = _U32.unpack_from(self._data, view.texts + index * 4)
            return TEXT_KINDS[view.section], self._string(at, MAX_VALUE_BYTES)
        return value_of(view.section, self._key(view, index))

    @native.of_whole
    def verdict_and_end(self, slot: int) -> tuple[int, int]:
        """Return (verdict, valid_until) of `slot` without making an Entry."""
        view, index = self._place(slot)
        return self._group(view, index)[0], _U32.unpack_from(self._data, view.ends + index * 4)[0]

    def is_withdrawn(self, slot: int) -> bool:
        """Whether a delta takes the value in `slot` off the list."""
        return self.is_delta and self.verdict_and_end(slot)[0] == Verdict.NOTHING

    def place(self, slot: int) -> tuple[Section, bytes]:
        """Return section and key of the entry in `slot`."""
        view, index = self._place(slot)
        return view.section, self.key(view.section, index)

    def entries(self) -> Iterator[Entry]:
        """Yield every entry, in slot order; of a delta those that it withdraws, too, with verdict nothing."""
        return (self.entry(slot) for slot in range(self.count))

    def _place(self, slot: int) -> tuple[View, int]:
        for view in self.sections.values():
            if view.first <= slot < view.first + view.count:
                return view, slot - view.first
        raise IndexError(f"slot {slot}, want 0 to {self.count - 1}")

    def _key(self, view: View, index: int) -> bytes:
        at = view.keys + index * view.key_size
        return self._data[at : at + view.key_size]

    def _group(self, view: View, index: int) -> tuple[int, ...]:
        (number,) = _U32.unpack_from(self._data, view.groups + index * 4)
        if number >= self.group_count:
            raise BleInvalid(f"the list is damaged: it has no group {number}")
        return GROUP.unpack_from(self._data, self.groups_offset + number * GROUP.size)

    def _string(self, offset: int, max_bytes: int) -> str:
        at, end = self._strings + offset, self._strings + self._strings_size
        if at + LENGTH.size > end:
            raise BleInvalid(f"the list is damaged: it has no text at {offset}")
        (length,) = LENGTH.unpack_from(self._data, at)
        at += LENGTH.size
        if length > max_bytes or at + length > end:
            raise BleInvalid(f"the list is damaged: its text at {offset} has {length} bytes")
        try:
            return bytes(self._data[at : at + length]).decode()
        except UnicodeDecodeError:
            raise BleInvalid(f"the list is damaged: its text at {offset} is no UTF-8") from None


def value_of(section: Section, key: bytes) -> tuple[Kind, str]:
    """Return kind and canonical value of a key that is no hash."""
    if section is Section.SHA256:
        return Kind.SHA256, key.hex()
    if section is Section.TLS:
        return Kind.TLS, key.hex()
    if section is Section.IP4:
        return Kind.IP, str(IPv4Address(key))
    if section is Section.IP6:
        return Kind.IP, str(IPv6Address(key))
    network, prefix, protocol, port = NET_KEY.unpack(key)
    return endpoint_value(Endpoint(network, prefix, protocol, port))


def _views(opened: "ffi.CData") -> Iterator[View]:
    first = 0
    for view in opened.view[0 : opened.sections]:
        yield View(Section(view.section), view.count, first, view.keys, view.groups, view.ids, view.ends, view.texts)
        first += view.count


def _require_version(data: native.Buffer) -> None:
    """Raise BleInvalid in words that help when `data` is another file, or of another version."""
    if len(data) < HEADER.size:
        raise BleInvalid(f"the list has {len(data)} bytes, want at least {HEADER.size}: it is cut off")
    magic, version = struct.unpack_from("<8sI", data)
    if magic != MAGIC:
        raise BleInvalid(f"the list begins with {magic!r}, want {MAGIC!r}: this is no BLE")
    if version != VERSION:
        raise BleInvalid(f"the list has format version {version}, this agent reads {VERSION}: update the agent")
