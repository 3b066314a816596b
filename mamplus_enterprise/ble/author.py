# SPDX-License-Identifier: Apache-2.0
"""What administrators write: entries are added, replaced, removed; nothing is published here.

In each layer a value has one entry in force: adding replaces the earlier opinion, whatever it
said. Otherwise an `allow` of last year would silently outrank today's `block`.

A layer's state at a moment is what was added by then, not removed and not expired. Rows never
change but for their removal, so every earlier state can still be read.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, func, literal_column, or_, select
from sqlalchemy.orm import Session

from mamplus_enterprise.ble.rules import check_rule
from mamplus_enterprise.ble.steps import Steps
from mamplus_enterprise.errors import Unknown
from mamplus_enterprise.storage.schema import EntryRow, GenerationRow
from mamplus_enterprise.storage.store import note
from mamplus_enterprise.times import seconds
from mamplus_host.ble import guarded
from mamplus_host.ble.encode import leaves_a_gap
from mamplus_host.ble.entry import MAX_TEXT_BYTES, Entry, Kind
from mamplus_host.ble.format import MAX_END
from mamplus_host.ble.guard import is_system
from mamplus_host.ble.layer import Layer
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import Severity, Verdict

AUTHORED = (Verdict.BLOCK, Verdict.SUSPECT, Verdict.ALLOW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An entry before it has an id. `value` is canonical."""

    kind: Kind
    value: str
    verdict: Verdict
    severity: Severity = Severity.HIGH
    confidence: int = 100  # 0-100
    valid_until: int = 0  # seconds since the epoch; 0: no end
    source: str = ""
    reason: str = ""
    message: str = ""
    link: str = ""
    layer: Layer = Layer.ENTERPRISE

    def __post_init__(self) -> None:
        for name in ("source", "reason", "message", "link"):
            check_text(name, getattr(self, name))
        check_rule(self.kind, self.value)
        if self.verdict is not Verdict.ALLOW and is_system(self.kind, self.value):
            raise ConfigInvalid(
                f"{self.kind.name.lower()} {self.value} cannot be refused: without its programs there is no device;"
                " name the programs instead, by sha256 or path"
            )
        covered = guarded.covered(self.value) if self.kind is Kind.PATH and self.verdict is not Verdict.ALLOW else ""
        if covered:
            raise ConfigInvalid(
                f"path {self.value} covers {covered}, and {guarded.why(covered)}: it cannot be refused; name what is"
                " meant more closely"
            )


def check_text(name: str, text: str) -> None:
    """Raise ConfigInvalid when the list's format cannot hold `text`."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ConfigInvalid(f"the {name} {text[:40]!r} is no UTF-8; write it in UTF-8") from None
    if size > MAX_TEXT_BYTES:
        raise ConfigInvalid(f"the {name} has {size} bytes, want at most {MAX_TEXT_BYTES}; shorten it")


def parse_verdict(text: str) -> Verdict:
    """Return the verdict named `text`; ConfigInvalid lists the names."""
    names = {verdict.name.lower(): verdict for verdict in AUTHORED}
    try:
        return names[text.strip().lower()]
    except KeyError:
        raise ConfigInvalid(f"unknown verdict {text!r}; want one of: {', '.join(names)}") from None


def parse_severity(text: str) -> Severity:
    """Return the severity named `text`; ConfigInvalid lists the names."""
    try:
        return Severity[text.strip().upper()]
    except KeyError:
        names = ", ".join(severity.name.lower() for severity in Severity)
        raise ConfigInvalid(f"unknown severity {text!r}; want one of: {names}") from None


def parse_layer(text: str) -> Layer:
    """Return the layer named `text`; ConfigInvalid lists the names."""
    try:
        return Layer[text.strip().upper()]
    except KeyError:
        names = ", ".join(layer.name.lower() for layer in Layer)
        raise ConfigInvalid(f"unknown layer {text!r}; want one of: {names}") from None


def parse_until(text: str, now_s: float) -> int:
    """Return the end of the day `text` (or its very time, UTC when it names no zone) in seconds since the epoch."""
    try:
        end_s = seconds(text)
    except ValueError:
        raise ConfigInvalid(f"{text!r} is no date; want one like 2031-12-31 or 2031-12-31T18:00:00+01:00") from None
    if end_s <= now_s:
        raise ConfigInvalid(f"{text!r} is past; want a date to come")
    if end_s > MAX_END:
        raise ConfigInvalid(f"{text!r} is later than the list can say, want one before 2106; or none: no end")
    return end_s


def add(session: Session, draft: Draft, *, who: str) -> tuple[EntryRow, EntryRow | None]:
    """Store `draft`; return its row and the one that it replaces."""
    replaced = in_force(session, draft.kind, draft.value, draft.layer)
    now_s = moment(session)
    if replaced is not None:
        _refuse_gap(draft, replaced)
        replaced.removed_at = now_s
        session.flush()  # its place must be free before the new row comes
    row = EntryRow(**fields_of(draft), added_at=now_s)
    session.add(row)
    session.flush()
    detail = f"entry {row.id}: {draft.verdict.name.lower()}" + (f", replaces {replaced.id}" if replaced else "")
    detail += "" if draft.layer is Layer.ENTERPRISE else f", layer {draft.layer.name.lower()}"
    note(session, who=who, what="entry added", subject=f"{draft.kind.name.lower()} {draft.value}", detail=detail)
    return row, replaced


def _refuse_gap(draft: Draft, replaced: EntryRow) -> None:
    """Raise ConfigInvalid when `draft` allows for a while what would be refused after that, and then no more."""
    before = entry_of(replaced)
    if leaves_a_gap(draft, before):
        raise ConfigInvalid(
            f"entry {before.id} says {before.verdict.name.lower()} for longer than this allow lasts, and would be gone"
            f" for good; leave --until away and remove the allow when its time is over, or remove {before.id} first"
        )


def fields_of(draft: Draft) -> dict[str, Any]:
    """Return the columns of `draft`'s row, without its times."""
    return {
        "layer": int(draft.layer), "kind": int(draft.kind), "value": draft.value, "verdict": int(draft.verdict),
        "severity": int(draft.severity), "confidence": draft.confidence, "valid_until": draft.valid_until,
        "source": draft.source, "reason": draft.reason, "message": draft.message, "link": draft.link,
    }  # fmt: skip


