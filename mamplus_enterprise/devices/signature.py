# SPDX-License-Identifier: Apache-2.0
"""Signed requests (docs/protocol.md): the device is known, not removed, and signed exactly this.

The time in the signature is not compared with ours: a device's clock may be wrong by years,
and a replayed request changes nothing (alerts are stored once, the rest is overwritten).
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mamplus_enterprise.errors import Forbidden, Unsigned
from mamplus_enterprise.storage.schema import Device
from mamplus_enterprise.storage.store import Store


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What was received; headers are "" when they are missing."""

    method: str
    path: str  # with its query, as sent
    body: bytes
    device: str
    time: str
    signature: str


def authenticated(store: Store, request: SignedRequest) -> Device:
    """Return the device that signed `request`; Unsigned or Forbidden."""
    with store.reading() as session:
        device = session.get(Device, request.device) if len(request.device) == 64 else None
    if device is None:
        raise Unsigned(f"device {request.device[:64]!r} is unknown; enrol it")
    text = f"{request.method}\n{request.path}\n{request.time}\n{hashlib.sha256(request.body).hexdigest()}"
    if not fits(device.public_key, request.signature, text.encode()):
        raise Unsigned("the signature does not fit the request")
    if device.removed_at is not None:
        raise Forbidden("this device was removed; enrol it again with a new token")
    return device


def fits(public_key: bytes, signature: str, data: bytes) -> bool:
    """Return whether `signature` (base64) is that of `public_key` over `data`. A claim to check, not consent."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(base64.b64decode(signature, validate=True), data)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
