# SPDX-License-Identifier: Apache-2.0
"""Enrolment tokens: one use, and all that a device needs to find and trust its enterprise."""

import base64
import hashlib
import secrets
import time

import msgspec

from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.schema import Token
from mamplus_enterprise.storage.store import Store, note
from mamplus_enterprise.tls import fingerprint
from mamplus_host.errors import ConfigInvalid

LIFETIME_S = 86_400


def new_token(home: Home, store: Store, *, who: str, url: str = "") -> str:
    """Return a new token (docs/protocol.md); it is shown once, only its hash is stored."""
    secret, url, now_s = secrets.token_hex(32), (url or home.url).rstrip("/"), time.time()
    content = {"url": url, "fingerprint": _fingerprint_for(home, url), "secret": secret}
    with store.writing() as session:
        session.add(Token(secret_hash=hash_of(secret), created_at=now_s, expires_at=now_s + LIFETIME_S))
        note(session, who=who, what="token made", subject=url)
    return "mamplus1." + base64.urlsafe_b64encode(msgspec.json.encode(content)).rstrip(b"=").decode()


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _fingerprint_for(home: Home, url: str) -> str:
    if url.startswith("https://"):
        return fingerprint(home.certificate)
    if url.startswith("http://") and home.settings.dev:
        return ""
    raise ConfigInvalid(
        f"the address is {url!r}, want https://HOST:PORT; plain HTTP is for enterprises made with --dev"
    )
