# SPDX-License-Identifier: Apache-2.0
"""A new device: its token is good, and it holds the key that it names."""

import base64
import binascii
import hashlib
import time
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import select
from sqlalchemy.orm import Session

from mamplus_enterprise.devices.tokens import hash_of
from mamplus_enterprise.errors import Forbidden, Malformed
from mamplus_enterprise.storage.schema import Device, Token
from mamplus_enterprise.storage.store import Store, note

MAX_NAME_CHARS = 255
MAX_FACTS_BYTES = 4096


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /v1/enroll."""

    secret: str
    public_key: str  # base64 of 32 bytes
    proof: str  # base64 of the signature over "mamplus-enroll:" + secret
    name: str = ""
    facts: dict[str, Any] = {}


def enroll(store: Store, request: Enrolment) -> Device:
    """Store the device and use up its token. Malformed, or Forbidden when the token does not allow it.

    A device that lost its state enrols again with a new token and the same key: it is the same device.
    """
    public_key = _proven_key(request)
    if len(request.name) > MAX_NAME_CHARS or len(msgspec.json.encode(request.facts)) > MAX_FACTS_BYTES:
        raise Malformed(f"name or facts are too long, want {MAX_NAME_CHARS} characters and {MAX_FACTS_BYTES} bytes")
    with store.writing() as session:
        token = _usable(session, request.secret)
        device = _device(session, public_key, request)
        session.flush()
        token.used_at, token.device_id = time.time(), device.id
        note(session, who=f"device {device.id}", what="enrolled", subject=device.name)
    return device


def _proven_key(request: Enrolment) -> bytes:
    try:
        raw, proof = (base64.b64decode(text, validate=True) for text in (request.public_key, request.proof))
        Ed25519PublicKey.from_public_bytes(raw).verify(proof, b"mamplus-enroll:" + request.secret.encode("ascii"))
    except (binascii.Error, ValueError):
        raise Malformed(
            "public_key, proof or secret is not as agreed; want base64 of 32 bytes, base64, ASCII"
        ) from None
    except InvalidSignature:
        raise Malformed("the proof does not fit public_key and secret") from None
    return raw


def _usable(session: Session, secret: str) -> Token:
    token = session.scalars(select(Token).where(Token.secret_hash == hash_of(secret))).one_or_none()
    if token is None or token.used_at is not None or token.expires_at < time.time():
        why = "unknown" if token is None else "used" if token.used_at is not None else "expired"
        raise Forbidden(f"the enrolment token is {why}; ask for a new one: mamplus-enterprise token new")
    return token


def _device(session: Session, public_key: bytes, request: Enrolment) -> Device:
    device_id, now_s = hashlib.sha256(public_key).hexdigest(), time.time()
    device = session.get(Device, device_id)
    if device is None:
        device = Device(id=device_id, public_key=public_key, enrolled_at=now_s)
        session.add(device)
    device.name, device.facts = request.name or device_id[:12], request.facts
    device.last_seen, device.removed_at = now_s, None
    return device
