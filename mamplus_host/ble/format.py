# SPDX-License-Identifier: Apache-2.0
"""The file in which a BLE generation travels and in which the device keeps it, version 1.

One file, little-endian, read through mmap: an entry becomes a Python object only when
it is looked at. docs/bundle-format.md describes it byte by byte for other implementers.

    header    64 bytes  magic "MAMPBLE\\0", version, generation, creation time, counts, offsets
    sections  24 bytes  one per kind present: kind, record size, record count, offset
    records             per section, sorted by their bytes: key, slot (and for domains flags)
    entries   48 bytes  one per slot: id, valid_until, verdict, kind, severity, confidence, text offsets
    strings             length (u16) + UTF-8; offset 0 is the empty string

The reader trusts nothing: sizes, offsets and orders are checked when a file is opened,
texts and numbers when an entry is read. Every fault raises BleInvalid.
"""

import mmap
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

from mamplus_host.ble.entry import MAX_TEXT_BYTES, Entry, Kind, address_key, canonical, cidr_key, domain_hash, unmapped
from mamplus_host.errors import BleInvalid, ConfigInvalid
from mamplus_host.verdicts import Severity, Verdict

MAGIC = b"MAMPBLE\0"
VERSION = 1
NO_SHRINK_CHECK = 0x1  # header flag: the author meant this generation to be empty or much smaller
DOMAIN_EXACT_ONLY = 0x1  # domain record flag, as MAMPLUS_DOMAIN_EXACT_ONLY
SAYABLE = frozenset({Verdict.ALLOW, Verdict.BLOCK, Verdict.SUSPECT})  # guard stands above the list, never in it

# magic, version, flags, generation, created_s, entry count, section count,
# sections offset, entries offset, strings offset, strings size, audience (string offset), reserved
HEADER = struct.Struct("<8sIIQQIIIIIII4x")
SECTION = struct.Struct("<HHIQ8x")  # kind, record size, record count, offset
# id, valid_until, verdict, kind, severity, confidence, value, source, reason, message, link
ENTRY = struct.Struct("<QQBBBBIIIII8x")
RECORD = {
    Kind.SHA256: struct.Struct("<32sI"),
    Kind.IP: struct.Struct("<16sI"),
    Kind.CIDR: struct.Struct("<16sB3xI"),  # network, prefix length 0-128
    Kind.DOMAIN: struct.Struct("<QII"),  # domain_hash, flags, slot
}
_LENGTH = struct.Struct("<H")
assert (HEADER.size, SECTION.size, ENTRY.size) == (64, 24, 48)


@dataclass(frozen=True, slots=True)
class Section:
    """Where the records of one kind lie in the file."""

    kind: Kind
    count: int
    offset: int

    @property
    def record(self) -> struct.Struct:
        return RECORD[self.kind]


# --- writing -----------------------------------------------------------------------------------


class _Strings:
    """A blob of distinct strings; the same text is stored once."""

    def __init__(self) -> None:
        self.blob = bytearray(_LENGTH.pack(0))
        self._offsets = {"": 0}

    def add(self, text: str) -> int:
        if text not in self._offsets:
            data = text.encode()
            if len(data) > MAX_TEXT_BYTES:
                raise BleInvalid(f"a text has {len(data)} bytes, want at most {MAX_TEXT_BYTES}: {text[:40]!r}")
            self._offsets[text] = len(self.blob)
            self.blob += _LENGTH.pack(len(data)) + data
        return self._offsets[text]


def _record_of(kind: Kind, value: str, slot: int) -> bytes:
    record = RECORD[kind]
    if kind is Kind.SHA256:
        return record.pack(bytes.fromhex(value), slot)
    if kind is Kind.IP:
        return record.pack(address_key(value), slot)
    if kind is Kind.CIDR:
        prefix, network = cidr_key(value)
        return record.pack(network, prefix, slot)
    exact = value.startswith("=")
    return record.pack(domain_hash(value.removeprefix("=")), DOMAIN_EXACT_ONLY if exact else 0, slot)


def _fits(kind: Kind, value: str, record: bytes, slot: int) -> bool:
    """Whether `record` is that of `value`, and `value` is in its canonical spelling."""
    try:
        if kind is Kind.SHA256:
            return record[:32].hex() == value
        if kind is Kind.IP:  # from the record to the text: one conversion, and the text can only be canonical
            return str(unmapped(IPv6Address(record[:16]))) == value
        return canonical(kind, value) == value and _record_of(kind, value, slot) == record
    except (ConfigInvalid, ValueError):
        return False


