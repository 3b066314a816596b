# SPDX-License-Identifier: Apache-2.0
"""What is known about the devices: what each enforces, when it was last heard, its last report."""

import time
from typing import Any

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from mamplus_enterprise.devices import controls
from mamplus_enterprise.devices.controls import Examined
from mamplus_enterprise.errors import Unknown
from mamplus_enterprise.storage.schema import AlertRow, Device
from mamplus_enterprise.storage.store import Store

MAX_GENERATION = controls.MAX_GENERATION
_HEARD_EVERY_S = 10.0  # an unchanged device costs at most one write in this time


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /v1/report."""

    generation: int
    at: float
    losses: dict[str, Any] = {}
    controls: dict[str, Any] = {}  # what is attached
    examined: Examined | None = None  # what came of trying the controls; None: the device has not tried them yet


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
        row.report = msgspec.to_builtins(msgspec.structs.replace(report, examined=None))
        if report.examined is not None:
            controls.keep(session, row, report.examined)


def all_devices(session: Session, *, current: int) -> list[dict[str, Any]]:
    """Return the devices by name, with what each enforces against `current`."""
    counts: dict[str, dict[str, int]] = {}
    grouped = select(AlertRow.device_id, AlertRow.state, func.count()).group_by(AlertRow.device_id, AlertRow.state)
    for device_id, state, count in session.execute(grouped):
        counts.setdefault(device_id, {})[state] = count
    rows = session.scalars(select(Device).where(Device.removed_at.is_(None)).order_by(Device.name, Device.id))
    return [_shown(row, counts.get(row.id, {}), current) for row in rows]


def _shown(row: Device, alerts: dict[str, int], current: int) -> dict[str, Any]:
    return {
        "id": row.id, "name": row.name, "generation": row.generation, "behind": max(0, current - row.generation),
        "last_seen": row.last_seen, "enrolled_at": row.enrolled_at, "facts": row.facts, "report": row.report,
        "controls": controls.summary(row.examined), "alerts": sum(alerts.values()),
        "open_alerts": alerts.get("open", 0),
    }  # fmt: skip


def one_device(session: Session, wanted: str, *, current: int) -> dict[str, Any]:
    """Return a device by its id, the beginning of its id, or its name: all about it, with its controls one by one."""
    named = select(Device).where(Device.removed_at.is_(None))
    rows = (
        session.scalars(named.where(Device.id == wanted)).all()
        or session.scalars(
            named.where(Device.id.startswith(wanted, autoescape=True) | (Device.name == wanted)).limit(2)
        ).all()
    )
    if len(rows) != 1:
        seen = "several devices" if rows else "no device"
        raise Unknown(f"there is {seen} with the id or name {wanted[:80]!r}; `devices` lists them, with their ids")
    (row,) = rows
    grouped = select(AlertRow.state, func.count()).where(AlertRow.device_id == row.id).group_by(AlertRow.state)
    alerts = {state: count for state, count in session.execute(grouped).all()}  # noqa: C416  (rows are no pairs to mypy)
    return _shown(row, alerts, current) | {
        "examined": row.examined, "changes": controls.changes(session, row.id),
    }  # fmt: skip
