# SPDX-License-Identifier: Apache-2.0
"""A real enterprise for tests: the command line as a process, its server, and devices that sign for themselves."""

import base64
import hashlib
import http.client
import json
import os
import ssl
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import text

from mamplus_enterprise.found import Wishes, found
from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.store import Store
from tests.enterprise import forked

TIMEOUT_S = 60


class Answer(NamedTuple):
    status: int
    body: Any
    headers: dict[str, str]


class Company:
    """An enterprise in a directory; `serve` starts its server on a free port."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self.process: BaseProcess | None = None
        self.port = 0
        self.always: tuple[str, ...] = ()  # options of every command, as --passphrase-file FILE

    def found(self) -> "Company":
        """Make a development enterprise, without the command line: a process less for every test."""
        found(self.dir, Wishes(name="Test Ltd", dev=True))
        return self

    def attempt(self, *words: object) -> "CompletedProcess[str]":
        return forked.run(["--dir", str(self.dir), *self.always, *map(str, words)], TIMEOUT_S)

    def run(self, *words: object) -> str:
        done = self.attempt(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *words: object) -> Any:
        return json.loads(self.run(*words, "--json"))

    def serve(self, *words: str) -> "Company":
        ours, its = os.pipe()
        with open(ours) as said:
            line = ["--dir", str(self.dir), "serve", "--listen", "127.0.0.1:0", *words]
            self.process = forked.begin(line, its, 2)
            os.close(its)
            ready = said.readline()
        assert ready.startswith("ready https://127.0.0.1:"), ready
        self.port = int(ready.split()[1].rsplit(":", 1)[1])
        return self

    def stop(self) -> float:
        """End the server with SIGTERM; return how many seconds it took."""
        if self.process is None:
            return 0.0
        begun = time.monotonic()
        self.process.terminate()
        try:
            assert forked.wait(self.process, 10) == 0
        finally:
            self.process.kill()
            self.process = None
        return time.monotonic() - begun

    def connection(self, *, tls: bool = True) -> http.client.HTTPConnection:
        if not tls:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        context = ssl.create_default_context(cafile=str(self.dir / "keys" / "tls.crt"))
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=TIMEOUT_S, context=context)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, *, tls: bool = True
    ) -> Answer:
        connection = self.connection(tls=tls)
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, headers or {})
            return answer_of(connection.getresponse())
        finally:
            connection.close()

    def admin(self, method: str, path: str, body: Any = None) -> Answer:
        token = (self.dir / "admin.token").read_text().strip()
        return self.ask(method, f"/v1/admin{path}", body, {"Authorization": f"Bearer {token}"})

    def change(self, statement: str) -> None:
        """Change the database behind everybody's back, to make what no command makes."""
        store = Store(Home.open(self.dir))
        with store.writing() as session:
            session.execute(text(statement))
        store.close()

    def token(self) -> dict[str, str]:
        """Return what a new enrolment token of the command line carries."""
        return opened(self.run("token", "new").splitlines()[-1])

    def device(self, name: str = "scanner") -> "FakeDevice":
        """Return a device that is enrolled."""
        device = FakeDevice(self, name)
        token = opened(self.admin("POST", "/tokens").body["token"])
        assert device.enroll(token["secret"]).status == 200
        return device


def opened(token: str) -> dict[str, str]:
    start, _, content = token.partition(".")
    assert start == "mamplus1"
    found: dict[str, str] = json.loads(base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)))
    return found


def answer_of(response: http.client.HTTPResponse) -> Answer:
    data = response.read()
    is_json = response.headers.get_content_type() == "application/json"
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, json.loads(data) if is_json else data, headers)


class FakeDevice:
    """A device as the enterprise meets it: a key, and a count of alerts."""

    def __init__(self, company: Company, name: str) -> None:
        self.company, self.name = company, name
        self.key = Ed25519PrivateKey.generate()
        self.public = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.id = hashlib.sha256(self.public).hexdigest()
        self.seq = 0

    def sign(self, data: bytes) -> str:
        return base64.b64encode(self.key.sign(data)).decode()

    def enroll(self, secret: str, **changes: Any) -> Answer:
        body = {
            "secret": secret, "public_key": base64.b64encode(self.public).decode(),
            "proof": self.sign(b"mamplus-enroll:" + secret.encode()), "name": self.name,
            "facts": {"kernel": "6.1", "arch": "x86_64", "agent": "0.1.0"},
        }  # fmt: skip
        return self.company.ask("POST", "/v1/enroll", body | changes)

    def headers(self, method: str, path: str, body: bytes) -> dict[str, str]:
        now = str(int(time.time()))
        text = f"{method}\n{path}\n{now}\n{hashlib.sha256(body).hexdigest()}"
        return {"Mamplus-Device": self.id, "Mamplus-Time": now, "Mamplus-Signature": self.sign(text.encode())}

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        data = b"" if body is None else json.dumps(body).encode()
        return self.company.ask(method, path, data, self.headers(method, path, data))

    def wait(self, generation: int, poll_s: int) -> Answer:
        return self.ask("GET", f"/v1/wait?generation={generation}&poll_s={poll_s}")

    def alert(self, **fields: Any) -> dict[str, Any]:
        """Return the next alert, signed; about a hash of its own unless `fields` say otherwise."""
        self.seq += 1
        value = hashlib.sha256(os.urandom(8)).hexdigest()
        body = {
            "device": self.id, "seq": self.seq, "id": f"{self.id[:16].upper()}{self.seq:010d}", "kind": "exec",
            "finding": "suspected", "severity": 4, "at": time.time(), "boot_ns": 1, "generation": 1, "rule": "dropper",
            "summary": "a new program speaks to the network", "indicator": {"kind": "sha256", "value": value},
            "evidence": {}, "actions": [{"action": "freeze", "state": "done", "detail": ""}],
        }  # fmt: skip
        return self.seal(body | fields)

    def seal(self, body: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(body)
        return {"seq": body["seq"], "body": text, "signature": self.sign(text.encode())}

    def send(self, *alerts: dict[str, Any]) -> Answer:
        return self.ask("POST", "/v1/alerts", {"alerts": list(alerts)})

    def sent(self, **fields: Any) -> str:
        """Send one alert; return its id."""
        alert = self.alert(**fields)
        assert self.send(alert).body == {"acknowledged": [alert["seq"]]}
        return str(json.loads(alert["body"])["id"])
