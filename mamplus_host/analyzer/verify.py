# SPDX-License-Identifier: Apache-2.0
"""`Verify(BLE)`: does the list hold this value, through which entry, in which generation?

Journey: collector -> [analyzer] -> executor.

The kernel asks its own tables, compiled from the same file; this is the same question in
user space, for `mamplus check`, for local rules and for events without a kernel verdict.
Order: the most specific entry of a kind; across kinds guard > allow > block > suspect.
"""

from collections.abc import Iterator

import msgspec

from mamplus_host.ble.entry import Entry, Kind, address_key, canonical, cidr_key, domain_hash
from mamplus_host.ble.format import RECORD, Generation
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import Verdict


class Answer(msgspec.Struct, frozen=True):
    """What the BLE says: `entry` is None when it says nothing."""

    verdict: Verdict
    entry: Entry | None
    generation: int  # 0: no generation is installed


def verify(ble: Generation | None, kind: Kind, value: str, *, now_s: float) -> Answer:
    """Return what `ble` says of a canonical `value`; entries past their `valid_until` are silent.

    An address is also looked up among the networks, and a network among the wider ones.
    """
    if ble is None:
        return Answer(Verdict.NOTHING, None, 0)
    best = Answer(Verdict.NOTHING, None, ble.number)
    for entry in _candidates(ble, kind, value, now_s):
        if entry.verdict > best.verdict:
            best = Answer(entry.verdict, entry, ble.number)
    return best


def verify_text(ble: Generation | None, kind: Kind, text: str, *, now_s: float) -> Answer:
    """As `verify`, of a value as a person types it; ConfigInvalid when it is none of `kind`."""
    if kind is Kind.DOMAIN and text.startswith("="):
        raise ConfigInvalid(f"{text!r}: ask for the name itself, without '='")
    return verify(ble, kind, canonical(kind, text), now_s=now_s)


def _candidates(ble: Generation, kind: Kind, value: str, now_s: float) -> Iterator[Entry]:
    """Yield the most specific living entry of each kind that covers `value`."""
    if kind is Kind.SHA256:
        yield from _first(ble, [(Kind.SHA256, bytes.fromhex(value))], now_s)
    elif kind is Kind.DOMAIN:
        yield from _domains(ble, value, now_s)
    else:
        prefix, key = (128, address_key(value)) if kind is Kind.IP else cidr_key(value)
        if kind is Kind.IP:
            yield from _first(ble, [(Kind.IP, key)], now_s)
        yield from _first(ble, _wider(key, prefix), now_s)


def _first(
    ble: Generation, keys: "list[tuple[Kind, bytes]] | Iterator[tuple[Kind, bytes]]", now_s: float
) -> Iterator[Entry]:
    for kind, key in keys:
        slot = ble.find(kind, key)
        if slot is None:
            continue
        entry = ble.entry(slot)
        if entry.valid_until == 0 or entry.valid_until > now_s:
            yield entry
            return


def _wider(key: bytes, prefix: int) -> Iterator[tuple[Kind, bytes]]:
    number = int.from_bytes(key, "big")
    for length in range(prefix, -1, -1):
        network = (number >> (128 - length)) << (128 - length)
        yield Kind.CIDR, network.to_bytes(16, "big") + bytes([length])


def _domains(ble: Generation, name: str, now_s: float) -> Iterator[Entry]:
    """Longest suffix first; `=name` entries cover the name itself alone. A hash that collides is no match."""
    labels = name.split(".")
    pack = RECORD[Kind.DOMAIN].pack
    for start in range(len(labels)):
        suffix = ".".join(labels[start:])
        for exact in (1, 0) if start == 0 else (0,):
            key = pack(domain_hash(suffix), exact, 0)[:12]
            for entry in _first(ble, [(Kind.DOMAIN, key)], now_s):
                if entry.value.removeprefix("=") == suffix:
                    yield entry
                    return