def winners(entries: Iterable[Entry]) -> list[Entry]:
    """Return one entry per (kind, value): the greater verdict wins, then the later id; sorted by id."""
    best: dict[tuple[Kind, str], Entry] = {}
    for entry in entries:
        key = (entry.kind, entry.value)
        if key not in best or (entry.verdict, entry.id) > (best[key].verdict, best[key].id):
            best[key] = entry
    return sorted(best.values(), key=lambda entry: entry.id)


def encode(
    entries: Iterable[Entry], *, generation: int, created_s: int, audience: str = "", may_shrink: bool = False
) -> bytes:
    """Return the file of a generation. `audience` is a device id, or empty for every device."""
    chosen = winners(entries)
    strings = _Strings()
    sections: dict[Kind, list[bytes]] = {}
    table = bytearray()
    for slot, entry in enumerate(chosen):
        sections.setdefault(entry.kind, []).append(_record_of(entry.kind, entry.value, slot))
        texts = (entry.value, entry.source, entry.reason, entry.message, entry.link)
        table += ENTRY.pack(
            entry.id, entry.valid_until, entry.verdict, entry.kind, entry.severity, entry.confidence,
            *(strings.add(text) for text in texts),
        )  # fmt: skip
    audience_at = strings.add(audience)
    offset = HEADER.size + SECTION.size * len(sections)
    directory, records = bytearray(), bytearray()
    for kind in sorted(sections):
        directory += SECTION.pack(kind, RECORD[kind].size, len(sections[kind]), offset + len(records))
        records += b"".join(sorted(sections[kind]))
    entries_at = offset + len(records)
    strings_at = entries_at + len(table)
    header = HEADER.pack(
        MAGIC, VERSION, NO_SHRINK_CHECK if may_shrink else 0, generation, created_s, len(chosen), len(sections),
        HEADER.size, entries_at, strings_at, len(strings.blob), audience_at,
    )  # fmt: skip
    return b"".join((header, directory, records, table, strings.blob))


# --- reading -----------------------------------------------------------------------------------


