# SPDX-License-Identifier: Apache-2.0
"""What every request handler is given, and how bodies are read: bounded in bytes and time."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import msgspec
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from mamplus_enterprise.api.news import News
from mamplus_enterprise.ble.keys import Keyring, Signers
from mamplus_enterprise.errors import Malformed, TooLarge
from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.store import Store

MAX_BODY_BYTES = 64 << 10  # of everything but alerts
BODY_TIMEOUT_S = 60.0
_T = TypeVar("_T")
_P = ParamSpec("_P")


@dataclass(frozen=True, slots=True)
class Context:
    home: Home
    store: Store
    keyring: Keyring
    news: News

    @property
    def signers(self) -> Signers:
        return self.keyring.signers()


def context_of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


async def body_of(request: Request, max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """Return the body; TooLarge beyond `max_bytes`, Malformed when it does not arrive in time."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.stream():
                size += len(part)
                if size > max_bytes:
                    raise TooLarge(f"the body has more than {max_bytes} bytes; send less at once")
                parts.append(part)
    except (TimeoutError, ClientDisconnect):
        raise Malformed(f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s; send it again") from None
    return b"".join(parts)


def decode(body: bytes, shape: type[_T]) -> _T:
    """Return the JSON value in `body`; Malformed says what does not fit."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(f"the body is not as agreed: {error}") from None


async def off_loop(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run what touches disk or database in a thread: the loop serves every other device meanwhile."""
    return await run_in_threadpool(work, *args, **kwargs)
