# SPDX-License-Identifier: Apache-2.0
"""Codes that open a maintenance window on one device: made, signed, and written into the audit log.

Journey: administrator -> [maintenance] -> phone -> device (`mamplus maintenance CODE`).

The key is one of its own: the root names its public half, so neither the server's keys nor the policy's open a window,
and it may lie where administrators sit. docs/trust.md.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from mamplus_enterprise.ble import repository
from mamplus_enterprise.ble.keys import load_maintenance
from mamplus_enterprise.ble.roles import FIELD, MAINTENANCE
from mamplus_enterprise.errors import Unknown
from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.schema import Device
from mamplus_enterprise.storage.store import Store, note
from mamplus_host.errors import ConfigInvalid
from mamplus_host.maintenance import code as codes

MAX_WITHIN_S = 30 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What is granted, to which device, and why."""

    device: str  # its id, the beginning of it, or its name
    minutes: int
    within_s: int  # the code must be entered before that
    reason: str
    who: str


@dataclass(frozen=True, slots=True)
class Issued:
    """A code, and whose it is."""

    id: str
    text: str
    device_id: str
    device_name: str


def issue(home: Home, store: Store, grant: Grant, passphrase: bytes | None, elsewhere: Sequence[Path] = ()) -> Issued:
    """Return a new code. Unknown when no device or several are meant, KeysUnavailable when the key is not at hand."""
    if not codes.MIN_MINUTES <= grant.minutes <= codes.MAX_MINUTES:
        raise ConfigInvalid(
            f"a window of {grant.minutes} minutes; want {codes.MIN_MINUTES} to {codes.MAX_MINUTES} (--for 30m, 2h, 1d)"
        )
    if not 60 <= grant.within_s <= MAX_WITHIN_S:
        raise ConfigInvalid(f"a code good for {grant.within_s} s; want a minute to 30 days (--within 24h)")
    public = repository.read(home).root.unrecognized_fields[FIELD].get(MAINTENANCE, "")
    key = load_maintenance(home, public, passphrase, elsewhere)
    with store.writing() as session:
        device = find(session, grant.device)
        code = codes.new(device.id, expires_s=int(time.time()) + grant.within_s, minutes=grant.minutes)
        detail = f"{grant.minutes} minutes, code {code.id}, to be entered within {grant.within_s} s; {grant.reason}"
        note(session, who=grant.who, what="granted maintenance", subject=f"{device.name} {device.id}", detail=detail)
        text = codes.spell(code, key.sign(codes.signed_text(code, device.id)))
        return Issued(code.id, text, device.id, device.name)


def find(session: Session, said: str) -> Device:
    """Return the one device that is meant by its id, the beginning of it, or its name."""
    rows = session.scalars(select(Device).where(Device.removed_at.is_(None))).all()
    found = [row for row in rows if row.name == said or (len(said) >= 6 and row.id.startswith(said.lower()))]
    if len(found) != 1:
        seen = "no device has" if not found else f"{len(found)} devices have"
        raise Unknown(f"{seen} {said!r} as name or beginning of the id; `mamplus-enterprise devices` lists them")
    return found[0]
