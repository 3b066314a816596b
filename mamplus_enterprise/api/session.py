# SPDX-License-Identifier: Apache-2.0
"""Who may act as administrator: the bearer of the admin token, or of a session made with it.

A session is signed with the admin token, not stored: a new token ends every session. Its
CSRF token is derived from it; the cookie alone (which a page on another port of the same
host could make the browser send) changes nothing.
"""

import hashlib
import hmac
import secrets
import time

from fastapi import Request

from mamplus_enterprise.api.context import context_of
from mamplus_enterprise.errors import Forbidden, Unsigned

COOKIE = "mamplus_session"
LIFETIME_S = 12 * 3600
_SAFE = ("GET", "HEAD")


def new_session(admin_token: str) -> str:
    content = f"{int(time.time()) + LIFETIME_S}.{secrets.token_hex(16)}"
    return f"{content}.{_mac(admin_token, 'session', content)}"


def is_session(admin_token: str, session: str) -> bool:
    content, _, mac = session.rpartition(".")
    end = content.partition(".")[0]
    return same(mac, _mac(admin_token, "session", content)) and end.isdigit() and int(end) > time.time()


def csrf_of(admin_token: str, session: str) -> str:
    return _mac(admin_token, "csrf", session)


def same(one: str, other: str) -> bool:
    """Compare in a time that tells nothing about where they differ."""
    return hmac.compare_digest(one.encode(errors="replace"), other.encode())


def session_of(request: Request) -> str:
    """Return the request's valid session, or ""."""
    session = request.cookies.get(COOKIE, "")
    return session if is_session(context_of(request).home.admin_token, session) else ""


def require_admin(request: Request) -> None:
    """Raise unless an administrator sent this API request."""
    token = context_of(request).home.admin_token
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and same(bearer.strip(), token):
        return
    session = session_of(request)
    if not session:
        raise Unsigned("want `Authorization: Bearer` with the content of DIR/admin.token, or the console's cookie")
    if request.method not in _SAFE:
        check_csrf(request, session, request.headers.get("mamplus-csrf", ""))


def check_csrf(request: Request, session: str, given: str) -> None:
    if not same(given, csrf_of(context_of(request).home.admin_token, session)):
        raise Forbidden("the request did not come from the console's own page; reload the page and try again")


def _mac(admin_token: str, purpose: str, content: str) -> str:
    return hmac.new(admin_token.encode(), f"{purpose}:{content}".encode(), hashlib.sha256).hexdigest()