def moment(session: Session) -> float:
    """Return the time of a change; call with the database's write lock held, see `publish`.

    Never before the last publication, also when the clock was set back: the change would be taken for published.
    """
    last = session.scalar(select(func.max(GenerationRow.created_at))) or 0.0
    return max(time.time(), last + 1e-6)


def in_force(session: Session, kind: Kind, value: str, layer: Layer = Layer.ENTERPRISE) -> EntryRow | None:
    """Return the layer's entry about `value` that was not removed."""
    wanted = select(EntryRow).where(
        EntryRow.layer == int(layer), EntryRow.kind == int(kind), EntryRow.value == value, EntryRow.removed_at.is_(None)
    )
    return session.scalars(wanted).one_or_none()


def remove(session: Session, entry_id: int, *, who: str) -> EntryRow:
    """Take an entry off the list; Unknown when it is not on it."""
    row = session.get(EntryRow, entry_id) if 0 < entry_id < 1 << 63 else None
    if row is None or row.removed_at is not None:
        raise Unknown(f"entry {entry_id} is not on the list; `ble list` shows the ids")
    row.removed_at = moment(session)
    subject = f"{Kind(row.kind).name.lower()} {row.value}"
    note(session, who=who, what="entry removed", subject=subject, detail=f"entry {row.id}")
    return row


def listed(session: Session) -> Iterator[EntryRow]:
    """Yield every entry that was not removed, expired ones included, oldest first."""
    wanted = select(EntryRow).where(EntryRow.removed_at.is_(None)).order_by(EntryRow.id)
    return iter(session.scalars(wanted.execution_options(yield_per=1000)))


def compiled(session: Session, now_s: float) -> list[Entry]:
    """Return what the next generation holds, all layers together.

    Plain rows, not mapped objects: a confirm waits for this, and they take less than half of the time.
    """
    return [entry for layer in Layer for entry in state_at(session, layer, now_s)]


def state_at(session: Session, layer: Layer, when: float) -> Iterator[Entry]:
    """Yield what `layer` held at `when`, as it was written. Read to the end, or close, before the session ends."""
    # In the order of the index: a million rows need not be sorted first.
    in_order = _in(layer).where(alive(when)).order_by(EntryRow.added_at, EntryRow.id)
    wanted = in_order.execution_options(yield_per=10_000)
    return (_entry(*row) for row in session.execute(wanted))


