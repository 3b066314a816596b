# SPDX-License-Identifier: Apache-2.0
"""An order of the enterprise to one device, once, until a date: signed with the key of maintenance codes.

Journey: enterprise (`wipe DEVICE`, `lock DEVICE`) -> uplink, stick, mail -> [order] -> ordering, wipe.

JSON in base64 and its Ed25519 signature, a line each, between a first and a last line that say what it is. The list and
the policy cannot say what an order says: docs/trust.md.
"""

import base64
import binascii
import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec

from mamplus_host.ble.trust_memory import maintenance_key
from mamplus_host.enterprise import load_enterprise
from mamplus_host.errors import (
    CodeExpired,
    CodeForged,
    CodeMalformed,
    CodeUsed,
    CodeWrongDevice,
    EnrollRefused,
    NotPossible,
)
from mamplus_host.files import write_whole

WIPE, LOCK, CONTAINER_LOCK = "wipe", "lock", "container-lock"  # what may be ordered
MAX_BYTES = 4096
MAX_USED = 1000
_BEGIN, _END = "-----BEGIN MAMPLUS ORDER-----", "-----END MAMPLUS ORDER-----"


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is ordered."""

    what: str
    device: str  # its whole id, hex
    id: str  # 16 hex digits: no two orders are the same
    expires_s: int  # seconds since the epoch: it may be given to the device before that
    reason: str = ""


def new(what: str, device_id: str, *, expires_s: int, reason: str) -> Order:
    """Return an order with a name of its own."""
    return Order(what=what, device=device_id, id=secrets.token_hex(8), expires_s=expires_s, reason=reason)


def payload(order: Order) -> bytes:
    return msgspec.json.encode(order)


def signed_text(data: bytes) -> bytes:
    """Return what is signed for the payload `data`."""
    return b"mamplus-order\n" + data


def spell(data: bytes, signature: bytes) -> str:
    """Return the order as the text that is carried to the device."""
    return "\n".join([_BEGIN, base64.b64encode(data).decode(), base64.b64encode(signature).decode(), _END, ""])


def read(text: str) -> tuple[Order, bytes, bytes]:
    """Return the order, the bytes that are signed for it, and the signature; CodeMalformed when it is none."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if len(text) > MAX_BYTES or len(lines) != 4 or (lines[0], lines[3]) != (_BEGIN, _END):
        raise CodeMalformed(f"this is no order; want the four lines from {_BEGIN!r} to {_END!r}")
    try:
        data, signature = (base64.b64decode(line, validate=True) for line in lines[1:3])
        return msgspec.json.decode(data, type=Order), data, signature
    except (binascii.Error, msgspec.MsgspecError, UnicodeDecodeError):
        raise CodeMalformed("the order is damaged: have it made or carried again") from None


class Orders:
    """The orders that this device was given, in `state/orders.json`."""

    def __init__(self, state: Path, now_s: Callable[[], float]) -> None:
        """`now_s`: the time that dated things end by, as `DeviceClock.list_s` has it."""
        self._state, self._path, self._now_s = state, state / "orders.json", now_s

    def accept(self, text: str, what: str) -> Order:
        """Return the order in `text` if this device is to carry it out; a CodeRejected says why it is not."""
        order, data, signature = read(text)
        self._want_genuine(order, data, signature)
        if order.what != what:
            raise CodeMalformed(f"the order says {order.what!r}, want {what!r}")
        if order.id in self._used():
            raise CodeUsed(f"order {order.id} was carried out already; each is good once: have another one made")
        late_s = self._now_s() - order.expires_s
        if late_s >= 0:
            raise CodeExpired(
                f"order {order.id} had to be given to this device {late_s / 60:.0f} minutes ago, by its time"
            )
        return order

    def mark(self, order: Order) -> None:
        """Remember that `order` is being carried out, for good; may be repeated."""
        used, now_s = self._used(), self._now_s()
        if order.id not in used:
            kept = {one: end for one, end in used.items() if end > now_s}
            if len(kept) >= MAX_USED:
                raise NotPossible(f"{MAX_USED} orders are remembered on this device; wait until some have expired")
            write_whole(self._path, msgspec.json.encode(kept | {order.id: order.expires_s}))

    def is_marked(self, order_id: str) -> bool:
        """Whether an order was begun."""
        return order_id in self._used()

    def _want_genuine(self, order: Order, data: bytes, signature: bytes) -> None:
        from mamplus_host.outbox.identity import verifies  # libcrypto: only who brings an order needs it

        enterprise = load_enterprise(self._state)
        if enterprise is None:
            raise EnrollRefused("this device belongs to no enterprise that could order anything")
        key = maintenance_key(self._state)
        if key is None:
            raise NotPossible(
                "this device's enterprise has no key for orders; make one there, and refresh here:"
                " mamplus-enterprise root rotate --role maintenance"
            )
        if not verifies(key, signed_text(data), signature):
            raise CodeForged("the order is not signed by this device's enterprise; get one from there")
        if order.device != enterprise.device_id:
            raise CodeWrongDevice(
                f"the order is for the device {order.device[:12]!r}, this one is {enterprise.device_id[:12]!r}"
            )

    def _used(self) -> dict[str, int]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, int])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError):
            raise NotPossible(
                f"{str(self._path)!r} is damaged: which orders were carried out is not known; remove it only when"
                " the enterprise says that none may come twice"
            ) from None
