# SPDX-License-Identifier: Apache-2.0
"""nftables: `nft -f FILE` replaces the table `inet mamplus`, in one transaction. It decides as devices do.

Two sets for each family, protocol and port that entries name: sets of address and port together may not overlap.
"""

from collections.abc import Iterable, Iterator

from mamplus_enterprise.ble.exports.common import NETWORK, About
from mamplus_enterprise.ble.exports.decided import Decisions, Sort, apart, changing, text_of
from mamplus_host.ble.entry import PROTOCOLS, Entry, Kind
from mamplus_host.verdicts import Verdict

_PER_LINE = 8
_WORDS = {Verdict.ALLOW: "allow", Verdict.BLOCK: "block"}
Sets = dict[tuple[Sort, Verdict], list[str]]  # what is asked first comes first


def lines(entries: Iterable[Entry], about: About) -> Iterator[str]:
    decisions, ports = Decisions(), dict[str, Verdict]()
    for entry in entries:
        if entry.verdict not in _WORDS or entry.kind not in (*NETWORK, Kind.PORT):
            about.leave(entry, "suspect" if entry.verdict not in _WORDS else "")
        elif entry.kind is Kind.PORT:
            ports[entry.value] = entry.verdict
        else:
            decisions.add(entry)
    sets = _sets(decisions)
    yield f"# {about.title()}"
    yield "table inet mamplus"
    yield "delete table inet mamplus"
    yield "table inet mamplus {"
    for (sort, verdict), values in sets.items():
        yield from _set(sort, verdict, values)
    for chain, side in (("input", "saddr"), ("output", "daddr"), ("forward", "daddr")):
        yield f"\tchain {chain} {{"
        yield f"\t\ttype filter hook {chain} priority filter - 5; policy accept;"
        yield from (f"\t\t{rule}" for rule in _rules(sets, ports, side))
        yield "\t}"
    yield "}"


def _sets(decisions: Decisions) -> Sets:
    sets: Sets = {}
    for sort in decisions.sorts():
        for one in apart(changing(decisions.prefixes(sort), Verdict.NOTHING)):
            sets.setdefault((sort, one.verdict), []).append(text_of(sort.version, one.first, one.last))
    return sets


def _name(sort: Sort, verdict: Verdict) -> str:
    parts = (sort.protocol, str(sort.port or ""))
    return "_".join([f"{_WORDS[verdict]}{sort.version}", *filter(None, parts)])


def _set(sort: Sort, verdict: Verdict, values: list[str]) -> Iterator[str]:
    yield f"\tset {_name(sort, verdict)} {{"
    yield f"\t\ttype ipv{sort.version}_addr; flags interval; auto-merge"
    yield "\t\telements = {"
    for start in range(0, len(values), _PER_LINE):
        yield "\t\t\t" + ", ".join(values[start : start + _PER_LINE]) + ","
    yield "\t\t}"
    yield "\t}"


def _rules(sets: Sets, ports: dict[str, Verdict], side: str) -> Iterator[str]:
    """Of sets the first decides; an allowed port beats them, a blocked one decides what they leave.

    A host that answers is asked by its source port.
    """
    which = "sport" if side == "saddr" else "dport"
    yield from _port_rules(ports, Verdict.ALLOW, which)
    for sort, verdict in sets:
        family = "ip" if sort.version == 4 else "ip6"
        yield f"{family} {side} @{_name(sort, verdict)} {_transport(sort.protocol, sort.port, which)}{_action(verdict)}"
    yield from _port_rules(ports, Verdict.BLOCK, which)


def _port_rules(ports: dict[str, Verdict], verdict: Verdict, which: str) -> Iterator[str]:
    """A port of one protocol beats the port of every protocol."""
    for value in sorted(value for value, said in ports.items() if said is verdict):
        port, _, protocol = value.partition("/")
        left = [protocol] if protocol else [one for one in PROTOCOLS if f"{port}/{one}" not in ports]
        if left:
            yield f"{_transport(', '.join(left), int(port), which)}{_action(verdict)}"


def _transport(protocols: str, port: int, which: str) -> str:
    if port:
        return f"meta l4proto {{ {protocols or ', '.join(PROTOCOLS)} }} th {which} {port} "
    return f"meta l4proto {protocols} " if protocols else ""


def _action(verdict: Verdict) -> str:
    return "counter drop" if verdict is Verdict.BLOCK else "accept"
