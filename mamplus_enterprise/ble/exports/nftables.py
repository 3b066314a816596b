# SPDX-License-Identifier: Apache-2.0
"""nftables: `nft -f FILE` replaces the table `inet mamplus`, in one transaction. Allowed networks are asked first.

A set for each family, and for each port that entries name: sets of address and port together may not overlap.
"""

from collections.abc import Iterable, Iterator

from mamplus_enterprise.ble.exports.common import NETWORK, About, address
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.verdicts import Verdict

_PER_LINE = 8
_WORDS = {Verdict.BLOCK: "block", Verdict.ALLOW: "allow"}
Key = tuple[Verdict, int, str, int]  # verdict, IP version, protocol, port


def lines(entries: Iterable[Entry], about: About) -> Iterator[str]:
    sets: dict[Key, list[str]] = {}
    ports: list[tuple[Verdict, str]] = []
    for entry in entries:
        if entry.verdict not in _WORDS or entry.kind not in (*NETWORK, Kind.PORT):
            about.leave(entry, "suspect" if entry.verdict not in _WORDS else "")
        elif entry.kind is Kind.PORT:
            ports.append((entry.verdict, entry.value))
        else:
            where, version, protocol, port = address(entry)
            sets.setdefault((entry.verdict, version, protocol, port), []).append(where)
    yield f"# {about.title()}"
    yield "table inet mamplus"
    yield "delete table inet mamplus"
    yield "table inet mamplus {"
    for key, values in sorted(sets.items(), key=_order):
        yield from _set(key, values)
    for chain, side in (("input", "saddr"), ("output", "daddr"), ("forward", "daddr")):
        yield f"\tchain {chain} {{"
        yield f"\t\ttype filter hook {chain} priority filter - 5; policy accept;"
        yield from (f"\t\t{rule}" for rule in _rules(sets, ports, side))
        yield "\t}"
    yield "}"


def _order(item: tuple[Key, list[str]]) -> tuple[int, int, str, int]:
    verdict, version, protocol, port = item[0]
    return -verdict, version, protocol, port


def _name(key: Key) -> str:
    verdict, version, protocol, port = key
    return "_".join([f"{_WORDS[verdict]}{version}", *([protocol] if protocol else []), *([str(port)] if port else [])])


def _set(key: Key, values: list[str]) -> Iterator[str]:
    yield f"\tset {_name(key)} {{"
    yield f"\t\ttype ipv{key[1]}_addr; flags interval; auto-merge"
    yield "\t\telements = {"
    for start in range(0, len(values), _PER_LINE):
        yield "\t\t\t" + ", ".join(values[start : start + _PER_LINE]) + ","
    yield "\t\t}"
    yield "\t}"


def _rules(sets: dict[Key, list[str]], ports: list[tuple[Verdict, str]], side: str) -> Iterator[str]:
    """Allow before block; a host that answers is asked by its source port."""
    which = "sport" if side == "saddr" else "dport"
    for key, _ in sorted(sets.items(), key=_order):
        verdict, version, protocol, port = key
        family = "ip" if version == 4 else "ip6"
        yield f"{family} {side} @{_name(key)} {_transport(protocol, port, which)}{_action(verdict)}"
    for verdict, value in sorted(ports, key=lambda one: (-one[0], one[1])):
        port_text, _, protocol = value.partition("/")
        yield f"{_transport(protocol, int(port_text), which)}{_action(verdict)}"


def _transport(protocol: str, port: int, which: str) -> str:
    if port:
        return f"meta l4proto {protocol or '{ tcp, udp }'} th {which} {port} "
    return f"meta l4proto {protocol} " if protocol else ""


def _action(verdict: Verdict) -> str:
    return "counter drop" if verdict is Verdict.BLOCK else "accept"