class Generation:
    """A generation's file, open for reading. Close it, or use it as a context manager."""

    flags: int
    number: int
    created_s: int  # by the enterprise's clock
    count: int  # of entries

    def __init__(self, data: "bytes | mmap.mmap") -> None:
        self._data = data
        size = len(data)
        if size < HEADER.size:
            raise BleInvalid(f"the list has {size} bytes, want at least {HEADER.size}: it is cut off")
        (magic, version, self.flags, self.number, self.created_s, self.count, section_count, sections_at,
         self._entries_at, self._strings_at, self._strings_size, audience_at) = HEADER.unpack_from(data)  # fmt: skip
        if magic != MAGIC:
            raise BleInvalid(f"the list begins with {magic!r}, want {MAGIC!r}: this is no BLE")
        if version != VERSION:
            raise BleInvalid(f"the list has format version {version}, this agent reads {VERSION}: update the agent")
        self._want(sections_at == HEADER.size and section_count <= len(Kind), "section directory")
        self._want(self._strings_size >= _LENGTH.size, "strings")
        self._want(self._entries_at + self.count * ENTRY.size == self._strings_at, "entries")
        self._want(self._strings_at + self._strings_size == size, "length")
        self.sections = dict(self._read_sections(section_count))
        self._want(sum(section.count for section in self.sections.values()) == self.count, "record count")
        self.audience = self._string(audience_at)

    @classmethod
    def open(cls, path: Path) -> "Generation":
        """Map the file at `path`; OSError when it cannot be read, BleInvalid when it is no BLE."""
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise BleInvalid(f"{str(path)!r} is empty, want a BLE generation")
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def close(self) -> None:
        if isinstance(self._data, mmap.mmap):
            self._data.close()

    def __enter__(self) -> "Generation":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def buffer(self) -> "bytes | mmap.mmap":
        """The whole file, for the table builder in C: records at `Section.offset`, entries at `entries_offset`."""
        return self._data

    @property
    def entries_offset(self) -> int:
        return int(self._entries_at)

    @property
    def may_shrink(self) -> bool:
        return bool(self.flags & NO_SHRINK_CHECK)

    def check(self) -> None:
        """Read everything once: orders, slots and texts. Linear; done before a generation is trusted.

        A record must be the one that its slot's value makes, and records rise: so each slot has one.
        Past it, what the kernel tables are built from (records) and what people are shown
        (entries) say the same, each value once and in its canonical spelling.
        """
        texts = set[int]()
        for section in self.sections.values():
            name, last = section.kind.name.lower(), b""
            for record in self.raw(section.kind):
                slot = int.from_bytes(record[-4:], "little")
                self._want(slot < self.count, f"slot of a {name} record")
                # Two names may share a hash, so a domain's key may come twice; any other key says one thing.
                unlike = len(record) if section.kind is Kind.DOMAIN else -4
                self._want(record > last and record[:unlike] != last[:unlike], f"order of the {name} records")
                last = record
                self._check_entry(section.kind, slot, record, texts)

    def _check_entry(self, wanted: Kind, slot: int, record: bytes, texts: set[int]) -> None:
        """As `entry`, without making one. `texts` are the offsets that were read before."""
        (number, _until, verdict, kind, severity, confidence, value_at, *others) = ENTRY.unpack_from(
            self._data, self._entries_at + slot * ENTRY.size
        )
        fits = kind == wanted and verdict in SAYABLE and 1 <= severity <= 5 and confidence <= 100
        fits = fits and 1 <= number < 1 << 63 and _fits(wanted, self._string(value_at), record, slot)
        self._want(fits, f"entry in slot {slot}")
        for at in others:
            if at not in texts:
                self._string(at)
                texts.add(at)

    def raw(self, kind: Kind) -> Iterator[bytes]:
        """Yield the records of `kind`, as laid out in RECORD, in the order of their bytes."""
        section = self.sections.get(kind)
        if section is not None:
            size = section.record.size
            for index in range(section.count):
                at = section.offset + index * size
                yield self._data[at : at + size]

    def find(self, kind: Kind, key: bytes) -> int | None:
        """Return the slot of the record of `kind` that begins with `key`, or None. Binary search."""
        section = self.sections.get(kind)
        if section is None:
            return None
        size, low, high = section.record.size, 0, section.count
        while low < high:
            middle = (low + high) // 2
            at = section.offset + middle * size
            if self._data[at : at + len(key)] < key:
                low = middle + 1
            else:
                high = middle
        at = section.offset + low * size
        if low == section.count or self._data[at : at + len(key)] != key:
            return None
        return int.from_bytes(self._data[at + size - 4 : at + size], "little")

    def entry(self, slot: int) -> Entry:
        """Return the entry in `slot` (0 to count - 1); IndexError beyond, BleInvalid when it is damaged."""
        if not 0 <= slot < self.count:
            raise IndexError(f"slot {slot}, want 0 to {self.count - 1}")
        (number, valid_until, verdict, kind, severity, confidence, *texts) = ENTRY.unpack_from(
            self._data, self._entries_at + slot * ENTRY.size
        )
        value, source, reason, message, link = (self._string(at) for at in texts)
        try:
            return Entry(
                id=number, kind=Kind(kind), value=value, verdict=Verdict(verdict), severity=Severity(severity),
                confidence=confidence, valid_until=valid_until,
                source=source, reason=reason, message=message, link=link,
            )  # fmt: skip
        except ValueError as error:
            raise BleInvalid(f"entry in slot {slot} is damaged: {error}") from None

    def verdict_and_end(self, slot: int) -> tuple[int, int]:
        """Return (verdict, valid_until) of `slot` without making an Entry: what table builders need."""
        _number, valid_until, verdict = struct.unpack_from("<QQB", self._data, self._entries_at + slot * ENTRY.size)
        return verdict, valid_until

    def entries(self) -> Iterator[Entry]:
        """Yield every entry, in slot order."""
        return (self.entry(slot) for slot in range(self.count))

    def _read_sections(self, count: int) -> Iterator[tuple[Kind, Section]]:
        at, end, last = HEADER.size, HEADER.size + count * SECTION.size, 0
        self._want(end <= len(self._data), "section directory")
        for _ in range(count):
            number, size, records, offset = SECTION.unpack_from(self._data, at)
            self._want(number in Kind.__members__.values() and size == RECORD[Kind(number)].size, "section kind")
            self._want(offset == end, "section offset")
            self._want(number > last, "section order")
            kind, last, end, at = Kind(number), number, offset + records * size, at + SECTION.size
            yield kind, Section(kind, records, offset)
        self._want(end == self._entries_at, "section end")

    def _string(self, offset: int) -> str:
        self._want(offset + _LENGTH.size <= self._strings_size, "string offset")
        at = self._strings_at + offset
        (length,) = _LENGTH.unpack_from(self._data, at)
        self._want(length <= MAX_TEXT_BYTES and offset + _LENGTH.size + length <= self._strings_size, "string length")
        try:
            return bytes(self._data[at + _LENGTH.size : at + _LENGTH.size + length]).decode()
        except UnicodeDecodeError:
            raise BleInvalid(f"text at {offset} is no UTF-8") from None

    @staticmethod
    def _want(claim: bool, what: str) -> None:
        if not claim:
            raise BleInvalid(f"the list is damaged: its {what} does not fit")
