# SPDX-License-Identifier: Apache-2.0
"""The command line's end of the control socket."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mamplus_host.control.protocol import MAX_REPLY_BYTES, Reply, Request, short_address
from mamplus_host.errors import AgentUnreachable, MamplusError
from mamplus_host.jsonlines import encode_line


class Refused(MamplusError):
    """The agent answered and said no, with the exit code that it wants."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class NoAgent(AgentUnreachable):
    """Nobody listens; whoever knows the configuration says how to start an agent."""


def call(socket_path: Path, command: str, /, *, timeout_s: float = 60.0, **arguments: Any) -> Any:
    """Return the agent's answer to `command`; AgentUnreachable when none listens, Refused when it says no."""
    with _connect(socket_path, timeout_s) as sock:
        sock.sendall(encode_line(Request(command, arguments)))
        for line in _lines(sock):
            return _result(line)
    raise AgentUnreachable(f"the agent at {str(socket_path)!r} closed the connection; look at its log")


def hold(socket_path: Path, command: str, /, *, timeout_s: float = 60.0, **arguments: Any) -> socket.socket:
    """Ask for what is granted as long as the connection stands; return that. Errors as those of `call`."""
    sock = _connect(socket_path, timeout_s)
    try:
        sock.sendall(encode_line(Request(command, arguments)))
        _result(next(_lines(sock), b'{"ok": false, "error": "the agent closed the connection"}'))
    except BaseException:
        sock.close()
        raise
    return sock


def stream(socket_path: Path, command: str, /, **arguments: Any) -> Iterator[Any]:
    """Yield the items that the agent sends until it ends or the caller stops."""
    with _connect(socket_path, None) as sock:
        sock.sendall(encode_line(Request(command, arguments)))
        lines = _lines(sock)
        _result(next(lines, b'{"ok": false, "error": "the agent closed the connection"}'))
        for line in lines:
            yield msgspec.json.decode(line)["item"]


def _connect(path: Path, timeout_s: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout_s)
    try:
        with short_address(path) as address:
            sock.connect(address)
    except PermissionError:
        sock.close()
        raise AgentUnreachable(f"{str(path)!r} is for root only; run this as root") from None
    except OSError as error:
        sock.close()
        raise NoAgent(f"no agent answers at {str(path)!r} ({error.strerror})") from None
    return sock


def _lines(sock: socket.socket) -> Iterator[bytes]:
    buffer = bytearray()
    while len(buffer) <= MAX_REPLY_BYTES:
        try:
            chunk = sock.recv(1 << 16)
        except TimeoutError:
            raise AgentUnreachable("the agent did not answer in time; look at its log") from None
        if not chunk:
            return
        buffer += chunk
        while (end := buffer.find(b"\n")) >= 0:
            yield bytes(buffer[:end])
            del buffer[: end + 1]


def _result(line: bytes) -> Any:
    reply = msgspec.json.decode(line, type=Reply)
    if not reply.ok:
        raise Refused(reply.error, reply.exit or 1)
    return reply.result
