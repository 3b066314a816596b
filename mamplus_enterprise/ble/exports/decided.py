# SPDX-License-Identifier: Apache-2.0
"""What devices decide of addresses, worked out for tools that know no order of entries.

A device takes of the entries about a host the one that says most of port and protocol, of those about networks the
most specific, and of the two the greater: allow beats block. Here packets are sorted by what entries tell them apart
by, and each sort has prefixes; the first sort with a prefix around an address, and in it the longest, decide alone.

A million addresses take some 16 s and 300 MB.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from mamplus_enterprise.ble.exports.common import address
from mamplus_enterprise.ble.ranges import span
from mamplus_host.ble.entry import PROTOCOLS, Entry, Kind
from mamplus_host.verdicts import Verdict

HOST_BITS = {4: 32, 6: 128}
Place = tuple[int, int]  # first address as a number, length of the prefix
Networks = list[tuple[int, int, dict[int, Verdict]]]  # length, bits behind it, verdicts by first address


class Sort(NamedTuple):
    """Packets that are asked about in one way."""

    version: int  # of IP
    protocol: str  # tcp, udp; "": every one
    port: int  # 0: every one


class Prefix(NamedTuple):
    """A host or network and what is decided in it, but for what is within it. One comes before those within it."""

    first: int  # address, as a number
    last: int
    verdict: Verdict


_END = Prefix(1 << 128, 1 << 128, Verdict.NOTHING)  # behind every address


class _Said:
    """The entries of one sort."""

    def __init__(self, version: int) -> None:
        self.host_bits = HOST_BITS[version]
        self.hosts: dict[int, Verdict] = {}
        self.networks: dict[int, dict[int, Verdict]] = {}  # by length, then by first address

    def places(self) -> Iterator[Place]:
        yield from ((host, self.host_bits) for host in self.hosts)
        yield from ((first, length) for length, found in self.networks.items() for first in found)

    @cached_property
    def _sorted(self) -> list[Place]:
        return sorted(self.places())

    def within(self, first: int, length: int) -> list[Place]:
        """Return the places in a network, itself included."""
        begin = bisect_left(self._sorted, (first, length))
        end = bisect_left(self._sorted, (first + (1 << self.host_bits - length), 0))
        return self._sorted[begin:end]


class Decisions:
    """Filled with ip and cidr entries that block or allow, then asked."""

    def __init__(self) -> None:
        self._said: dict[Sort, _Said] = {}

    def add(self, entry: Entry) -> None:
        where, version, protocol, port = address(entry)
        said = self._said.setdefault(Sort(version, protocol, port), _Said(version))
        first = span(where)[1]
        if entry.kind is Kind.IP:
            said.hosts[first] = entry.verdict
        else:
            said.networks.setdefault(int(where.partition("/")[2]), {})[first] = entry.verdict

    def sorts(self) -> list[Sort]:
        """Return what packets are told apart by, of each IP version those with a port first, those with nothing last.

        Entries for a port of every protocol make a sort for each, where others name protocols: both have a say then.
        """
        found = set[Sort]()
        for sort in self._said:
            named = (Sort(sort.version, protocol, port) for protocol in PROTOCOLS for port in (0, sort.port))
            is_mixed = sort.port and not sort.protocol and any(one in self._said for one in named)
            found |= {sort._replace(protocol=one) for one in PROTOCOLS} if is_mixed else {sort}
        return sorted(found, key=lambda one: (one.version, not one.port, not one.protocol, one.port, one.protocol))

    def prefixes(self, sort: Sort) -> list[Prefix]:
        """Return what is decided wherever an entry is of this sort; elsewhere the sorts behind it decide."""
        asked = [one for one in _asked(sort) if one in self._said]
        ranks = [self._said[one] for one in asked]
        own = [self._said[one] for one in asked if one == sort or one.port == sort.port > 0]
        places = {place for said in own for place in said.places()}
        if len(ranks) > 1:
            networks = [place for place in places if place[1] < HOST_BITS[sort.version]]
            places.update(place for around in networks for said in ranks for place in said.within(*around))
        around = _networks(ranks, HOST_BITS[sort.version])
        return [_decided(ranks, around, place, HOST_BITS[sort.version]) for place in sorted(places)]


def _asked(sort: Sort) -> Iterable[Sort]:
    """Return the sorts whose entries are about these packets, that which says most first."""
    version, protocol, port = sort
    return dict.fromkeys((sort, Sort(version, "", port), Sort(version, protocol, 0), Sort(version, "", 0)))


def _networks(ranks: Iterable[_Said], host_bits: int) -> Networks:
    """Return all networks, the longest first, of one length those of the first rank first."""
    found = ((length, said.networks[length]) for said in ranks for length in said.networks)
    return [(length, host_bits - length, verdicts) for length, verdicts in sorted(found, key=lambda one: -one[0])]


def _decided(ranks: Iterable[_Said], networks: Networks, place: Place, host_bits: int) -> Prefix:
    first, bits = place
    host = network = Verdict.NOTHING
    if bits == host_bits:
        host = next((said.hosts[first] for said in ranks if first in said.hosts), host)
    for length, shift, verdicts in networks:
        if length <= bits and (found := verdicts.get(first >> shift << shift)):
            network = found
            break
    return Prefix(first, first + (1 << host_bits - bits) - 1, max(host, network))


def changing(prefixes: Iterable[Prefix], outside: Verdict) -> Iterator[Prefix]:
    """Yield those that decide otherwise than what is around them; `outside` holds around all."""
    around: list[Prefix] = []
    for one in prefixes:
        while around and around[-1].last < one.first:
            around.pop()
        if one.verdict is not (around[-1].verdict if around else outside):
            yield one
        around.append(one)


def apart(prefixes: Iterable[Prefix]) -> Iterator[Prefix]:
    """Yield the same decisions as ranges of which none is within another."""
    around: list[Prefix] = []
    at = 0
    for one in (*prefixes, _END):
        while around and around[-1].last < one.first:
            ended = around.pop()
            if at <= ended.last:
                yield ended._replace(first=at)
            at = ended.last + 1
        if around and at < one.first:
            yield Prefix(at, one.first - 1, around[-1].verdict)
        at = one.first
        around.append(one)


def text_of(version: int, first: int, last: int) -> str:
    """Return a host, a network, or what is neither as FIRST-LAST."""
    made, size = (IPv4Address if version == 4 else IPv6Address), last - first + 1
    if size == 1:
        return str(made(first))
    if size & size - 1 or first % size:
        return f"{made(first)}-{made(last)}"
    return f"{made(first)}/{HOST_BITS[version] - size.bit_length() + 1}"
