# SPDX-License-Identifier: Apache-2.0
"""What is known about the devices: what each enforces, when it was last heard, its last report."""

import time
from typing import Any

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from mamplus_enterprise.storage.schema import AlertRow, Device
from mamplus_enterprise.storage.store import Store

MAX_GENERATION = (1 << 63) - 1
_HEARD_EVERY_S = 10.0  # an unchanged device costs at most one write in this time


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /v1/report."""

    generation: int
    at: float
    losses: dict[str, Any] = {}
    controls: dict[str, Any] = {}


def heard(store: Store, device: Device, generation: int) -> None:
    """Note that `device` enforces `generation` now."""
    if device.generation == generation and time.time() - device.last_seen < _HEARD_EVERY_S:
        return
    with store.writing() as session:
        row = session.get_one(Device, device.id)
        row.generation, row.last_seen = generation, time.time()


def reported(store: Store, device: Device, report: Report) -> None:
    """Keep the device's newest report."""
    with store.writing() as session:
        row = session.get_one(Device, device.id)
        row.generation, row.last_seen = report.generation, time.time()
        row.report = msgspec.to_builtins(report)


def all_devices(session: Session, *, current: int) -> list[dict[str, Any]]:
    """Return the devices by name, with what each enforces against `current`."""
    counts: dict[str, dict[str, int]] = {}
    grouped = select(AlertRow.device_id, AlertRow.state, func.count()).group_by(AlertRow.device_id, AlertRow.state)
    for device_id, state, count in session.execute(grouped):
        counts.setdefault(device_id, {})[state] = count
    rows = session.scalars(select(Device).where(Device.removed_at.is_(None)).order_by(Device.name, Device.id))
    return [
        {
            "id": row.id, "name": row.name, "generation": row.generation, "behind": max(0, current - row.generation),
            "last_seen": row.last_seen, "enrolled_at": row.enrolled_at, "facts": row.facts, "report": row.report,
            "alerts": sum(counts.get(row.id, {}).values()),
            "open_alerts": counts.get(row.id, {}).get("open", 0),
        }
        for row in rows
    ]  # fmt: skip
