# SPDX-License-Identifier: Apache-2.0
"""The application: routes, and one way of saying no."""

import logging
from collections.abc import MutableMapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mamplus_enterprise.api import admin, device, public
from mamplus_enterprise.api.context import Context
from mamplus_enterprise.errors import EnterpriseError
from mamplus_enterprise.web import console
from mamplus_host.errors import ConfigInvalid, MamplusError

_log = logging.getLogger(__name__)
_HEADERS = [
    (b"content-security-policy", b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
     b" connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]  # fmt: skip


def create_app(context: Context) -> ASGIApp:
    """Return the application that serves `context`."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.context = context
    for router in (public.router, device.router, admin.router, console.router):
        app.include_router(router)
    app.add_exception_handler(MamplusError, _refuse)
    return _WithHeaders(app)


async def _refuse(_request: Request, error: Exception) -> JSONResponse:
    status = error.status if isinstance(error, EnterpriseError) else 422 if isinstance(error, ConfigInvalid) else 500
    if status >= 500:
        _log.error("%s", error)
    return JSONResponse({"detail": str(error)}, status_code=status)


class _WithHeaders:
    """Adds the same headers to every answer, whoever made it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers)
