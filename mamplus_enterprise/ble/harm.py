# SPDX-License-Identifier: Apache-2.0
"""What a new generation would refuse though the gate knows it as good: asked before it is signed.

Journey: author -> [harm] -> publish, candidate.

A feed's entries were asked when they were imported; those that a person put beside them were not. A
person's own may name private addresses, which no feed may: they are asked for the rest, the never-block
set and wide networks above all. What was overruled once (`Audit`, as `ble import --force` writes it) is
not asked again, but for the never-block set.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from mamplus_enterprise.ble import author, states
from mamplus_enterprise.ble.gate import Gate, Refusal
from mamplus_enterprise.ble.steps import Steps
from mamplus_enterprise.errors import Harmful
from mamplus_enterprise.storage.schema import Audit, EntryRow
from mamplus_host.ble.entry import Entry
from mamplus_host.ble.layer import Layer
from mamplus_host.verdicts import Verdict

OVERRULED = "gate overruled"
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Harm:
    """One entry, and what the gate says of it."""

    entry: Entry
    refusal: Refusal

    def __str__(self) -> str:
        return f"entry {self.entry.id}: {self.refusal.reason}"


def waiting(session: Session, layers: Iterable[Layer], make_gate: Callable[[], Gate], steps: Steps) -> list[Harm]:
    """Return what is new in `layers` since they were published and harms; the gate is made when it is needed."""
    newest, entries = str(states.newest(session)), list[Entry]()
    for layer in layers:
        since_s = states.moment_of(session, layer, newest)
        entries += _by_hand(session, layer, since_s) if layer is Layer.FEEDS else _new(session, layer, since_s)
    refusing = [entry for entry in entries if entry.verdict is not Verdict.ALLOW]
    return list(harms(session, make_gate(), steps.each(refusing))) if refusing else []


def _by_hand(session: Session, layer: Layer, since_s: float) -> list[Entry]:
    """Return what came into a layer after `since_s` and is there now, but from no feed."""
    since = and_(EntryRow.layer == int(layer), EntryRow.added_at > since_s, author.alive(time.time()))
    wanted = select(EntryRow).where(since, EntryRow.feed_id.is_(None)).order_by(EntryRow.id)
    return [author.entry_of(row) for row in session.scalars(wanted)]


def _new(session: Session, layer: Layer, since_s: float) -> list[Entry]:
    return author.changed_rows(session, layer, since_s, time.time())[0]


def harms(session: Session, gate: Gate, entries: Iterable[Entry]) -> Iterator[Harm]:
    """Yield those of `entries` that the gate would keep out though a person wrote them."""
    overruled = frozenset(session.scalars(select(Audit.subject).where(Audit.what == OVERRULED)))
    for entry in entries:
        if entry.verdict is Verdict.ALLOW:
            continue
        refusal = gate.ask(entry.kind, entry.value, is_by_hand=True).refusal
        if refusal and (entry.value not in overruled or refusal.code == "never"):
            yield Harm(entry, refusal)


def refuse(found: list[Harm]) -> None:
    """Raise Harmful when there is any."""
    if found:
        more = f"; and {len(found) - _NAMED} more, `ble lint` lists them" if len(found) > _NAMED else ""
        said = "; ".join(map(str, found[:_NAMED]))
        raise Harmful(f"{said}{more}; say `ble remove ID`, or `ble publish --force REASON` if it is meant")
