# SPDX-License-Identifier: Apache-2.0
"""Accept connections and look at their first byte: 0x16 begins TLS, all else is plain HTTP.

Plain HTTP is answered only for an enterprise made with --dev, and only to this machine.
Connections are bounded in number, and in the time until their first byte.
"""

import asyncio
import logging
import os
import socket
import ssl
from contextlib import suppress
from ipaddress import ip_address

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import ServerState

from mamplus_enterprise.errors import EnterpriseError
from mamplus_enterprise.server.connection import Connection
from mamplus_host.ble.entry import unmapped
from mamplus_host.errors import ConfigInvalid

MAX_CONNECTIONS = 16_384
FIRST_BYTE_TIMEOUT_S = 5.0
HANDSHAKE_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 75
GRACE_S = 0.7  # for answers in flight when the server ends
TLS_GOODBYE_S = 0.3
_BACKLOG = 1024
_TLS_HANDSHAKE = b"\x16"
_PLAIN_REFUSED = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nThis port speaks HTTPS.\n"
)
_log = logging.getLogger(__name__)


def parse_address(text: str) -> tuple[str, int]:
    """Return (host, port) of `ADDR:PORT` or `[ADDR]:PORT`; ConfigInvalid otherwise."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigInvalid(f"--listen is {text!r}, want ADDR:PORT like 127.0.0.1:8443 or [::1]:8443")
    return host, int(port)


def bind(text: str) -> socket.socket:
    """Return a listening socket; EnterpriseError when the address cannot be had."""
    host, port = parse_address(text)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise EnterpriseError(f"cannot listen on {text!r}: {why}; say another --listen ADDR:PORT") from None
    listener.setblocking(False)
    return listener


class Listener:
    """The accept loop and its connections."""

    def __init__(self, app: ASGIApp, context: ssl.SSLContext, *, max_connections: int, plain_on_loopback: bool) -> None:
        self._tls = context
        self._max_connections = max_connections
        self._plain_on_loopback = plain_on_loopback
        self._state = ServerState()
        self._tasks: set[asyncio.Task[None]] = set()
        self.turned_away = 0  # connections beyond the bound
        self._config = Config(
            app, http=Connection, ws="none", lifespan="off", log_config=None, access_log=False,
            proxy_headers=False, timeout_keep_alive=KEEP_ALIVE_S,
        )  # fmt: skip
        self._config.load()

    async def run(self, listener: socket.socket) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, or the peer is gone already
                _log.warning("cannot accept a connection: %s; trying again", error)
                await asyncio.sleep(0.05)
                continue
            if len(self._tasks) + len(self._state.connections) >= self._max_connections:
                self._turn_away(accepted)
                continue
            task = loop.create_task(self._admit(accepted, str(peer[0])))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Let answers in flight out, for at most GRACE_S, and close everything."""
        for task in list(self._tasks):
            task.cancel()
        for connection in list(self._state.connections):
            connection.shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                while self._state.connections or self._state.tasks:
                    await asyncio.sleep(0.01)
        for connection in list(self._state.connections):
            connection.transport.abort()
        for request in list(self._state.tasks):
            request.cancel()

    def _turn_away(self, accepted: socket.socket) -> None:
        accepted.close()
        self.turned_away += 1
        if self.turned_away.bit_count() == 1:  # 1, 2, 4, ...: say it, but not once a connection
            _log.warning("%d connections turned away: %d are open", self.turned_away, self._max_connections)

    async def _admit(self, accepted: socket.socket, peer: str) -> None:
        """Hand the connection to the HTTP protocol, over TLS or not; close it where neither may be."""
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(FIRST_BYTE_TIMEOUT_S):
                first = await _peek(accepted)
            if first == _TLS_HANDSHAKE:
                await self._connect(accepted, self._tls)
            elif first and self._plain_on_loopback and unmapped(ip_address(peer.partition("%")[0])).is_loopback:
                await self._connect(accepted, None)
            elif first:
                accepted.send(_PLAIN_REFUSED)
                accepted.shutdown(socket.SHUT_WR)
                accepted.recv(65536)  # unread bytes would make close() a reset, and the answer be lost
        except OSError as error:  # TimeoutError and ssl.SSLError too: the peer's doing
            _log.debug("connection of %s: %s", peer, error)
        finally:
            accepted.close()  # the transport has its own descriptor

    async def _connect(self, accepted: socket.socket, context: ssl.SSLContext | None) -> None:
        limits = (
            {"ssl_handshake_timeout": HANDSHAKE_TIMEOUT_S, "ssl_shutdown_timeout": TLS_GOODBYE_S} if context else {}
        )
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: Connection(self._config, self._state, {}), accepted.dup(), ssl=context, **limits
        )


async def _peek(accepted: socket.socket) -> bytes:
    """Return the first byte, which stays in the socket; empty when the peer is gone."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(accepted.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(accepted.fileno())
    return accepted.recv(1, socket.MSG_PEEK)
