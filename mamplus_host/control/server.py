# SPDX-License-Identifier: Apache-2.0
"""The agent's end of the control socket: non-blocking, bounded, root only.

The service's loop calls `on_ready` for every readiness and `expire` at every tick. A client
that sends garbage gets one error and is closed; one that sends nothing is closed after
REQUEST_TIMEOUT_S; one that does not read what it asked for is closed when its buffer is full.
"""

import contextlib
import logging
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from mamplus_host.control.protocol import (
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    REQUEST_TIMEOUT_S,
    Reply,
    Request,
    decode_request,
    short_address,
)
from mamplus_host.errors import ControlMalformed, MamplusError
from mamplus_host.jsonlines import encode_line

LOG = logging.getLogger("mamplus")
MAX_CLIENTS = 16
FOLLOWER_BUFFER_BYTES = 1 << 20  # per `events -f`; a reader slower than that is let go
FOLLOW = "follow"  # result of a handler that wants the client to receive what `publish` sends

_SO_PEERPIDFD = 77  # Linux 6.5; Python has no name for it


class Peer:
    """Who connected, as the kernel says; a client may be another process by now, if it was given the connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.pid, self.uid = _credentials(sock)
        self.pidfd = _pidfd(sock, self.pid)  # -1: it has ended
        self.on_close: Callable[[Peer], object] | None = None

    def stay(self, on_close: "Callable[[Peer], object]") -> None:
        """Keep the connection open after the answer, and call `on_close` when it ends."""
        self.on_close = on_close

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.pidfd = -1


Handler = Callable[[Request, Peer], Any]


class _Client:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.peer = Peer(sock)
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.since = time.monotonic()
        self.is_follower = self.waits = False
        self.closes_when_sent = False

    @property
    def stays(self) -> bool:
        return self.is_follower or self.waits or self.peer.on_close is not None


class ControlServer:
    """Listens at `path` (mode 0600) and answers through `handler`; `epoll` is the service's.

    `for_all`: everybody may connect (mode 0666); the handler is told who did.
    """

    def __init__(self, path: Path, epoll: select.epoll, handler: Handler, *, for_all: bool = False) -> None:
        self._path, self._epoll, self._handler, self._for_all = path, epoll, handler, for_all
        self._clients: dict[int, _Client] = {}
        self.refused = 0  # clients turned away or let go
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        before = os.umask(0o111 if for_all else 0o177)
        try:
            with short_address(path) as address:
                self._listener.bind(address)
        finally:
            os.umask(before)
        self._listener.listen(MAX_CLIENTS)
        epoll.register(self._listener.fileno(), select.EPOLLIN)

    @property
    def has_followers(self) -> bool:
        return any(client.is_follower for client in self._clients.values())

    def owns(self, fd: int) -> bool:
        return fd == self._listener.fileno() or fd in self._clients

    def on_ready(self, fd: int, mask: int) -> None:
        """Handle one readiness that `epoll` reported for a descriptor of ours."""
        if fd == self._listener.fileno():
            self._accept()
            return
        client = self._clients[fd]
        try:
            if mask & select.EPOLLOUT:
                self._flush(client)
            if mask & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self._read(client)
        except OSError:
            self._close(client)

    def publish(self, item: Any) -> None:
        """Send `item` to every follower."""
        line = encode_line({"item": item})
        for client in [client for client in self._clients.values() if client.is_follower]:
            self._send(client, line, FOLLOWER_BUFFER_BYTES)

    def expire(self) -> None:
        """Let go of clients that connected and asked nothing."""
        now = time.monotonic()
        for client in list(self._clients.values()):
            if not client.stays and now - client.since > REQUEST_TIMEOUT_S:
                self.refused += 1
                self._close(client)

    def close(self) -> None:
        for client in list(self._clients.values()):
            self._close(client)
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            sock, _ = self._listener.accept()
            may = self._for_all or _credentials(sock)[1] in (0, os.geteuid())
            if len(self._clients) >= MAX_CLIENTS or not may:
                self.refused += 1
                sock.close()
                return
            sock.setblocking(False)
            self._clients[sock.fileno()] = _Client(sock)
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _read(self, client: _Client) -> None:
        chunk = client.sock.recv(1 << 16)
        if not chunk:
            self._close(client)
            return
        if client.stays or client.closes_when_sent:
            return  # it has asked already; whatever it still says is not for us
        client.inbox += chunk
        if len(client.inbox) > MAX_REQUEST_BYTES:
            self._refuse(client, f"the request is longer than {MAX_REQUEST_BYTES} bytes")
        elif b"\n" in client.inbox:
            self._answer(client, bytes(client.inbox[: client.inbox.index(b"\n")]))

    def _answer(self, client: _Client, line: bytes) -> None:
        self._answer_with(client, lambda: self._handler(decode_request(line), client.peer))

    def _answer_with(self, client: _Client, ask: Callable[[], Any]) -> None:
        """Send what `ask` returns; a Future of an answer is waited for without holding up the loop."""
        if client.sock.fileno() < 0:
            return  # it did not wait
        client.waits = False
        try:
            result = ask()
        except ControlMalformed as error:
            self._refuse(client, str(error))
            return
        except MamplusError as error:
            self._reply(client, Reply(ok=False, error=str(error), exit=error.exit_code))
            return
        except Exception as error:  # a request must not be able to end the agent
            LOG.exception("a request failed")
            self._refuse(client, f"the agent could not do that: {type(error).__name__}: {error}")
            return
        if isinstance(result, Future):
            client.waits = True
            result.add_done_callback(lambda done: self._answer_with(client, done.result))
            return
        client.is_follower = result is FOLLOW
        self._reply(client, Reply(ok=True, result=None if client.is_follower else result))

    def _refuse(self, client: _Client, why: str) -> None:
        self.refused += 1
        self._reply(client, Reply(ok=False, error=why, exit=2))

    def _reply(self, client: _Client, reply: Reply) -> None:
        client.closes_when_sent = not client.stays
        self._send(client, encode_line(reply), MAX_REPLY_BYTES)

    def _send(self, client: _Client, line: bytes, max_bytes: int) -> None:
        if len(client.outbox) + len(line) > max_bytes:
            self.refused += 1
            self._close(client)
            return
        client.outbox += line
        try:
            self._flush(client)
        except OSError:
            self._close(client)

    def _flush(self, client: _Client) -> None:
        with contextlib.suppress(BlockingIOError):
            while client.outbox:
                del client.outbox[: client.sock.send(client.outbox)]
        if client.outbox:
            self._epoll.modify(client.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
        elif client.closes_when_sent:
            self._close(client)
        else:
            self._epoll.modify(client.sock.fileno(), select.EPOLLIN)

    def _close(self, client: _Client) -> None:
        fd = client.sock.fileno()
        if self._clients.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)
            client.sock.close()
            if client.peer.on_close is not None:
                client.peer.on_close(client.peer)
            client.peer.close()


def _credentials(sock: socket.socket) -> tuple[int, int]:
    """Return pid and uid of who connected."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _gid = struct.unpack("3i", credentials)
    return pid, uid


def _pidfd(sock: socket.socket, pid: int) -> int:
    """Return a descriptor of the process that connected, -1 when it has ended.

    Before Linux 6.5 the number is all there is: in the moment between connect(2) and here it may have become another's.
    """
    with contextlib.suppress(OSError):
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4), sys.byteorder, signed=True)
    with contextlib.suppress(OSError):
        return os.pidfd_open(pid)
    return -1
