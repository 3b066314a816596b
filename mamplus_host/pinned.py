# SPDX-License-Identifier: Apache-2.0
"""One connection to the enterprise, trusted by the fingerprint of its certificate and by nothing else.

Journey: outbox -> [connection] -> enterprise, and enterprise -> [connection] -> BLE.

No certificate authority, no redirect, no proxy, no environment variable has a say. An answer
has at most `max_bytes`, a request ends within its `timeout_s` however slowly the other
side trickles, and `interrupt` ends it at once from another thread.

Every failure is UplinkFailed; a certificate that is not the enrolled one is WrongCertificate.
"""

import hashlib
import http.client
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Self
from urllib.parse import urlsplit

from mamplus_host.errors import ConfigInvalid, UplinkFailed

CHUNK_BYTES = 1 << 16
ANYONE = "any"  # a fingerprint that fits every certificate
_TCP_INFO = struct.Struct("120xQQ")  # tcpi_bytes_acked, tcpi_bytes_received of struct tcp_info, <linux/tcp.h>
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class WrongCertificate(UplinkFailed):
    """Whoever answers is not the enterprise that this device was enrolled with."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an enterprise answers, and how it is recognized."""

    host: str
    port: int
    path: str  # prefix of every request path: "" or "/something", without a final slash
    fingerprint: str  # SHA-256 of the DER certificate, hex; "": plain HTTP; ANYONE: see `stranger`

    @property
    def is_tls(self) -> bool:
        return self.fingerprint != ""

    @property
    def address(self) -> str:
        """Return host:port, as written in a Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def endpoint(url: str, fingerprint: str) -> Endpoint:
    """Return where `url` points to; ConfigInvalid unless https with a fingerprint, or http on loopback without."""
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or parts.scheme not in ("https", "http") or parts.query or parts.fragment or parts.username:
        raise ConfigInvalid(f"{url!r} is no address of an enterprise; want one like https://10.0.0.1:8443")
    if parts.scheme == "https" and not _FINGERPRINT.fullmatch(fingerprint):
        raise ConfigInvalid(f"certificate fingerprint {fingerprint!r}; want the 64 hex digits of a SHA-256")
    if parts.scheme == "http" and (fingerprint or not _is_loopback(host)):
        raise ConfigInvalid(f"{url!r} is plain HTTP; that is for loopback and a token without a fingerprint: use https")
    return Endpoint(host, port or (443 if parts.scheme == "https" else 80), parts.path.rstrip("/"), fingerprint)


def stranger(url: str) -> Endpoint:
    """Return where `url` points to, whoever answers there: only for content that carries its own signatures."""
    secure = url.strip().startswith("https:")
    where = endpoint(url.strip() if secure else "https" + url.strip().removeprefix("http"), "0" * 64)
    if secure:
        return replace(where, fingerprint=ANYONE)
    return replace(where, fingerprint="", port=urlsplit(url.strip()).port or 80)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the other side said."""

    status: int
    body: bytes


