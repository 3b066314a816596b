# SPDX-License-Identifier: Apache-2.0
"""Orders to one device that no list and no policy can give: made, signed, and written into the audit log.

Journey: administrator -> [orders] -> devices/orders -> device; or by stick, mail (`mamplus wipe ORDER`).

Signed with the key of maintenance codes: it lies where administrators sit, and not on the server. docs/trust.md.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mamplus_enterprise.ble import repository
from mamplus_enterprise.ble.keys import load_maintenance
from mamplus_enterprise.ble.roles import FIELD, MAINTENANCE
from mamplus_enterprise.devices.orders import announce
from mamplus_enterprise.home import Home
from mamplus_enterprise.maintenance import find
from mamplus_enterprise.storage.schema import OrderRow
from mamplus_enterprise.storage.store import Store, note
from mamplus_host.errors import ConfigInvalid
from mamplus_host.maintenance import order as orders

MIN_WITHIN_S, MAX_WITHIN_S = 60, 365 * 86_400
MAX_REASON = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is ordered, of which device, and why."""

    what: str
    device: str  # its id, the beginning of it, or its name
    within_s: int  # the order must reach the device before that
    reason: str
    who: str
    is_sent: bool = False  # the server hands it to the device


@dataclass(frozen=True, slots=True)
class Issued:
    """An order, and whose it is."""

    id: str
    text: str
    device_id: str
    device_name: str


def issue(home: Home, store: Store, wanted: Wanted, passphrase: bytes | None, elsewhere: Sequence[Path] = ()) -> Issued:
    """Return a new order. Unknown when no device or several are meant, KeysUnavailable when the key is not at hand."""
    if not MIN_WITHIN_S <= wanted.within_s <= MAX_WITHIN_S or len(wanted.reason) > MAX_REASON:
        raise ConfigInvalid(
            f"an order good for {wanted.within_s} s with a reason of {len(wanted.reason)} characters; want a minute to"
            f" a year (--within 30d), and at most {MAX_REASON} characters"
        )
    public = repository.read(home).root.unrecognized_fields[FIELD].get(MAINTENANCE, "")
    key = load_maintenance(home, public, passphrase, elsewhere)
    with store.writing() as session:
        device = find(session, wanted.device)
        expires_s = int(time.time()) + wanted.within_s
        order = orders.new(wanted.what, device.id, expires_s=expires_s, reason=wanted.reason)
        way = "handed out by the server" if wanted.is_sent else "carried by hand"
        detail = f"order {order.id}, good for {wanted.within_s} s, {way}; {wanted.reason}"
        subject = f"{device.name} {device.id}"
        note(session, who=wanted.who, what=f"ordered a {wanted.what}", subject=subject, detail=detail)
        data = orders.payload(order)
        text = orders.spell(data, key.sign(orders.signed_text(data)))
        if wanted.is_sent:
            session.add(
                OrderRow(
                    id=order.id, device_id=device.id, what=order.what, text=text, reason=wanted.reason,
                    ordered_by=wanted.who[:255], ordered_at=time.time(), expires_at=expires_s,
                )
            )  # fmt: skip
    if wanted.is_sent:
        announce(home, device.id)  # once it is stored
    return Issued(order.id, text, device.id, device.name)
