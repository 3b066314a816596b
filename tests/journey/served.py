# SPDX-License-Identifier: Apache-2.0
"""A small HTTP(S) server in a thread, for tests: it answers what the test says, and counts what it was asked."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Request:
    """What a client asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    write: Callable[[bytes], Any]  # for answers that break the rules: raw bytes to the client


Answering = Callable[[Request], tuple[int, bytes] | None]  # None: the test wrote its own bytes


@dataclass
class Served:
    """A running server."""

    url: str
    fingerprint: str
    connections: int = 0
    requests: list[Request] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)  # an answer that waits must watch it
    sockets: set[socket.socket] = field(default_factory=set)  # that are open

    def hang_up(self) -> None:
        """End every connection, and take new ones."""
        for connection in list(self.sockets):
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """Notes what it was asked, and answers what the test says."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "Server"

    def setup(self) -> None:
        self.server.state.connections += 1
        self.server.state.sockets.add(self.request)
        super().setup()

    def finish(self) -> None:
        self.server.state.sockets.discard(self.request)
        super().finish()

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Request(self.command, self.path, dict(self.headers), body, self.wfile.write)
        self.server.state.requests.append(request)
        answered = self.server.answer(request)
        if answered is None:
            self.close_connection = True
            return
        status, content = answered
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """On loopback; TLS when it has a certificate."""

    daemon_threads = True

    def __init__(self, answer: Answering, state: Served, certificate: Path | None, port: int) -> None:
        self.answer, self.state, self._certificate = answer, state, certificate
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, *_: object) -> None:
        pass  # a client that goes away is what some tests are about

    def get_request(self) -> Any:
        connection, address = super().get_request()
        if self._certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._certificate)
            connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address


@contextmanager
def served(answer: Answering, *, certificate: Path | None = None, port: int = 0) -> Iterator[Served]:
    """Serve until the end of the block, on loopback; TLS when `certificate` (key and certificate in PEM) is given."""
    state = Served("", "")
    server = Server(answer, state, certificate, port)
    scheme = "https" if certificate else "http"
    state.url = f"{scheme}://127.0.0.1:{server.server_port}"
    state.fingerprint = fingerprint(certificate) if certificate else ""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.stopping.set()
        server.shutdown()
        server.server_close()
        state.hang_up()  # a server that is down does not go on in its old connections
        thread.join(5)


def make_certificate(folder: Path, name: str = "server") -> Path:
    """Write a fresh key and self-signed certificate into one PEM file, and return its path."""
    path = folder / f"{name}.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    subprocess.run(
        [*command, "-subj", "/CN=test", "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True
    )
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


def fingerprint(certificate: Path) -> str:
    text = certificate.read_text()
    begin = text.index("-----BEGIN CERTIFICATE-----")
    return sha256(ssl.PEM_cert_to_DER_cert(text[begin:])).hexdigest()


def files(content: dict[str, bytes], prefix: str = "/repo/") -> Answering:
    """Return an answering that serves `content` as static files."""

    def answer(request: Request) -> tuple[int, bytes]:
        data = content.get(request.path.removeprefix(prefix)) if request.path.startswith(prefix) else None
        return (404, b"{}") if data is None else (200, data)

    return answer
