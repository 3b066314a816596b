# SPDX-License-Identifier: Apache-2.0
"""Alerts come in (`Send_alert`): each checked by itself, stored once, committed before it is acknowledged.

Journey: device's outbox -> [intake] -> administrators.

What a device says is a claim. Its bytes are kept as they were signed, so the claim can be
checked again; nothing of it is acted on here, but that an order which it answers is not handed
out again. What a device only suspects is open: it waits for an answer. What it confirmed by itself
is a report, that an administrator may still overrule.
"""

import base64
import time
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
from sqlalchemy import select

from mamplus_enterprise.devices import orders
from mamplus_enterprise.devices.signature import fits
from mamplus_enterprise.errors import Malformed
from mamplus_enterprise.storage.schema import AlertRow, Device
from mamplus_enterprise.storage.store import Store
from mamplus_host.ble.entry import canonical, parse_kind
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import Escalation, Finding, Indicator

MAX_ALERTS = 100  # a request
MAX_BODY_BYTES = 1 << 20  # of a request
MAX_SEQ = (1 << 63) - 1
MAX_ID_CHARS = 64


class Sealed(msgspec.Struct, frozen=True):
    """One alert of POST /v1/alerts."""

    seq: int
    body: str
    signature: str


class Batch(msgspec.Struct, frozen=True):
    """The body of POST /v1/alerts."""

    alerts: list[Sealed]


class AlertBody(Escalation, frozen=True, kw_only=True):
    """What a device signed."""

    device: str
    seq: int


@dataclass(frozen=True, slots=True)
class Taken:
    """The answer: what is stored for good, and the first alert that never will be."""

    acknowledged: list[int]
    refused_seq: int = 0
    refusal: str = ""


def take(store: Store, device: Device, alerts: Iterable[Sealed]) -> Taken:
    """Store the alerts that fit; returns after the commit."""
    rows: dict[int, AlertRow] = {}
    bodies: dict[int, AlertBody] = {}
    refused_seq, refusal = 0, ""
    for sealed in alerts:
        try:
            rows[sealed.seq], bodies[sealed.seq] = _row(device, sealed)
        except Malformed as error:
            if not refusal:
                refused_seq, refusal = sealed.seq, str(error)
    with store.writing() as session:
        wanted = select(AlertRow.seq).where(AlertRow.device_id == device.id, AlertRow.seq.in_(rows))
        known = set(session.scalars(wanted))
        for seq, row in sorted(rows.items()):
            if seq not in known:
                session.add(row)
                orders.answered(session, device, bodies[seq].kind, bodies[seq].evidence)
        session.get_one(Device, device.id).last_seen = time.time()
    return Taken(sorted(rows), refused_seq, refusal)


def _row(device: Device, sealed: Sealed) -> tuple[AlertRow, AlertBody]:
    if not 1 <= sealed.seq <= MAX_SEQ:
        raise Malformed(f"seq is {sealed.seq}, want 1 to {MAX_SEQ}")
    if not fits(device.public_key, sealed.signature, sealed.body.encode(errors="replace")):
        raise Malformed(f"the signature of alert {sealed.seq} does not fit its body")
    body = parse(sealed.body)
    if (body.device, body.seq) != (device.id, sealed.seq):
        raise Malformed(f"alert {sealed.seq} says device {body.device[:64]!r}, seq {body.seq}; want those it came with")
    if not 1 <= len(body.id) <= MAX_ID_CHARS:
        raise Malformed(f"alert {sealed.seq} has an id of {len(body.id)} characters, want 1 to {MAX_ID_CHARS}")
    kind, value = _canonical(body.indicator)
    row = AlertRow(
        device_id=device.id, seq=sealed.seq, alert_id=body.id, received_at=time.time(), body=sealed.body,
        signature=base64.b64decode(sealed.signature), indicator_kind=kind, indicator_value=value,
        state="open" if body.finding is Finding.SUSPECTED else "reported",
    )  # fmt: skip
    return row, body


def parse(text: str) -> AlertBody:
    """Return the alert in `text`; Malformed says which field does not fit."""
    try:
        return msgspec.json.decode(text, type=AlertBody)
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise Malformed(f"the alert's body is not as agreed: {error}") from None


def _canonical(indicator: Indicator | None) -> tuple[str | None, str | None]:
    """Return kind and value as the list would hold them, or nothing: such an alert is kept but cannot be confirmed."""
    if indicator is None:
        return None, None
    try:
        kind = parse_kind(indicator.kind)
        return kind.name.lower(), canonical(kind, indicator.value)
    except ConfigInvalid:
        return None, None
