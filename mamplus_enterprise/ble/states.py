# SPDX-License-Identifier: Apache-2.0
"""Two states of the list side by side, and the way back to an earlier one.

A state is a generation that was published, or what is written now ("working").
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import structs
from sqlalchemy import bindparam, delete, func, insert, or_, select, update
from sqlalchemy.orm import Session

from mamplus_enterprise.ble import author
from mamplus_enterprise.ble.steps import Steps
from mamplus_enterprise.errors import PublishFailed, Unknown
from mamplus_enterprise.storage.schema import AlertRow, EntryRow, GenerationRow
from mamplus_enterprise.storage.store import note
from mamplus_host.ble.entry import Entry
from mamplus_host.ble.layer import Layer

WORKING = "working"
_BATCH = 500  # rows a statement


@dataclass(frozen=True, slots=True)
class Difference:
    """What makes the later state of a layer out of the earlier one."""

    layer: Layer
    added: list[Entry]
    changed: list[tuple[Entry, Entry]]  # as it was, as it is
    removed: list[Entry]

    def __len__(self) -> int:
        return len(self.added) + len(self.changed) + len(self.removed)


@dataclass(frozen=True, slots=True)
class Reverted:
    """What a revert did, or would do, to a layer."""

    layer: Layer
    withdrawn: int  # entries that the earlier state has not
    restored: int
    expired: int  # of the earlier state: their end has come since, so they stay away
    at_s: float  # when it was written
    differs: Difference  # what it makes of the state that was written before


def newest(session: Session) -> int:
    """Return the number of the newest generation."""
    return session.scalar(select(func.max(GenerationRow.number))) or 0


def moment_of(session: Session, layer: Layer, name: str) -> float:
    """Return the moment whose state `name` is: a generation's number, or `working`; Unknown lists what there is."""
    if name == WORKING:
        return time.time()
    moment = author.published_at(session, layer, int(name)) if name.isascii() and name.isdigit() else None
    if moment is None:
        raise Unknown(
            f"there is no generation {name[:20]!r}; `ble history` lists them, {WORKING!r} is what is written now"
        )
    return moment


def difference(session: Session, layer: Layer, earlier: str, later: str, steps: Steps | None = None) -> Difference:
    """Return what changed from one state to the other, which may also be the earlier one."""
    since_s, until_s = (moment_of(session, layer, name) for name in (earlier, later))
    if since_s <= until_s:
        new, old = author.changed_rows(session, layer, since_s, until_s, steps)
    else:
        old, new = author.changed_rows(session, layer, until_s, since_s, steps)
    return _beside(layer, old, new)


def steps_between(session: Session, layers: Iterable[Layer], earlier: str, later: str) -> int:
    """Return how many rows the differences of `layers` are made of."""
    wanted = select(func.count()).select_from(EntryRow)
    return sum(
        session.scalar(wanted.where(EntryRow.layer == int(layer), why)) or 0
        for layer in layers
        for why in author.changed(*sorted(moment_of(session, layer, name) for name in (earlier, later)))
    )


def _beside(layer: Layer, old: Sequence[Entry], new: Sequence[Entry]) -> Difference:
    before = {(entry.kind, entry.value): entry for entry in old}
    added, changed = list[Entry](), list[tuple[Entry, Entry]]()
    for entry in new:
        was = before.pop((entry.kind, entry.value), None)
        if was is None:
            added.append(entry)
        else:
            changed.append((was, entry))
    return Difference(layer, added, changed, list(before.values()))


def revert(
    session: Session, layer: Layer, number: str, *, who: str, really: bool, steps: Steps | None = None
) -> Reverted:
    """Make the working state of `layer` that of a generation; only say what that means unless `really`.

    Entries come back as new ones: an id says one thing for ever. What says the same already stays as it is.
    """
    then_s, now_s = moment_of(session, layer, number), author.moment(session) if really else time.time()
    newer, older = _unlike(*author.changed_rows(session, layer, then_s, now_s, steps))
    back = [entry for entry in older if not 0 < entry.valid_until <= now_s]
    ended = len(older) - len(back)
    done = Reverted(layer, len(newer), len(back), ended, now_s, _beside(layer, newer, back))
    if really and (newer or back):
        _remove(session, [entry.id for entry in newer], now_s)
        _restore(session, layer, back, now_s)
        detail = f"{done.withdrawn} withdrawn, {done.restored} restored, {done.expired} ended since"
        note(session, who=who, what="reverted", subject=f"{layer.name.lower()} to generation {number}", detail=detail)
    return done


