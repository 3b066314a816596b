# SPDX-License-Identifier: Apache-2.0
"""Orders that the server hands to their devices, and what came of each.

Journey: administrator -> orders -> [devices/orders] -> device's poll; its answer -> alerts/intake -> [devices/orders].

The server makes none: what it hands out was signed where administrators sit, and a device checks that. An order is
handed out again until its device answers, nobody wants it any more, or its date is over. Of two answers the receipt of
what was done counts.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from mamplus_enterprise.devices.signature import fits
from mamplus_enterprise.errors import Answered, Unknown
from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.schema import Device, OrderRow
from mamplus_enterprise.storage.store import Store, note

AGAIN_S = 60.0  # a device that has an order and has not answered yet is not asked at once
MOST = 4  # in one answer
WAITING, DONE, FAILED, WITHDRAWN = "waiting", "done", "failed", "withdrawn"
EXPIRED = "expired"  # shown only: it waited for too long
ALERT_KINDS = ("wipe", "order")  # alerts that answer an order
MAX_DETAIL = 1000


def due(store: Store, device: Device) -> list[str]:
    """Return the orders that `device` is to be handed now, oldest first; they are noted as handed out."""
    now_s = time.time()
    wanted = (
        select(OrderRow)
        .where(OrderRow.device_id == device.id, OrderRow.state == WAITING, OrderRow.expires_at > now_s)
        .where(or_(OrderRow.handed_at.is_(None), OrderRow.handed_at <= now_s - AGAIN_S))
        .order_by(OrderRow.ordered_at)
        .limit(MOST)
    )
    with store.reading() as session:
        rows = session.scalars(wanted).all()
    if rows:
        with store.writing() as session:
            handed = update(OrderRow).where(OrderRow.id.in_(row.id for row in rows))
            session.execute(handed.values(handed_at=now_s))
    return [row.text for row in rows]


def announce(home: Home, device_id: str) -> None:
    """Have the server, which may be another process, hand `device_id` what is stored for it by now."""
    home.ordered.mkdir(exist_ok=True)
    (home.ordered / device_id).write_bytes(b"")


def answered(session: Session, device: Device, kind: str, evidence: Mapping[str, Any]) -> None:
    """Note what an alert says came of an order; nothing when it is about none, or its receipt is not the device's."""
    if kind not in ALERT_KINDS:
        return
    receipt, signature = str(evidence.get("receipt", "")), str(evidence.get("signature", ""))
    if not receipt:
        row = _of(session, device, evidence.get("order"))
        if row is not None and row.state == WAITING:
            _end(row, FAILED, str(evidence.get("detail", "")))
    elif fits(device.public_key, signature, b"mamplus-receipt\n" + receipt.encode(errors="replace")):
        said = _object(receipt)
        row = _of(session, device, said.get("order"))
        if row is not None and row.state != DONE:
            _end(row, DONE, str(said.get("detail") or _steps(said)))
            row.receipt, row.signature = receipt, signature


def withdraw(store: Store, order_id: str, *, who: str) -> OrderRow:
    """Hand an order out no more. Unknown when there is none, Answered when its device has answered."""
    with store.writing() as session:
        row = session.get(OrderRow, order_id)
        if row is None:
            raise Unknown(f"no order {order_id[:64]!r} was given to the server; `orders` lists them")
        if row.state != WAITING:
            raise Answered(f"order {order_id} is {row.state} already: {row.detail}")
        row.state = WITHDRAWN
        note(session, who=who, what="withdrew an order", subject=f"{row.what} {row.id} {row.device_id}")
        return row


def all_orders(session: Session, *, device_id: str = "", limit: int | None = None) -> list[dict[str, Any]]:
    """Return what the server was given to hand out, newest first: the newest `limit`, to `device_id` or to all."""
    wanted = select(OrderRow, Device.name).join(Device).order_by(OrderRow.ordered_at.desc()).limit(limit)
    rows = session.execute(wanted.where(OrderRow.device_id == device_id) if device_id else wanted)
    return [
        {
            "id": row.id, "what": row.what, "device": row.device_id, "device_name": name, "state": _state(row),
            "reason": row.reason, "ordered_by": row.ordered_by, "ordered_at": row.ordered_at,
            "expires_at": row.expires_at, "handed_at": row.handed_at, "answered_at": row.answered_at,
            "detail": row.detail, "receipt": row.receipt, "signature": row.signature,
        }
        for row, name in rows
    ]  # fmt: skip


def _state(row: OrderRow) -> str:
    return EXPIRED if row.state == WAITING and row.expires_at <= time.time() else row.state


def _of(session: Session, device: Device, order_id: object) -> OrderRow | None:
    row = session.get(OrderRow, order_id) if isinstance(order_id, str) else None
    return row if row is not None and row.device_id == device.id else None


def _end(row: OrderRow, state: str, detail: str) -> None:
    row.state, row.detail, row.answered_at = state, detail[:MAX_DETAIL], time.time()


def _object(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _steps(said: Mapping[str, Any]) -> str:
    """Return in words what the receipt of a wipe says."""
    steps, missing = said.get("steps"), said.get("missing")
    done = f"wiped in {len(steps)} steps" if isinstance(steps, list) else "done"
    return f"{done}; not there: {missing}" if missing else done
