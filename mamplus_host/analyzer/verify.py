# SPDX-License-Identifier: Apache-2.0
"""`Verify(BLE)`: does the list hold this value, through which entry, in which generation?

Journey: collector -> [analyzer] -> executor.

The kernel asks its own tables, compiled from the same file; this is the same question in
user space, for `mamplus check`, for local rules and to name the entry behind a kernel verdict.
Order: the most specific entry of a kind that blocks or allows, else the most specific that suspects; across
kinds guard > allow > block > suspect. So no suspicion, of whatever layer, takes back what a wider entry blocks.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

import msgspec

from mamplus_host.ble import native
from mamplus_host.ble.encode import place_of
from mamplus_host.ble.endpoint import Endpoint, endpoint, endpoint_value
from mamplus_host.ble.entry import PROTOCOLS, Entry, Kind, address_key, canonical
from mamplus_host.ble.format import NET_KEY, Generation, Section
from mamplus_host.ble.globs import Globs
from mamplus_host.ble.paths import bytes_of, is_pattern, specificity
from mamplus_host.ble.stack import Stack
from mamplus_host.ble.usb import wider
from mamplus_host.ble.versions import covers, narrowness, package_of
from mamplus_host.errors import ConfigInvalid
from mamplus_host.events import Connect, DnsQuery, Exec, FileAccess, Packet
from mamplus_host.kernel import layout
from mamplus_host.verdicts import Verdict

_MAPPED = bytes(10) + b"\xff\xff"
List = Generation | Stack


class Answer(msgspec.Struct, frozen=True):
    """What the BLE says: `entry` is None when it says nothing."""

    verdict: Verdict
    entry: Entry | None
    generation: int  # 0: no generation is installed


def verify(ble: List | None, kind: Kind, value: str, *, now_s: float, globs: Globs | None = None) -> Answer:
    """Return what `ble` says of a canonical `value`; entries past their `valid_until` are silent.

    An address is also looked up among the networks and ports, and a network among the wider ones; a path
    among the patterns (`globs`: those of `ble`, where they are at hand), a package among the ranges of
    its versions, a USB device among the entries about its product and vendor. BleInvalid when a file of the
    list was cut off while it is open, or its disk fails.
    """
    if ble is None:
        return Answer(Verdict.NOTHING, None, 0)
    ble = Stack.of(ble) if isinstance(ble, Generation) else ble
    best = Answer(Verdict.NOTHING, None, ble.number)
    for entry in _candidates(ble, kind, value, now_s, globs):
        if entry.verdict > best.verdict:
            best = Answer(entry.verdict, entry, ble.number)
    for part in ble.parts():
        native.require_whole(part.buffer)
    return best


def verify_text(ble: List | None, kind: Kind, text: str, *, now_s: float) -> Answer:
    """As `verify`, of a value as a person types it; ConfigInvalid when it is none of `kind`."""
    if kind is Kind.DOMAIN and text.startswith("="):
        raise ConfigInvalid(f"{text!r}: ask for the name itself, without '='")
    return verify(ble, kind, canonical(kind, text), now_s=now_s)


def asked(event: Exec | FileAccess | Connect | Packet | DnsQuery) -> tuple[Kind, str]:
    """Return what the kernel asked its tables about `event`: kind and canonical value."""
    if isinstance(event, Exec | FileAccess):
        return Kind.SHA256, event.sha256
    if isinstance(event, DnsQuery):
        return Kind.DOMAIN, event.name
    if isinstance(event, Connect):
        address, port = event.address, event.port
    else:
        inwards = bool(event.head.flags & layout.F_INGRESS)
        address, port = (event.source, event.sport) if inwards else (event.destination, event.dport)
    at = Endpoint(address_key(str(address)), 128, event.protocol if event.protocol in PROTOCOLS.values() else 0, port)
    is_plain = not (at.port or at.protocol)
    return (Kind.IP, str(address)) if is_plain else endpoint_value(at)


def _candidates(ble: Stack, kind: Kind, value: str, now_s: float, globs: Globs | None) -> Iterator[Entry]:
    """Yield the living entries that decide about `value` in each kind; where several are equally specific, all."""
    if kind is Kind.DOMAIN:
        yield from _deciding(_domains(ble, value, now_s))
    elif kind in (Kind.IP, Kind.CIDR, Kind.PORT):
        yield from _endpoints(ble, kind, endpoint(kind, value), now_s)
    elif kind is Kind.PATH:
        yield from _deciding(_paths(ble, value, now_s, globs))
    elif kind is Kind.PACKAGE:
        yield from _deciding(_packages(ble, value, now_s))
    elif kind is Kind.USB:
        yield from _deciding(_texts(ble, kind, one, now_s) for one in wider(value))
    elif kind in (Kind.USER, Kind.GROUP, Kind.YARA, Kind.SIGMA):
        yield from _texts(ble, kind, value, now_s)
    else:
        yield from _living(ble, place_of(kind, value), now_s)


def _texts(ble: Stack, kind: Kind, value: str, now_s: float) -> Iterator[Entry]:
    """Yield the living entry about this very text. A hash that collides is no match."""
    for entry in _living(ble, place_of(kind, value), now_s):
        if entry.value == value:
            yield entry


def _living(ble: Stack, place: tuple[Section, bytes], now_s: float) -> Iterator[Entry]:
    """What stands at a place in any layer and has not ended."""
    for _layer, entry in ble.entries_at(*place):
        if entry.valid_until == 0 or entry.valid_until > now_s:
            yield entry


def _deciding(groups: Iterable[Iterable[Entry]]) -> list[Entry]:
    """Of groups of entries, the most specific first: the first that blocks or allows, else the first that suspects."""
    suspecting: list[Entry] = []
    for group in map(list, groups):
        if any(entry.verdict > Verdict.SUSPECT for entry in group):
            return group
        suspecting = suspecting or group
    return suspecting


def _ranked(entries: Iterable[Entry], how: Callable[[str], Any]) -> Iterator[Iterator[Entry]]:
    """Group entries that are equally specific, the most specific first."""
    pairs = sorted(((how(entry.value), entry) for entry in entries), key=lambda pair: pair[0], reverse=True)
    for _rank, group in groupby(pairs, key=lambda pair: pair[0]):
        yield (entry for _same, entry in group)


def _paths(ble: Stack, value: str, now_s: float, globs: Globs | None) -> Iterator[Iterable[Entry]]:
    """This very path, then the patterns that cover it."""
    yield _texts(ble, Kind.PATH, value, now_s)
    if is_pattern(value):
        return
    patterns = (globs or Globs(ble.parts())).covering(bytes_of(value))
    yield from _ranked((entry for one in patterns for entry in _texts(ble, Kind.PATH, one, now_s)), specificity)


def _packages(ble: Stack, value: str, now_s: float) -> Iterator[Iterable[Entry]]:
    """The ranges of versions that hold what is asked, the narrowest first: one version, a range, every version."""
    asked = package_of(value)
    living = _living(ble, place_of(Kind.PACKAGE, value), now_s)
    named = (entry for entry in living if package_of(entry.value)[:2] == asked[:2])
    held = (entry for entry in named if covers(package_of(entry.value), asked))
    yield from _ranked(held, lambda text: narrowness(package_of(text)))


def _first(ble: Stack, places: Iterable[tuple[Section, bytes]], now_s: float) -> list[Entry]:
    """Of the place that decides, what all layers say there."""
    return _deciding(_living(ble, place, now_s) for place in places)


def _endpoints(ble: Stack, kind: Kind, at: Endpoint, now_s: float) -> Iterator[Entry]:
    if kind is Kind.IP:
        yield from _first(ble, _hosts(at), now_s)
    if kind is not Kind.PORT:
        yield from _first(ble, _wider(at), now_s)
    if at.port:
        yield from _first(ble, _qualified(Endpoint(bytes(16), 0, at.protocol, at.port), with_port=True), now_s)


def _hosts(at: Endpoint) -> Iterator[tuple[Section, bytes]]:
    """Yield where entries about one host are, the most qualified first."""
    for section, key in _qualified(at):
        if key[17:] != bytes(3):  # without port and protocol a host has a section of its own
            yield section, key
    yield (Section.IP4, at.addr[12:]) if _is_v4(at) else (Section.IP6, at.addr)


def _wider(at: Endpoint) -> Iterator[tuple[Section, bytes]]:
    """Yield where entries about networks around `at` are, the longest prefix first; an IPv4 one is in IPv4 only."""
    number, least = int.from_bytes(at.addr, "big"), 96 if _is_v4(at) else 0
    for prefix in range(at.prefix, least - 1, -1):
        network = (number >> (128 - prefix)) << (128 - prefix)
        for section, key in _qualified(at._replace(addr=network.to_bytes(16, "big"), prefix=prefix)):
            is_host = prefix == 128 and key[17:] != bytes(3)
            is_port = prefix == 0 and key[18:] != bytes(2)
            if not is_host and not is_port:
                yield section, key


def _qualified(at: Endpoint, *, with_port: bool = False) -> Iterator[tuple[Section, bytes]]:
    """Yield the keys of `at` with port and protocol, with the port, with the protocol, with neither."""
    wanted = [(at.protocol, at.port), (0, at.port)] + ([] if with_port else [(at.protocol, 0), (0, 0)])
    for protocol, port in dict.fromkeys(wanted):
        yield Section.NET, NET_KEY.pack(at.addr, at.prefix, protocol, port)


def _is_v4(at: Endpoint) -> bool:
    return at.addr[:12] == _MAPPED and at.prefix >= 96


def _domains(ble: Stack, name: str, now_s: float) -> Iterator[Iterable[Entry]]:
    """Longest suffix first; `=name` entries cover the name itself alone. A hash that collides is no match."""
    yield _texts(ble, Kind.DOMAIN, f"={name}", now_s)
    labels = name.split(".")
    for start in range(len(labels)):
        yield _texts(ble, Kind.DOMAIN, ".".join(labels[start:]), now_s)