def _unlike(newer: Sequence[Entry], older: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Return both without the entries that say the same but for their ids: an earlier revert wrote them again."""
    before = {(entry.kind, entry.value): structs.replace(entry, id=0) for entry in older}
    same = {
        (entry.kind, entry.value)
        for entry in newer
        if before.get((entry.kind, entry.value)) == structs.replace(entry, id=0)
    }
    kept_new, kept_old = (
        [entry for entry in entries if (entry.kind, entry.value) not in same] for entries in (newer, older)
    )
    return kept_new, kept_old


def undo(session: Session, done: Sequence[Reverted], *, who: str, why: str) -> None:
    """Take back a revert that was written and never published."""
    for one in done:
        place = EntryRow.layer == int(one.layer)
        session.execute(delete(EntryRow).where(place, EntryRow.added_at == one.at_s))
        session.execute(update(EntryRow).where(place, EntryRow.removed_at == one.at_s).values(removed_at=None))
    note(session, who=who, what="took a revert back", subject="it could not be published", detail=why)


def check_shrinking(session: Session, layer: Layer, number: str, published: int) -> None:
    """PublishFailed when generation `number` holds less than half of the `published` entries of `layer`."""
    then_s, now_s = moment_of(session, layer, number), time.time()
    living = or_(EntryRow.valid_until == 0, EntryRow.valid_until > now_s)
    wanted = select(func.count()).select_from(EntryRow)
    there = session.scalar(wanted.where(EntryRow.layer == int(layer), author.alive(then_s), living)) or 0
    if 2 * there < published:
        raise PublishFailed(
            f"the list would have {there} entries, the published one has {published}; devices refuse an emptied or"
            f" halved list, so say `ble revert {number} --allow-shrink` if it is meant; nothing was changed"
        )


def answered(session: Session, entries: Sequence[Entry]) -> dict[int, str]:
    """Return the alert that each entry of `entries` answers, by the entry's id."""
    found: dict[int, str] = {}
    for start in range(0, len(entries), _BATCH):
        ids = [entry.id for entry in entries[start : start + _BATCH]]
        wanted = select(AlertRow.entry_id, AlertRow.alert_id).where(AlertRow.entry_id.in_(ids))
        found |= {number: alert for number, alert in session.execute(wanted) if number is not None}
    return found


def _remove(session: Session, ids: Sequence[int], now_s: float) -> None:
    for start in range(0, len(ids), _BATCH):
        session.execute(update(EntryRow).where(EntryRow.id.in_(ids[start : start + _BATCH])).values(removed_at=now_s))


def _restore(session: Session, layer: Layer, entries: Sequence[Entry], now_s: float) -> None:
    """Insert copies of earlier rows, with their feed, and free their places first."""
    feeds = _feeds_of(session, [entry.id for entry in entries])
    rows: list[dict[str, Any]] = [
        {
            "layer": int(layer), "kind": int(one.kind), "value": one.value, "verdict": int(one.verdict),
            "severity": int(one.severity), "confidence": one.confidence, "valid_until": one.valid_until,
            "source": one.source, "reason": one.reason, "message": one.message, "link": one.link,
            "feed_id": feeds.get(one.id), "added_at": now_s,
        }
        for one in entries
    ]  # fmt: skip
    _free(session, layer, entries, now_s)
    for start in range(0, len(rows), _BATCH):
        session.execute(insert(EntryRow), rows[start : start + _BATCH])


def _free(session: Session, layer: Layer, entries: Sequence[Entry], now_s: float) -> None:
    """Remove what has ended but still holds the place of a value that comes back."""
    if entries:
        place = (EntryRow.kind == bindparam("of_kind")) & (EntryRow.value == bindparam("of_value"))
        statement = update(EntryRow).where(EntryRow.layer == int(layer), place, EntryRow.removed_at.is_(None))
        places = [{"of_kind": int(entry.kind), "of_value": entry.value} for entry in entries]
        session.connection().execute(statement.values(removed_at=now_s), places)


def _feeds_of(session: Session, ids: Sequence[int]) -> dict[int, int | None]:
    found: dict[int, int | None] = {}
    for start in range(0, len(ids), _BATCH):
        wanted = select(EntryRow.id, EntryRow.feed_id).where(EntryRow.id.in_(ids[start : start + _BATCH]))
        found |= {number: feed for number, feed in session.execute(wanted)}  # noqa: C416 - rows are no pairs to mypy
    return found


def generations(session: Session, limit: int) -> list[dict[str, Any]]:
    """Return the newest generations first."""
    rows = session.scalars(select(GenerationRow).order_by(GenerationRow.number.desc()).limit(limit))
    return [
        {
            "number": row.number, "created_at": row.created_at, "entries": row.entries, "why": row.why,
            "layers": {Layer(int(number)).name.lower(): one for number, one in sorted(row.layers.items())},
        }
        for row in rows
    ]  # fmt: skip
