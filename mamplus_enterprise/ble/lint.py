# SPDX-License-Identifier: Apache-2.0
"""What is wrong, or only useless, in the working list: found before a device meets it.

    gate       an entry blocks what the gate would refuse: the enterprise, known good values, wide networks
    overruled  the same, but a person gave a reason when it was imported (`--force`)
    outranked  an entry that allows makes one that blocks the same value silent
    shadowed   a wider entry says the same already
    twice      two layers say the same
    ends       an entry ends soon
    ended      it has ended, and is still written
    key        a layer says what its key may not: devices would refuse its list
    full       a layer holds more than devices take: of a kind that they search one by one, or in all

Works on two passes over each layer; a million entries take some 200 MB.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from mamplus_enterprise.ble import author
from mamplus_enterprise.ble.gate import Gate
from mamplus_enterprise.ble.judge import beyond_key
from mamplus_enterprise.ble.ranges import Ranges, span
from mamplus_enterprise.ble.steps import Steps
from mamplus_enterprise.storage.schema import Audit, EntryRow
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import FEW_SECTIONS, MAX_FEW, TEXT_KINDS
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.limits import LIMITS
from mamplus_host.verdicts import Verdict

LOOKS = 2
FEW, FEWEST = 20, 3  # findings of a sort that are shown
MOST = 60_000  # networks of one verdict that shadows are looked for among
GRAVE = frozenset({"gate", "outranked", "key", "full"})
_FEW = frozenset(TEXT_KINDS[section] for section in FEW_SECTIONS)
_ORDER = ("gate", "key", "full", "outranked", "overruled", "ended", "twice", "shadowed", "ends")  # what harms first


class Finding(NamedTuple):
    code: str
    entry_id: int
    layer: str
    kind: str
    value: str
    why: str


class _Known(NamedTuple):
    verdict: Verdict
    entry_id: int
    layer: Layer


@dataclass(slots=True)
class _Seen:
    values: dict[tuple[Kind, str], _Known] = field(default_factory=dict)
    networks: dict[Verdict, list[tuple[str, int]]] = field(default_factory=dict)  # value and id
    overruled: frozenset[str] = frozenset()  # values
    counts: Counter[tuple[Layer, Kind]] = field(default_factory=Counter)
    newest: dict[tuple[Layer, Kind], Entry] = field(default_factory=dict)


def lint(
    session: Session, gate: Gate, *, soon_s: float, progress: Callable[[int], object] = lambda _done: None
) -> Iterator[Finding]:
    """Yield what is found, layer by layer. Read to the end, or close, before the session ends.

    `progress` is told now and then how many entries were looked at; each is looked at LOOKS times.
    """
    now_s = time.time()
    forced = session.scalars(select(Audit.subject).where(Audit.what == "gate overruled"))
    seen = _Seen(overruled=frozenset(forced))
    yield from _ended(session, now_s)
    steps = Steps(progress)
    for layer in Layer:
        for entry in steps.each(author.state_at(session, layer, now_s)):
            _note(seen, layer, entry)
    yield from _full(seen)
    wider = {
        verdict: Ranges((value, place) for place, (value, _id) in enumerate(networks[:MOST]))
        for verdict, networks in seen.networks.items()
    }
    for layer in Layer:
        for entry in steps.each(author.state_at(session, layer, now_s)):
            for code, why in _about(entry, layer, gate, seen, wider, now_s, soon_s):
                yield _finding(code, layer, entry, why)


def written(session: Session) -> int:
    """Return how many entries the working list has."""
    wanted = select(func.count()).select_from(EntryRow).where(EntryRow.removed_at.is_(None))
    return session.scalar(wanted) or 0


def counts(findings: "list[Finding]") -> dict[str, int]:
    """Return how many there are of each sort, what harms first."""
    found = Counter(finding.code for finding in findings)
    return {code: found[code] for code in _ORDER if code in found}


def shown(findings: "list[Finding]", limit: int | None) -> "list[Finding]":
    """Return what is worth a look, what harms first: `limit` of each sort, all for 0.

    None: FEW of what harms, FEWEST of what is only useless, for feeds shadow each other by the thousand.
    """
    room = dict.fromkeys(_ORDER, limit or len(findings))
    if limit is None:
        room = {code: FEW if code in GRAVE else FEWEST for code in _ORDER}
    few = []
    for one in sorted(findings, key=lambda one: _ORDER.index(one.code)):
        room[one.code] -= 1
        if room[one.code] >= 0:
            few.append(one)
    return few


def _note(seen: _Seen, layer: Layer, entry: Entry) -> None:
    """Keep the greatest opinion of each value, and the networks without ports, by verdict."""
    known = seen.values.get((entry.kind, entry.value))
    if known is None or entry.verdict > known.verdict:
        seen.values[entry.kind, entry.value] = _Known(entry.verdict, entry.id, layer)
    seen.counts[layer, entry.kind] += 1
    seen.newest[layer, entry.kind] = entry
    if entry.kind is Kind.CIDR and _is_every_port(entry):
        seen.networks.setdefault(entry.verdict, []).append((entry.value, entry.id))


def _full(seen: _Seen) -> Iterator[Finding]:
    """Yield a finding about the newest entry of what is too much: it was the one too many."""
    for layer, limits in LIMITS.items():
        total = sum(count for (of, _kind), count in seen.counts.items() if of is layer)
        if total > limits.entries:
            newest = max((one for (of, _kind), one in seen.newest.items() if of is layer), key=lambda one: one.id)
            why = f"the layer holds {total} entries, want at most {limits.entries}; remove or move some"
            yield _finding("full", layer, newest, why)
    for (layer, kind), count in seen.counts.items():
        if kind in _FEW and count > MAX_FEW:
            why = (
                f"the layer holds {count} of this kind, want at most {MAX_FEW}, for devices search them one by one;"
                " write wider patterns or ranges, or remove some"
            )
            yield _finding("full", layer, seen.newest[layer, kind], why)


def _about(
    entry: Entry, layer: Layer, gate: Gate, seen: _Seen, wider: dict[Verdict, Ranges], now_s: float, soon_s: float
) -> Iterator[tuple[str, str]]:
    if entry.verdict is not Verdict.ALLOW and (refusal := gate.ask(entry.kind, entry.value).refusal):
        yield "overruled" if entry.value in seen.overruled and refusal.code != "never" else "gate", refusal.reason
    if why := beyond_key(entry, layer, now_s):
        yield "key", why
    known = seen.values[entry.kind, entry.value]
    if known.entry_id != entry.id:
        code = "twice" if known.verdict is entry.verdict else "outranked"
        yield code, f"entry {known.entry_id} in layer {known.layer.name.lower()} says {known.verdict.name.lower()}"
    elif network := _allowed_around(entry, seen, wider):
        yield "outranked", f"entry {network} allows a network around it"
    elif why := _shadow(entry, seen, wider):
        yield "shadowed", why
    if entry.valid_until and entry.valid_until < now_s + soon_s:
        yield "ends", f"in {(entry.valid_until - now_s) / 86_400:.1f} days"


def _allowed_around(entry: Entry, seen: _Seen, wider: dict[Verdict, Ranges]) -> int:
    """Across kinds the greater verdict wins: a network that is allowed outranks a host in it."""
    if entry.kind is not Kind.IP or entry.verdict is Verdict.ALLOW or not _is_every_port(entry):
        return 0
    return _around(entry, Verdict.ALLOW, seen, wider)


def _shadow(entry: Entry, seen: _Seen, wider: dict[Verdict, Ranges]) -> str:
    """Return what says the same about more; an entry for one port is never the shadow of another."""
    if entry.kind is Kind.DOMAIN:
        parent = entry.value.removeprefix("=").partition(".")[2]
        while "." in parent:
            known = seen.values.get((Kind.DOMAIN, parent))
            if known is not None:
                return f"entry {known.entry_id} blocks {parent}" if known.verdict is entry.verdict else ""
            parent = parent.partition(".")[2]
    elif entry.kind in (Kind.IP, Kind.CIDR) and _is_every_port(entry):
        network = _around(entry, entry.verdict, seen, wider)
        return f"entry {network} says {entry.verdict.name.lower()} of a wider network" if network else ""
    return ""


def _around(entry: Entry, verdict: Verdict, seen: _Seen, wider: dict[Verdict, Ranges]) -> int:
    """Return the id of another entry of `verdict` whose network holds all of this one; 0: there is none."""
    if verdict not in wider:
        return 0
    version, first, last = span(entry.value)
    labels = {wider[verdict].touching((version, end, end)) for end in (first, last)}
    label = labels.pop()
    if labels or label is None:
        return 0
    number = seen.networks[verdict][label][1]
    return 0 if number == entry.id else number


def _is_every_port(entry: Entry) -> bool:
    return entry.value[0] != "[" and entry.value.count(":") != 1


def _ended(session: Session, now_s: float) -> Iterator[Finding]:
    wanted = select(EntryRow).where(
        EntryRow.removed_at.is_(None), EntryRow.valid_until > 0, EntryRow.valid_until <= now_s
    )
    for row in session.scalars(wanted):
        entry = author.entry_of(row)
        yield _finding("ended", Layer(row.layer), entry, "its validity is over")


def _finding(code: str, layer: Layer, entry: Entry, why: str) -> Finding:
    return Finding(code, entry.id, layer.name.lower(), entry.kind.name.lower(), entry.value, why)
