# SPDX-License-Identifier: Apache-2.0
"""Alerts for people and programs to read, newest first."""

from typing import Any

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from mamplus_enterprise.errors import Malformed
from mamplus_enterprise.storage.schema import UNANSWERED, AlertRow, Device

STATES = ("open", "reported", "confirmed", "dismissed", "all")
MAX_LISTED = 500


def listing(session: Session, state: str, *, before: int = 0, limit: int = MAX_LISTED) -> list[dict[str, Any]]:
    """Return at most `limit` alerts in `state`, those numbered below `before` when it is given."""
    if state not in STATES:
        raise Malformed(f"state is {state[:40]!r}, want one of: {', '.join(STATES)}")
    wanted = select(AlertRow, Device.name).join(Device, Device.id == AlertRow.device_id).order_by(AlertRow.id.desc())
    if state != "all":
        wanted = wanted.where(AlertRow.state == state)
    if before > 0:
        wanted = wanted.where(AlertRow.id < before)
    return [_shown(row, name) for row, name in session.execute(wanted.limit(limit))]


def counts(session: Session) -> dict[str, int]:
    """Return how many alerts are in each state."""
    found = dict(session.execute(select(AlertRow.state, func.count()).group_by(AlertRow.state)).all())
    return {state: found.get(state, 0) for state in STATES[:-1]} | {"all": sum(found.values())}


def _shown(row: AlertRow, device_name: str) -> dict[str, Any]:
    """Return the device's words, and over them ours: a device cannot say that it was confirmed."""
    body: dict[str, Any] = msgspec.json.decode(row.body)
    return body | {
        "id": row.alert_id, "number": row.id, "device": row.device_id, "device_name": device_name, "seq": row.seq,
        "received_at": row.received_at, "state": row.state, "answered_at": row.answered_at,
        "answered_by": row.answered_by, "answer_reason": row.answer_reason, "entry_id": row.entry_id,
        "can_be_answered": row.indicator_kind is not None and row.state in UNANSWERED,
    }  # fmt: skip
