# SPDX-License-Identifier: Apache-2.0
"""Makes this device one of an enterprise's: a key, whom to trust, and to whom it belongs.

Journey: [enroll] -> identity, trust; docs/protocol.md, "Enrolment token".

All the trust of an enrolment comes from the token: it names the certificate that must answer.
What is kept, and where: `identity.py`. This module imports the cryptography package, so the
service does not import this module.
"""

import base64
import binascii
import platform
import socket
import time
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mamplus_host import __version__, clock
from mamplus_host.enterprise import Enterprise, enterprise_path, load_enterprise
from mamplus_host.errors import ConfigInvalid, EnrollRefused, UplinkFailed
from mamplus_host.files import write_whole
from mamplus_host.outbox.identity import base64_text, device_id_of, key_path
from mamplus_host.pinned import Answer, Connection, Endpoint, WrongCertificate, endpoint

TOKEN_PREFIX = "mamplus1."
MAX_TOKEN_CHARS = 4096
MAX_ANSWER_BYTES = 1 << 20
ENROLL_TIMEOUT_S = 20.0
CONNECT_TIMEOUT_S = 5.0


class Token(msgspec.Struct, frozen=True):
    """What an enrolment token carries."""

    url: str
    fingerprint: str
    secret: str


class _Enrolled(msgspec.Struct, frozen=True):
    device_id: str
    enterprise_id: str
    root: str


def parse_token(text: str) -> Token:
    """Return what an enrolment token carries; EnrollRefused says what is wrong with it."""
    text = text.strip()
    if not text.startswith(TOKEN_PREFIX) or len(text) > MAX_TOKEN_CHARS:
        raise EnrollRefused(f"token {text[:16]!r}... is none; want the line beginning {TOKEN_PREFIX!r}, whole")
    encoded = text.removeprefix(TOKEN_PREFIX)
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=Token)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise EnrollRefused("the token is damaged; copy the whole line that `token new` printed") from None


def enroll(
    url: str, token: str, state: Path, name: str, *, force: bool = False, timeout_s: float = ENROLL_TIMEOUT_S
) -> Enterprise:
    """Make this device one of the enterprise's, and return to whom it belongs now.

    `url` may be "" (the token has one). EnrollRefused when the device is enrolled already
    (`force` overrides), or the enterprise is not the token's, cannot be reached, or says no.
    """
    known = None if force else load_enterprise(state)
    if known is not None:
        raise EnrollRefused(f"this device is enrolled with {known.url!r} already; to leave it, use --force")
    parsed = parse_token(token)
    url = url or parsed.url
    if parsed.fingerprint and url.startswith("http://"):
        url = "https" + url.removeprefix("http")  # the token names a certificate: the same port speaks TLS
    try:
        where = endpoint(url, parsed.fingerprint)
    except ConfigInvalid as error:
        raise EnrollRefused(str(error)) from None
    key = Ed25519PrivateKey.generate()
    enrolled, root = _ask(where, key, parsed, name, timeout_s)
    enterprise = Enterprise(
        url=url, fingerprint=parsed.fingerprint, enterprise_id=enrolled.enterprise_id,
        device_id=enrolled.device_id, enrolled_at=int(time.time()), addresses=_resolve(where),
    )  # fmt: skip
    _keep(state, key, root, enterprise)
    return enterprise


def _ask(where: Endpoint, key: Ed25519PrivateKey, token: Token, name: str, timeout_s: float) -> tuple[_Enrolled, bytes]:
    request = {
        "secret": token.secret,
        "public_key": base64_text(_public(key)),
        "proof": base64_text(key.sign(f"mamplus-enroll:{token.secret}".encode())),
        "name": name,
        "facts": {"kernel": platform.release(), "arch": platform.machine(), "agent": __version__},
    }
    try:
        with Connection(where, connect_timeout_s=min(CONNECT_TIMEOUT_S, timeout_s)) as connection:
            answer = connection.request(
                "POST", "/v1/enroll", msgspec.json.encode(request), {"Content-Type": "application/json"},
                timeout_s=timeout_s, max_bytes=MAX_ANSWER_BYTES,
            )  # fmt: skip
    except WrongCertificate as error:
        raise EnrollRefused(f"{error}; nothing was sent") from None
    except UplinkFailed as error:
        raise EnrollRefused(f"cannot enroll: {error}; is the address right, and does the enterprise run?") from None
    return _read_answer(answer, device_id_of(_public(key)))


def _read_answer(answer: Answer, wanted_id: str) -> tuple[_Enrolled, bytes]:
    if answer.status == 403:
        raise EnrollRefused("the enterprise does not take this token: it is unknown, used or too old; get a new one")
    if answer.status != 200:
        raise EnrollRefused(f"the enterprise answers with status {answer.status}, want 200: {answer.body[:200]!r}")
    try:
        enrolled = msgspec.json.decode(answer.body, type=_Enrolled)
        root = base64.b64decode(enrolled.root, validate=True)
        signed: dict[str, Any] = msgspec.json.decode(root, type=dict[str, Any])["signed"]
        is_root = signed["_type"] == "root"
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError):
        raise EnrollRefused(
            "the enterprise's answer is not as docs/protocol.md wants it; update one of the two"
        ) from None
    if enrolled.device_id != wanted_id or not is_root:
        raise EnrollRefused(f"the enterprise names this device {enrolled.device_id!r}, want {wanted_id!r}, and a root")
    return enrolled, root


def _keep(state: Path, key: Ed25519PrivateKey, root: bytes, enterprise: Enterprise) -> None:
    """Write everything down, `enterprise.json` last: a power cut leaves a device enrolled, or not."""
    for folder in (state, state / "identity", state / "trust"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    enterprise_path(state).unlink(missing_ok=True)
    (state / "trust" / "metadata.json").unlink(missing_ok=True)  # of the enterprise before
    clock.forget(state)  # what it signed about the time
    write_whole(key_path(state), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_whole(state / "trust" / "root.json", root, mode=0o644)
    write_whole(enterprise_path(state), msgspec.json.encode(enterprise), mode=0o644)


def _resolve(where: Endpoint) -> tuple[str, ...]:
    found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
    return tuple(sorted({str(address[0]) for *_rest, address in found}))


def _public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
