# SPDX-License-Identifier: Apache-2.0
"""Alerts that came on a stick: unsealed, each checked as one from the network is, stored once.

Journey: device's `outbox export` -> [carried] -> intake -> administrators.

Who sealed the file is not known and does not matter: each alert carries its device's signature.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import func, select

from mamplus_enterprise.alerts import intake
from mamplus_enterprise.errors import Answered, Forbidden, Malformed, TooLarge, Unknown
from mamplus_enterprise.storage.schema import AlertRow, Device
from mamplus_enterprise.storage.store import Store, note
from mamplus_host.outbox.export import Export
from mamplus_host.sealed import unseal

MAX_FILE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of a file."""

    device: str  # its name
    stored: int
    known: int  # were here already
    refused: int
    refusal: str  # of the first that was refused


def import_file(store: Store, data: bytes, keys: Iterable[X25519PrivateKey], *, who: str) -> Imported:
    """Store the alerts in a sealed file.

    ConfigInvalid: not sealed for us, or damaged. Unknown, Forbidden: whose it is. Malformed: none of it can be stored.
    Answered: everything in it was stored before, so it was imported before.
    """
    if len(data) > MAX_FILE_BYTES:
        raise TooLarge(f"the file has more than {MAX_FILE_BYTES} bytes: this is no export of a device")
    export = _decoded(unseal(data, keys))
    device = _device(store, export.device)
    before = _count(store, device)
    alerts = [
        intake.Sealed(one.seq, one.body, one.signature)
        for one in export.alerts
        if len(one.body) <= intake.MAX_BODY_BYTES  # as on the network
    ]
    refused, refusal, fitting = len(export.alerts) - len(alerts), "", 0
    for first in range(0, len(alerts), intake.MAX_ALERTS):
        batch = alerts[first : first + intake.MAX_ALERTS]
        taken = intake.take(store, device, batch)
        fitting += len(taken.acknowledged)
        refused += len(batch) - len(taken.acknowledged)
        refusal = refusal or taken.refusal
    stored = _count(store, device) - before
    _want_something(export, stored, fitting, refusal)
    with store.writing() as session:
        note(session, who=who, what="imported alerts", subject=device.id, detail=f"{stored} of {len(alerts)}")
    return Imported(device.name, stored, fitting - stored, refused, refusal)


def _want_something(export: Export, stored: int, fitting: int, refusal: str) -> None:
    if stored or not export.alerts:
        return
    if fitting == 0:
        raise Malformed(f"none of the {len(export.alerts)} alerts can be stored: {refusal}")
    raise Answered(
        f"all {fitting} alerts in it are stored already: this file was imported before, or the network was faster"
    )


def _decoded(content: bytes) -> Export:
    try:
        return msgspec.json.decode(content, type=Export)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(f"what was sealed is no export of a device: {error}; update one of the two") from None


def _device(store: Store, device_id: str) -> Device:
    with store.reading() as session:
        device = session.get(Device, device_id) if len(device_id) == 64 else None
    if device is None:
        raise Unknown(f"the file is of device {device_id[:64]!r}, which is unknown here; enrol it")
    if device.removed_at is not None:
        raise Forbidden(f"the file is of device {device.name!r}, which was removed; enrol it again with a new token")
    return device


def _count(store: Store, device: Device) -> int:
    with store.reading() as session:
        return session.scalar(select(func.count()).select_from(AlertRow).where(AlertRow.device_id == device.id)) or 0
