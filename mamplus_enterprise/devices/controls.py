# SPDX-License-Identifier: Apache-2.0
"""What came of trying the controls of a device: its last word on each, and a bounded history of changes.

Journey: device's `doctor` -> POST /v1/report -> [controls] -> administrators.

What a device says is a claim: it is bounded, kept and shown, and nothing here acts on it.
"""

import time
from typing import Annotated, Any

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from mamplus_enterprise.storage.schema import ControlChange, Device
from mamplus_host.doctor.trial import STATES

MAX_CONTROLS = 64  # of one device
MAX_GENERATION = (1 << 63) - 1
MAX_AT_S = 253_402_300_799  # the end of the year 9999
MAX_CHANGES = 200  # kept of one device; the oldest go first
NOT_REPORTED = "not reported"

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Word = Annotated[str, msgspec.Meta(max_length=32)]
Text = Annotated[str, msgspec.Meta(max_length=240)]


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """One control, as the device tried it."""

    control: Name
    state: Word  # one of STATES; one that this release does not know counts as the worst
    group: Name = "controls"
    tier: Word = ""
    reason: Text = ""
    way_out: Text = ""  # what would make it better


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """`examined` of POST /v1/report."""

    at: Annotated[float, msgspec.Meta(ge=0, le=MAX_AT_S)]  # by the device's clock
    controls: Annotated[tuple[Control, ...], msgspec.Meta(max_length=MAX_CONTROLS)]
    why: Word = ""
    kernel: Name = "?"
    agent: Name = "?"
    generation: Annotated[int, msgspec.Meta(ge=0, le=MAX_GENERATION)] = 0


def keep(session: Session, device: Device, said: Examined) -> None:
    """Make `said` the device's word on its controls, and note what changed."""
    before = {one["control"]: one for one in device.examined.get("controls", ())}
    now = time.time()
    for one in said.controls:
        old = before.get(one.control)
        if old is not None and (old["state"], old["tier"]) != (one.state, one.tier):
            session.add(
                ControlChange(
                    device_id=device.id, control=one.control, was=old["state"], state=one.state, tier=one.tier,
                    reason=one.reason, at=said.at, received_at=now,
                )
            )  # fmt: skip
    device.examined = msgspec.to_builtins(said) | {"received_at": now}
    session.flush()
    _forget_oldest(session, device.id)


def _forget_oldest(session: Session, device_id: str) -> None:
    newest = select(ControlChange.id).where(ControlChange.device_id == device_id).order_by(ControlChange.id.desc())
    beyond = session.scalars(newest.offset(MAX_CHANGES).limit(1)).first()
    if beyond is not None:
        session.execute(delete(ControlChange).where(ControlChange.device_id == device_id, ControlChange.id <= beyond))


def summary(examined: dict[str, Any]) -> dict[str, Any] | None:
    """Return the worst state and how many controls have each; None for a device that has reported none."""
    if not examined:
        return None
    states = [one["state"] for one in examined["controls"]]
    return {
        "worst": max(states, key=rank, default=NOT_REPORTED),
        "counts": {state: states.count(state) for state in sorted(set(states), key=rank)},
        **{name: examined[name] for name in ("at", "received_at", "why", "kernel", "agent", "generation")},
    }  # fmt: skip


def rank(state: str) -> int:
    """Return how bad a state is; one that this release does not know is the worst."""
    return STATES.index(state) if state in STATES else len(STATES)


def changes(session: Session, device_id: str) -> list[dict[str, Any]]:
    """Return what changed, newest first."""
    rows = session.scalars(
        select(ControlChange).where(ControlChange.device_id == device_id).order_by(ControlChange.id.desc())
    )
    names = ("control", "was", "state", "tier", "reason", "at", "received_at")
    return [{name: getattr(row, name) for name in names} for row in rows]