def changes_since(
    session: Session, layer: Layer, since_s: float, until_s: float | None = None, steps: Steps | None = None
) -> tuple[list[Entry], list[Entry]]:
    """Return (upserts, withdrawn): what makes the state of `until_s` (now) out of that of `since_s`, each by id.

    Withdrawn entries are given as they were; a value whose entry was replaced is an upsert alone.
    """
    end = time.time() if until_s is None else until_s
    upserts, gone = changed_rows(session, layer, since_s, end, steps)
    still = {(entry.kind, entry.value) for entry in upserts}
    return upserts, [entry for entry in gone if (entry.kind, entry.value) not in still]


def changed_rows(
    session: Session, layer: Layer, since_s: float, until_s: float, steps: Steps | None = None
) -> tuple[list[Entry], list[Entry]]:
    """Return (what is in the state of `until_s` alone, what is in that of `since_s` alone), each by id.

    `since_s` is the earlier one. An entry that was replaced is in both lists, as it is and as it was.
    """
    steps = steps or Steps()
    added, *removed = (_in(layer).where(why) for why in changed(since_s, until_s))
    upserts = [_entry(*row) for row in steps.each(session.execute(added.order_by(EntryRow.id)))]
    gone = {row.id: row for statement in removed for row in steps.each(session.execute(statement))}
    return upserts, [_entry(*gone[number]) for number in sorted(gone)]


def changed(since_s: float, until_s: float) -> list[ColumnElement[bool]]:
    """Return the claims that a row was added, was removed, and has ended between two moments."""
    removed = EntryRow.removed_at.between(since_s, until_s)
    expired = and_(EntryRow.valid_until > literal_column("0"), EntryRow.valid_until.between(int(since_s), until_s))
    # The last two apart, each with its index: SQLite reads the whole layer for the two joined by OR.
    gone = [and_(why, alive(since_s), ~alive(until_s)) for why in (removed, expired)]
    return [and_(EntryRow.added_at > since_s, alive(until_s)), *gone]


def published_at(session: Session, layer: Layer, number: int) -> float | None:
    """Return the moment whose state generation `number` holds of `layer`; None when there is no such generation."""
    row = session.get(GenerationRow, number)
    if row is None:
        return None
    changed = int(row.layers.get(str(int(layer)), {}).get("number", number))
    if changed == number:
        return row.created_at
    return session.scalar(select(GenerationRow.created_at).where(GenerationRow.number == changed))


def _in(layer: Layer) -> Any:
    return select(*_COLUMNS).where(EntryRow.layer == int(layer))


def alive(when: float) -> ColumnElement[bool]:
    """The claim that a row was part of its layer at `when`."""
    return and_(
        EntryRow.added_at <= when,
        or_(EntryRow.removed_at.is_(None), EntryRow.removed_at > when),
        or_(EntryRow.valid_until == 0, EntryRow.valid_until > when),
    )


_COLUMNS = (
    EntryRow.id, EntryRow.kind, EntryRow.value, EntryRow.verdict, EntryRow.severity, EntryRow.confidence,
    EntryRow.valid_until, EntryRow.source, EntryRow.reason, EntryRow.message, EntryRow.link,
)  # fmt: skip


def _entry(
    number: int, kind: int, value: str, verdict: int, severity: int, confidence: int, valid_until: int, source: str,
    reason: str, message: str, link: str,
) -> Entry:  # fmt: skip
    return Entry(
        id=number, kind=Kind(kind), value=value, verdict=Verdict(verdict), severity=Severity(severity),
        confidence=confidence, valid_until=valid_until, source=source, reason=reason, message=message, link=link,
    )  # fmt: skip


def entry_of(row: EntryRow) -> Entry:
    return _entry(*(getattr(row, column.key) for column in _COLUMNS))


def unpublished(session: Session) -> int:
    """Return how many additions, removals and ends wait for a generation, all layers together."""
    return sum(waiting(session, layer) for layer in Layer)


def waiting(session: Session, layer: Layer) -> int:
    """Return how many additions, removals and ends of `layer` wait for a generation."""
    newest = session.scalar(select(func.max(GenerationRow.number))) or 0
    last = published_at(session, layer, newest) or 0.0
    never_out = EntryRow.added_at > last
    now_s = time.time()
    expired = and_(
        EntryRow.valid_until > literal_column("0"), EntryRow.valid_until.between(int(last), now_s), alive(last)
    )
    counted = (
        and_(never_out, EntryRow.removed_at.is_(None)),
        and_(~never_out, EntryRow.removed_at > last),
        and_(expired, EntryRow.removed_at.is_(None)),
    )
    return sum(
        session.scalar(select(func.count()).select_from(EntryRow).where(EntryRow.layer == int(layer), one)) or 0
        for one in counted
    )
