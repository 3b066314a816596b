# SPDX-License-Identifier: Apache-2.0
"""The working list for people and programs to read: filtered, in pages, never all of it in memory."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, func, select
from sqlalchemy.orm import Session

from mamplus_enterprise.storage.schema import EntryRow
from mamplus_host.ble.entry import Kind
from mamplus_host.ble.layer import Layer
from mamplus_host.verdicts import Severity, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which entries; what is None or empty does not matter."""

    kind: Kind | None = None
    layer: Layer | None = None
    verdict: Verdict | None = None
    source: str = ""  # exact
    text: str = ""  # part of the value
    is_expired: bool | None = None
    after: int = 0  # id
    limit: int = 0  # 0: all


def listed(session: Session, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Yield the entries that were not removed, expired ones included, by id; while the session lasts."""
    now_s = time.time()
    # Plain rows, not mapped objects: half of the time for a long list.
    statement = select(*EntryRow.__table__.columns).where(*_conditions(wanted, now_s)).order_by(EntryRow.id)
    if wanted.limit:
        statement = statement.limit(wanted.limit)
    rows = session.execute(statement.execution_options(yield_per=1000))
    return (shown(row, now_s) for row in rows)


def count(session: Session, wanted: Wanted) -> int:
    """Return how many entries `wanted` names, its limit and start apart."""
    conditions = _conditions(wanted, time.time())[1:] if wanted.after else _conditions(wanted, time.time())
    return session.scalar(select(func.count()).select_from(EntryRow).where(*conditions)) or 0


def _conditions(wanted: Wanted, now_s: float) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [EntryRow.id > wanted.after] if wanted.after else []
    conditions.append(EntryRow.removed_at.is_(None))
    numbers = ((EntryRow.kind, wanted.kind), (EntryRow.layer, wanted.layer), (EntryRow.verdict, wanted.verdict))
    conditions += [column == int(value) for column, value in numbers if value is not None]
    if wanted.source:
        conditions.append(EntryRow.source == wanted.source)
    if wanted.text:
        conditions.append(EntryRow.value.contains(wanted.text, autoescape=True))
    if wanted.is_expired is not None:
        has_ended = (EntryRow.valid_until > 0) & (EntryRow.valid_until <= now_s)
        conditions.append(has_ended if wanted.is_expired else ~has_ended)
    return conditions


def shown(row: "EntryRow | Row[Any]", now_s: float) -> dict[str, Any]:
    """Return what `--json` prints of an entry."""
    return {
        "id": row.id, "layer": Layer(row.layer).name.lower(), "kind": Kind(row.kind).name.lower(), "value": row.value,
        "verdict": Verdict(row.verdict).name.lower(), "severity": Severity(row.severity).name.lower(),
        "confidence": row.confidence, "valid_until": row.valid_until, "expired": 0 < row.valid_until <= now_s,
        "source": row.source, "reason": row.reason, "message": row.message, "link": row.link, "added_at": row.added_at,
        "removed_at": row.removed_at,
    }  # fmt: skip


def history_of(session: Session, kind: Kind, value: str) -> Iterator[dict[str, Any]]:
    """Yield every entry that was ever about a canonical value, the oldest first."""
    wanted = select(EntryRow).where(EntryRow.kind == int(kind), EntryRow.value == value).order_by(EntryRow.id)
    return (shown(row, time.time()) for row in session.scalars(wanted))