class Connection:
    """A kept-alive HTTP connection; used by one thread, interrupted by any."""

    def __init__(self, where: Endpoint, *, connect_timeout_s: float) -> None:
        self._where = where
        self._connect_timeout_s = connect_timeout_s
        self._http: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()  # guards _socket between its thread and `interrupt`
        self._carried = 0  # bytes both ways over sockets that are closed
        self._interrupted = False
        self.opened_ns = 0  # when the connection was made, CLOCK_BOOTTIME

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None,
        *, timeout_s: float, max_bytes: int,
    ) -> Answer:  # fmt: skip
        """Send one request and return the whole answer; UplinkFailed when it is longer than `max_bytes`."""
        with self.stream(method, path, body, headers, timeout_s=timeout_s) as (status, chunks):
            data = bytearray()
            for chunk in chunks:
                data += chunk
                if len(data) > max_bytes:
                    raise UplinkFailed(f"{self._where.address} answers {path!r} with more than {max_bytes} bytes")
            return Answer(status, bytes(data))

    @contextmanager
    def stream(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, timeout_s: float
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Send one request; yield its status and the body in chunks, all within `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        watchdog = threading.Timer(timeout_s, self._shut)  # header lines that trickle reset every socket timeout
        watchdog.daemon = True
        answer: http.client.HTTPResponse | None = None
        try:
            watchdog.start()
            http_connection = self._connected(deadline)
            http_connection.request(method, self._where.path + path, body or None, dict(headers or {}))
            answer = http_connection.getresponse()
            yield answer.status, self._chunks(answer, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() >= deadline:
                raise UplinkFailed(f"{self._where.address} took more than {timeout_s:g} s for {path!r}") from None
            raise UplinkFailed(f"{self._where.address} does not answer {path!r}: {_words(error)}") from None
        finally:
            watchdog.cancel()
            if answer is None or not answer.isclosed() or answer.will_close:
                self.close()

    def _chunks(self, answer: http.client.HTTPResponse, deadline: float) -> Iterator[bytes]:
        while chunk := answer.read1(CHUNK_BYTES):
            _want_time(deadline)
            yield chunk
        _want_time(deadline)  # what the watchdog cut off, headers too, would pass for a whole answer
        if answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
        answer.close()

    @property
    def carried_bytes(self) -> int:
        """How many bytes went both ways, TLS included, by the kernel's account; without the headers of TCP and IP."""
        with self._lock:
            return self._carried + _carried(self._socket)

    def interrupt(self) -> None:
        """End what another thread waits for on this connection, and refuse further requests. Final."""
        self._interrupted = True
        self._shut()

    def close(self) -> None:
        """Close; the next request connects anew."""
        with self._lock:
            socket_, self._socket = self._socket, None
        self._carried += _carried(socket_)
        if self._http is not None:
            self._http.close()
            self._http = None
        if socket_ is not None:
            socket_.close()

    def _shut(self) -> None:
        with self._lock:
            if self._socket is not None:
                with suppress(OSError):  # not connected, or closed by the other side
                    # Not SSLSocket.shutdown: it takes the TLS object away from under the reading thread.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _connected(self, deadline: float) -> http.client.HTTPConnection:
        if self._socket is not None and _is_over(self._socket):
            self.close()  # the other side ended it while it was idle: no failure, and nothing was sent on it
        if self._http is None:
            socket_ = self._open()
            self._http = http.client.HTTPConnection(self._where.host, self._where.port)
            self._http.auto_open = 0  # it would connect again by itself, and ask nobody for a certificate
            self._http.sock = socket_
            self.opened_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if self._interrupted:
            raise ConnectionAbortedError("interrupted")
        self._http.sock.settimeout(max(deadline - time.monotonic(), 0.001))
        return self._http

    def _open(self) -> socket.socket:
        """Return a connected socket whose other end proved to be the enterprise."""
        last: OSError = OSError("no address")
        for family, kind, protocol, _name, address in socket.getaddrinfo(
            self._where.host, self._where.port, type=socket.SOCK_STREAM
        ):
            try:
                return self._open_one(socket.socket(family, kind, protocol), address)
            except OSError as error:
                self.close()
                last = error
        raise last

    def _open_one(self, raw: socket.socket, address: tuple[object, ...]) -> socket.socket:
        self._keep(raw)
        raw.settimeout(self._connect_timeout_s)
        raw.connect(address)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self._where.is_tls:
            return raw
        tls = _context().wrap_socket(raw, server_hostname=None, do_handshake_on_connect=False)
        self._keep(tls)
        tls.do_handshake()
        self._recognize(tls.getpeercert(binary_form=True) or b"")
        return tls

    def _keep(self, socket_: socket.socket) -> None:
        with self._lock:
            self._socket = socket_
        if self._interrupted:
            raise ConnectionAbortedError("interrupted")

    def _recognize(self, certificate: bytes) -> None:
        seen = hashlib.sha256(certificate).hexdigest()
        if self._where.fingerprint not in (seen, ANYONE):
            raise WrongCertificate(
                f"{self._where.address} shows a certificate with fingerprint {seen}, want {self._where.fingerprint}:"
                " somebody stands in between, or the enterprise has a new certificate: enroll again with a new token"
            )


def _is_over(idle: socket.socket) -> bool:
    """Whether a connection that waits for no answer is at its end: all that can be read from it then is that."""
    look = select.poll()
    look.register(idle, select.POLLIN)
    return bool(look.poll(0))


def _carried(socket_: socket.socket | None) -> int:
    """Return what TCP_INFO says of a socket: bytes acknowledged by the other side, and received from it."""
    if socket_ is None:
        return 0
    try:
        info = socket_.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:  # never connected
        return 0
    return sum(_TCP_INFO.unpack(info)) if len(info) == _TCP_INFO.size else 0


def _context() -> ssl.SSLContext:
    """Return a client context that leaves recognition to `_recognize`: the fingerprint is the whole trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _want_time(deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise TimeoutError


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
