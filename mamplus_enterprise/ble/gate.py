# SPDX-License-Identifier: Apache-2.0
"""The one gate between feeds and the list: may a device refuse this value?

Asked for every imported value, in this order: never-block set (the device's own programs among it), special-use
addresses, width of networks, warninglists (among them the public suffixes). Pure once it is made; a question takes
about two microseconds.

An entry that allows passes: it refuses nothing.
"""

from dataclasses import dataclass
from typing import NamedTuple

from mamplus_enterprise.ble.never import Never
from mamplus_enterprise.ble.ranges import Ranges, Span, span
from mamplus_enterprise.ble.warninglists import Match, Warninglists
from mamplus_host.ble.endpoint import split
from mamplus_host.ble.entry import Kind

# RFC 6890 and its updates. Nobody who may be reached on the Internet has such an address: in a feed it is
# a mistake or, as in firehol_level1, a rule for routers that would cut a device off its own network.
SPECIAL = {
    "0.0.0.0/8": "this network", "10.0.0.0/8": "private", "100.64.0.0/10": "carrier-grade NAT",
    "127.0.0.0/8": "loopback", "169.254.0.0/16": "link-local", "172.16.0.0/12": "private",
    "192.0.0.0/24": "protocol assignments", "192.0.2.0/24": "documentation", "192.88.99.0/24": "6to4 relays",
    "192.168.0.0/16": "private", "198.18.0.0/15": "benchmarking", "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation", "224.0.0.0/4": "multicast", "240.0.0.0/4": "reserved",
    "::/3": "not global unicast", "2001::/32": "Teredo", "2001:db8::/32": "documentation",
    "3fff::/20": "documentation", "2002::/16": "6to4", "4000::/2": "not global unicast",
    "8000::/1": "not global unicast",
}  # fmt: skip


class Refusal(NamedTuple):
    """Why a value may not be blocked."""

    code: str  # never, private, bogon, wide, suffix or known: what reports count by
    reason: str


@dataclass(frozen=True, slots=True)
class Widest:
    """The shortest prefix that a feed may name."""

    v4: int = 10  # Spamhaus DROP has /12; a /8 is a continent's provider
    v6: int = 20


class Answer(NamedTuple):
    """What the gate says: `refusal`, or a list that knows the value and is no reason to keep it out."""

    refusal: Refusal | None = None
    note: str = ""


class Gate:
    """Made once for an import. `lists` may be None: then only the other questions are asked."""

    def __init__(self, never: Never, lists: Warninglists | None, widest: Widest = Widest()) -> None:
        self._never, self._lists, self._widest = never, lists, widest
        self._names = list(SPECIAL.values())
        self._special = Ranges((network, label) for label, network in enumerate(SPECIAL))

    def ask(self, kind: Kind, value: str, *, is_host_of_url: bool = False, is_by_hand: bool = False) -> Answer:
        """Say whether canonical `value` may be blocked; by a person (`is_by_hand`) also ports and special addresses.

        The host of a URL is asked more strictly: what many people share must not be blocked for one page.
        """
        if kind in (Kind.IP, Kind.CIDR):
            return self._addresses(kind, value, span(split(value)[0]), is_by_hand)
        if kind is Kind.DOMAIN:
            return self._domain(value, is_host_of_url)
        if kind is Kind.PATH:
            why = self._never.program(value)
            return Answer(Refusal("never", f"{value} is never to be blocked: {why}")) if why else Answer()
        if kind is Kind.PORT and not is_by_hand:
            return Answer(Refusal("wide", "a port is one of every address; an administrator adds such an entry"))
        if self._lists is None or kind not in (Kind.SHA256, Kind.TLS):
            return Answer()
        return _answer(self._lists.sha256(value) if kind is Kind.SHA256 else self._lists.certificate(value))

    def _addresses(self, kind: Kind, value: str, at: Span, is_by_hand: bool) -> Answer:
        if why := self._never.network(at):
            return Answer(Refusal("never", f"{value} is never to be blocked: {why}"))
        label = self._special.touching(at)
        if label is not None and not is_by_hand:
            special = self._names[label]
            return Answer(Refusal("private" if special == "private" else "bogon", f"{value} has {special} addresses"))
        if kind is Kind.CIDR and (refusal := self._width(value)):
            return Answer(refusal)
        if self._lists is None or label is not None:
            return Answer()
        return _answer(self._lists.network(at))

    def _width(self, value: str) -> Refusal | None:
        where = split(value)[0]
        prefix, widest = int(where.partition("/")[2]), self._widest.v6 if ":" in where else self._widest.v4
        if prefix >= widest:
            return None
        return Refusal("wide", f"{value} is wider than /{widest}; say --widest if it is meant")

    def _domain(self, value: str, is_host_of_url: bool) -> Answer:
        if why := self._never.domain(value):
            return Answer(Refusal("never", f"{value} is never to be blocked: {why}"))
        if self._lists is None:
            return Answer()
        match = self._lists.domain(value)
        if is_host_of_url:
            match = match or self._lists.domain(value.removeprefix("www."))
            return Answer(_shared(value, match)) if match is not None else Answer()
        if match is not None and match.drop and match.how == "is" and "TLDs" in match.list:
            return Answer(Refusal("suffix", f"{value} is a public suffix ({match.list}): everybody's names end so"))
        return _answer(match)


def _shared(value: str, match: Match) -> Refusal:
    return Refusal("shared", f"the host {value} is shared or popular ({match.list}); say --urls host to block it")


def _answer(match: Match | None) -> Answer:
    if match is None:
        return Answer()
    if not match.drop:
        return Answer(note=match.list)
    other = f"{match.value}, which is " if match.value else ""
    return Answer(Refusal("known", f"known good: it {match.how} {other}on the {match.list!r}"))
