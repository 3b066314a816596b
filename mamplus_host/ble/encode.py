# SPDX-License-Identifier: Apache-2.0
"""Writes the file of a BLE generation; `format.py` reads it and says how it is laid out.

Pure: entries in, bytes out. The same entries make the same bytes, in whatever order they come.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from operator import attrgetter
from socket import AF_INET, AF_INET6, inet_pton
from typing import Protocol

from mamplus_host.ble import native
from mamplus_host.ble.endpoint import endpoint
from mamplus_host.ble.entry import (
    MAX_TEXT_BYTES,
    MAX_VALUE_BYTES,
    Entry,
    Kind,
)
from mamplus_host.ble.format import (
    DELTA,
    DIRECTORY,
    FEW_SECTIONS,
    GROUP,
    HEADER,
    KEY_SIZE,
    LENGTH,
    MAGIC,
    MAX_END,
    MAX_FEW,
    MAX_NUMBER,
    NET_KEY,
    NO_SHRINK_CHECK,
    ROOT_AT,
    TEXT_KINDS,
    VERSION,
    Generation,
    Section,
)
from mamplus_host.ble.hashes import domain_key, package_key, text_hash
from mamplus_host.errors import BleInvalid
from mamplus_host.verdicts import Severity, Verdict

_OF_KIND = {kind: section for section, kind in TEXT_KINDS.items()}
Buffer = bytes | bytearray | memoryview
Keyed = tuple[bytes, Entry]
_SHARED = attrgetter("verdict", "severity", "confidence", "source", "reason", "message", "link")


@dataclass(slots=True)
class Columns:
    """One section as it stands in the file; `keys` sorted. Little-endian, as every machine that we build for."""

    section: Section
    keys: Buffer
    groups: "array[int] | Buffer"  # u32
    ids: "array[int] | Buffer"  # u64
    ends: "array[int] | Buffer"  # u32
    texts: "array[int] | Buffer | None" = None  # u32

    @property
    def count(self) -> int:
        return len(self.keys) // KEY_SIZE[self.section]

    def all(self) -> list[bytes]:
        columns = [self.keys, self.groups, self.ids, self.ends] + ([] if self.texts is None else [self.texts])
        return [bytes(memoryview(column).cast("B")) for column in columns]


@dataclass(slots=True)
class Strings:
    """A blob of texts; those added by `shared` are stored once."""

    blob: bytearray = field(default_factory=lambda: bytearray(LENGTH.pack(0)))
    _offsets: dict[str, int] = field(default_factory=lambda: {"": 0})

    def shared(self, text: str) -> int:
        if text not in self._offsets:
            self._offsets[text] = self.add(text, MAX_TEXT_BYTES)
        return self._offsets[text]

    def add(self, text: str, max_bytes: int) -> int:
        data, offset = text.encode(), len(self.blob)
        if len(data) > max_bytes:
            raise BleInvalid(f"a text has {len(data)} bytes, want at most {max_bytes}: {text[:40]!r}")
        self.blob += LENGTH.pack(len(data)) + data
        return offset

    def add_all(self, texts: Sequence[str]) -> "array[int]":
        """Add values, and return where each stands."""
        encoded = [text.encode() for text in texts]
        sizes = [len(data) for data in encoded]
        if max(sizes) > MAX_VALUE_BYTES:
            raise BleInvalid(f"a value has {max(sizes)} bytes, want at most {MAX_VALUE_BYTES}")
        ends = list(accumulate([size + LENGTH.size for size in sizes], initial=len(self.blob)))
        lengths = {size: LENGTH.pack(size) for size in set(sizes)}
        self.blob += b"".join([part for data in encoded for part in (lengths[len(data)], data)])
        if len(self.blob) >> 32:
            raise BleInvalid(f"the texts have {len(self.blob)} bytes, want less than 4 GiB: shorten the list")
        return array("I", ends[:-1])


@dataclass(slots=True)
class _Groups:
    strings: Strings
    table: bytearray = field(default_factory=bytearray)
    _numbers: dict[tuple[object, ...], int] = field(default_factory=dict)

    def number(self, entry: Entry) -> int:
        key = _SHARED(entry)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers)
            remarks = (self.strings.shared(text) for text in key[3:])
            self.table += GROUP.pack(*key[:3], *remarks)
        return number


def place_of(kind: Kind, value: str) -> tuple[Section, bytes]:
    """Return the section and the key of a canonical value."""
    if kind is Kind.SHA256:  # most values are hashes, names and addresses
        return Section.SHA256, bytes.fromhex(value)
    if kind is Kind.DOMAIN:
        return Section.DOMAIN, domain_key(value).to_bytes(8, "little")
    if kind is Kind.IP and value[0] != "[":
        colons = value.count(":")
        if colons != 1:  # a host without a port
            family, section = (AF_INET6, Section.IP6) if colons else (AF_INET, Section.IP4)
            return section, inet_pton(family, value)
    if kind in _OF_KIND:
        key = package_key(value) if kind is Kind.PACKAGE else text_hash(value)
        return _OF_KIND[kind], key.to_bytes(8, "little")
    if kind is Kind.TLS:
        return Section.TLS, bytes.fromhex(value)
    at = endpoint(kind, value)
    return Section.NET, NET_KEY.pack(at.addr, at.prefix, at.protocol, at.port)


def winners(entries: Iterable[Entry]) -> dict[Section, list[Keyed]]:
    """Return, by section and sorted by key, one entry a value: the greater verdict wins, then the later id.

    But an `allow` gives way to what outlasts it: past its end nothing would be left of the other.
    """
    found: dict[Section, list[Keyed]] = {}
    for entry in entries:
        section, key = place_of(entry.kind, entry.value)
        if section not in found:
            found[section] = []
        found[section].append((key, entry))
    return {section: _chosen(section, found[section]) for section in sorted(found)}


def _chosen(section: Section, keyed: list[Keyed]) -> list[Keyed]:
    order, is_twice = native.order(b"".join([key for key, _entry in keyed]), KEY_SIZE[section])
    if not is_twice:
        return [keyed[index] for index in order]
    rivals: dict[tuple[bytes, bytes], list[Entry]] = {}
    for key, entry in keyed:
        rivals.setdefault((key, entry.value.encode() if section in TEXT_KINDS else b""), []).append(entry)
    return [(place[0], _winner(rivals[place])) for place in sorted(rivals)]


def _winner(rivals: Sequence[Entry]) -> Entry:
    lasting = [one for one in rivals if not any(leaves_a_gap(one, other) for other in rivals)]
    return max(lasting, key=lambda entry: (entry.verdict, entry.id))


class Said(Protocol):
    """What an entry, or a draft of one, says and until when."""

    @property
    def verdict(self) -> Verdict: ...

    @property
    def valid_until(self) -> int: ...


def leaves_a_gap(allow: Said, other: Said) -> bool:
    """Say whether `allow` ends while `other`, about the same value, would still refuse or suspect it."""
    if allow.verdict is not Verdict.ALLOW or not allow.valid_until:
        return False
    lasts_longer = not other.valid_until or other.valid_until > allow.valid_until
    return other.verdict in (Verdict.BLOCK, Verdict.SUSPECT) and lasts_longer


def encode(
    entries: Iterable[Entry], *, generation: int, created_s: int, audience: str = "", may_shrink: bool = False
) -> bytes:
    """Return the file of a generation. `audience` is a device id, or empty for every device."""
    flags = NO_SHRINK_CHECK if may_shrink else 0
    data = bytearray(_encoded(entries, About(generation, created_s, flags), audience))
    data[ROOT_AT : ROOT_AT + native.ROOT_SIZE] = native.state_root(bytes(data))
    return bytes(data)


def encode_delta(
    entries: Iterable[Entry], before: Sequence[Generation], *, generation: int, created_s: int, audience: str = "",
    may_shrink: bool = False,
) -> bytes:  # fmt: skip
    """Return the file of changes to a layer: `entries` are what they add, replace or withdraw (`withdrawal`).

    `before` are its parts so far, the base first; the state root is that of what the changes
    make of them. BleInvalid when they are damaged.
    """
    newest = before[-1]
    flags = DELTA | (NO_SHRINK_CHECK if may_shrink else 0)
    data = bytearray(_encoded(entries, About(generation, created_s, flags, newest.number), audience))
    root, total = native.after([part.buffer for part in before], newest.root, newest.total, bytes(data))
    data[ROOT_AT : ROOT_AT + native.ROOT_SIZE + 4] = root + total.to_bytes(4, "little")
    return bytes(data)


def withdrawal(kind: Kind, value: str) -> Entry:
    """Return the entry by which a delta takes a canonical value off the list."""
    return Entry(
        id=0, kind=kind, value=value, verdict=Verdict.NOTHING, severity=Severity.INFORMATIONAL, confidence=0
    )  # fmt: skip


def _encoded(entries: Iterable[Entry], about: "About", audience: str) -> bytes:
    strings = Strings()
    about = replace(about, audience=strings.shared(audience))
    groups = _Groups(strings)
    chosen = winners(entries)
    for section in FEW_SECTIONS & chosen.keys():
        _require_few(section, len(chosen[section]))
    columns = [_columns(section, keyed, groups) for section, keyed in chosen.items()]
    return b"".join(assemble(about, columns, groups.table, strings.blob))


def _require_few(section: Section, count: int) -> None:
    if count > MAX_FEW:
        raise BleInvalid(
            f"the list has {count} entries of kind {section.name.lower()}, want at most {MAX_FEW}, for devices search"
            " them one by one; write wider patterns or ranges, or take some off the list"
        )


def _columns(section: Section, keyed: Sequence[Keyed], groups: _Groups) -> Columns:
    entries = [entry for _key, entry in keyed]
    columns = Columns(
        section, b"".join([key for key, _entry in keyed]), array("I", [groups.number(entry) for entry in entries]),
        _numbers(entries), _ends(entries),
    )  # fmt: skip
    if section in TEXT_KINDS:
        columns.texts = groups.strings.add_all([entry.value for entry in entries])
    return columns


def _numbers(entries: Sequence[Entry]) -> "array[int]":
    ids = [entry.id for entry in entries]
    if not 1 <= min(ids) <= max(ids) <= MAX_NUMBER:
        bad = (
            one for one in entries if not 1 <= one.id <= MAX_NUMBER and (one.id or one.verdict is not Verdict.NOTHING)
        )
        if (entry := next(bad, None)) is not None:
            raise BleInvalid(f"entry id {entry.id}, want 1 to {MAX_NUMBER}")
    return array("Q", ids)


def _ends(entries: Sequence[Entry]) -> "array[int]":
    ends = [entry.valid_until for entry in entries]
    if not 0 <= min(ends) <= max(ends) <= MAX_END:
        entry = next(one for one in entries if not 0 <= one.valid_until <= MAX_END)
        raise BleInvalid(f"entry {entry.id} ends at {entry.valid_until}, want a time before 2106 or 0 for no end")
    return array("I", ends)


@dataclass(frozen=True, slots=True)
class About:
    """What the header says besides counts and offsets."""

    number: int
    created_s: int
    flags: int
    from_number: int = 0  # of a delta: what it changes
    audience: int = 0  # string offset


def assemble(about: About, columns: Sequence[Columns], groups: Buffer, strings: Buffer) -> Iterator[Buffer]:
    """Yield the file piece by piece. `columns` by ascending section; BleInvalid when a number has no room."""
    if not 1 <= about.number <= MAX_NUMBER:
        raise BleInvalid(f"generation {about.number}, want 1 to {MAX_NUMBER}")
    at = HEADER.size + DIRECTORY.size * len(columns)
    directory, body = bytearray(), list[bytes]()
    for section in columns:
        offsets = list[int]()
        for column in section.all():
            offsets.append(at)
            padded = column + bytes(-len(column) % 8)
            body.append(padded)
            at += len(padded)
        offsets += [0] * (5 - len(offsets))
        directory += DIRECTORY.pack(section.section, KEY_SIZE[section.section], section.count, *offsets)
    group_count, entries = len(groups) // GROUP.size, sum(section.count for section in columns)
    yield HEADER.pack(
        MAGIC, VERSION, about.flags, about.number, about.created_s, entries, len(columns), at, group_count,
        about.audience, at + len(groups), len(strings), about.from_number, bytes(native.ROOT_SIZE), entries,
    )  # fmt: skip
    yield from (directory, *body, groups, strings)
