# SPDX-License-Identifier: Apache-2.0
"""The uplink against a real HTTP server: once each, in order, through outages, refusals and a stop."""

import base64
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mamplus_host import config
from mamplus_host.clock import SystemClock
from mamplus_host.enterprise import Enterprise
from mamplus_host.outbox.identity import Identity
from mamplus_host.outbox.store import Outbox
from mamplus_host.uplink import Uplink
from mamplus_host.verdicts import Escalation, Finding, Severity
from story.stage import wait_for
from tests.journey.served import Request, Served, make_certificate, served

SETTINGS = config.Uplink(connect_timeout_s=2.0, poll_s=20, retry_min_s=0.02, retry_max_s=0.1)
WAIT_S = 60.0  # for what takes no time on a machine at rest


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def escalation(alert_id: str, severity: int = 3) -> Escalation:
    return Escalation(
        id=alert_id, kind="exec", finding=Finding.SUSPECTED, severity=Severity(severity), at=1.0, boot_ns=1,
        generation=1, rule="r", summary="s",
    )  # fmt: skip


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Office:
    """An enterprise: stores what it gets once, checks signatures, announces generations."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._public = key.public_key()
        self._changed = threading.Condition()
        self.generation = 0
        self.stored: list[str] = []  # alert ids, in the order of their arrival
        self.bodies: dict[int, list[str]] = {}  # every body that ever came, by number
        self.reports: list[dict[str, Any]] = []
        self.waits: list[int] = []
        self.status: int | None = None  # answer everything with it
        self.lose_answers = 0  # store, and go away without a word
        self.unfit: set[int] = set()
        self.largest = 100
        self.closed = threading.Event()

    def until(self, claim: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(claim, WAIT_S), f"not within {WAIT_S} s; stored {self.stored}"

    def publish(self, generation: int) -> None:
        with self._changed:
            self.generation = generation
            self._changed.notify_all()

    def __call__(self, request: Request) -> tuple[int, bytes] | None:
        self._check_signature(request)
        with self._changed:
            self._changed.notify_all()
            if self.status is not None:
                return self.status, b'{"detail": "no"}'
        path = urlsplit(request.path)
        if path.path == "/v1/wait":
            return self._wait(parse_qs(path.query))
        with self._changed:
            self._changed.notify_all()
            if path.path == "/v1/report":
                self.reports.append(json.loads(request.body))
                return 200, b"{}"
            assert path.path == "/v1/alerts"
            return self._alerts(json.loads(request.body)["alerts"])

    def _check_signature(self, request: Request) -> None:
        text = (
            f"{request.method}\n{request.path}\n{request.headers['Mamplus-Time']}\n{sha256(request.body).hexdigest()}"
        )
        self._public.verify(base64.b64decode(request.headers["Mamplus-Signature"]), text.encode())

    def _wait(self, query: dict[str, list[str]]) -> tuple[int, bytes]:
        enforced, poll_s = int(query["generation"][0]), float(query["poll_s"][0])
        with self._changed:
            self.waits.append(enforced)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.generation > enforced or self.closed.is_set(), poll_s)
            return 200, json.dumps({"generation": self.generation}).encode()

    def _alerts(self, alerts: list[dict[str, Any]]) -> tuple[int, bytes] | None:
        if len(alerts) > self.largest:
            return 413, b"{}"
        unfit = None
        for alert in alerts:
            self._public.verify(base64.b64decode(alert["signature"]), alert["body"].encode())
            bodies = self.bodies.setdefault(alert["seq"], [])
            bodies.append(alert["body"])
            if alert["seq"] in self.unfit:
                unfit = alert["seq"]
            elif len(bodies) == 1:
                self.stored.append(json.loads(alert["body"])["id"])
        if self.lose_answers > 0:
            self.lose_answers -= 1
            return None
        if unfit is not None:
            return 422, json.dumps({"detail": "unfit", "seq": unfit}).encode()
        return 200, json.dumps({"acknowledged": [alert["seq"] for alert in alerts]}).encode()


class Device:
    """An outbox with its uplink."""

    def __init__(self, folder: Path) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.office = Office(self.key)
        self.outbox = Outbox(folder / "outbox.sqlite", max_bytes=1 << 20)
        self.news: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._stack = ExitStack()
        self._stack.callback(self.outbox.close)

    def put(self, *names: str, severity: int = 3) -> None:
        for name in names:
            self.outbox.put(escalation(name, severity))

    def connect(
        self, url: str, fingerprint: str = "", *, enforced: int = 0, settings: config.Uplink = SETTINGS
    ) -> Uplink:
        member = Enterprise(url, fingerprint, "e", "d" * 64, 0)
        uplink = Uplink(
            Identity(_pem(self.key), member), self.outbox, settings, SystemClock(),
            enforced=enforced, on_generation=self.news.put,
        )  # fmt: skip
        self._stack.callback(uplink.stop)
        uplink.start()
        return uplink

    @contextmanager
    def serving(self, certificate: Path | None = None, port: int = 0) -> Iterator[Served]:
        self.office.closed.clear()
        with served(self.office, certificate=certificate, port=port) as server:
            try:
                yield server
            finally:
                self.office.closed.set()
                self.office.publish(self.office.generation)

    def until_sent(self) -> None:
        until(lambda: self.outbox.counters().queued == 0)

    def close(self) -> None:
        self._stack.close()


def until(claim: Callable[[], bool]) -> None:
    """Wait for what another thread does without telling."""
    wait_for("the other thread", claim, timeout_s=WAIT_S)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path)
    yield made
    made.close()


def test_alerts_arrive_once_each_the_most_severe_first(device: Device, certificate: Path) -> None:
    device.put("a", "b", severity=2)
    device.put("c", severity=5)
    with device.serving(certificate) as server:
        uplink = device.connect(server.url, server.fingerprint)
        device.until_sent()
        device.put("d")
        uplink.notify()
        device.office.until(lambda: len(device.office.stored) == 4)

        assert device.office.stored == ["c", "a", "b", "d"]
        assert server.connections == 2  # one to wait, one to send
        uplink.stop()


def test_a_connection_that_was_closed_while_idle_is_made_anew_without_a_word(
    device: Device, certificate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device.put("a")
    with device.serving(certificate) as server:
        uplink = device.connect(server.url, server.fingerprint)
        device.until_sent()
        server.hang_up()
        time.sleep(0.2)  # the end arrives: nobody reads from an idle connection
        device.put("b")
        uplink.notify()
        device.until_sent()

        assert device.office.stored == ["a", "b"]
        assert [record.message for record in caplog.records if "uplink (send)" in record.message] == []
        uplink.stop()


def test_a_generation_is_logged_once_however_often_it_is_announced(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with device.serving() as server:
        uplink = device.connect(server.url)
        device.office.publish(7)
        assert [device.news.get(timeout=WAIT_S) for _ in range(2)] == [7, 7]
        uplink.stop()

    assert [record.message for record in caplog.records].count("generation 7 exists, 0 is enforced") == 1


def test_after_an_outage_everything_arrives_once_and_in_order(device: Device) -> None:
    with device.serving() as server:
        uplink = device.connect(server.url)
        device.office.until(lambda: len(device.office.waits) >= 1)
        until(lambda: uplink.status()["queued"] == 0)
        port = int(server.url.rpartition(":")[2])
    device.put("a", "b")
    uplink.notify()
    until(lambda: uplink.status()["state"] == "unreachable")
    device.put("c", severity=5)
    uplink.notify()
    status = uplink.status()
    assert (status["connected"], status["queued"]) == (False, 3)
    assert "does not answer" in status["last_error"]
    with device.serving(port=port):
        device.until_sent()
        until(lambda: uplink.status()["connected"])

        assert device.office.stored == ["c", "a", "b"]
        assert uplink.status()["last_error"] == ""
        uplink.stop()


def test_an_answer_that_is_lost_makes_a_retry_with_the_same_bytes(device: Device) -> None:
    device.put("a", "b")
    device.office.lose_answers = 2
    with device.serving() as server:
        uplink = device.connect(server.url)
        device.until_sent()

        assert device.office.stored == ["a", "b"]
        assert [len(bodies) for bodies in device.office.bodies.values()] == [3, 3]
        assert all(len(set(bodies)) == 1 for bodies in device.office.bodies.values())
        uplink.stop()


def test_a_record_that_is_refused_does_not_hold_up_the_others(device: Device) -> None:
    device.put("a", "b", "c")
    device.office.unfit = {2}
    with device.serving() as server:
        uplink = device.connect(server.url)
        device.until_sent()
        uplink.stop()

    assert device.office.stored == ["a", "c"]
    counters = device.outbox.counters()
    assert (counters.acknowledged, counters.refused) == (2, 1)
    assert device.outbox.state_of("b") == "refused"


def test_a_request_that_is_too_large_is_halved(device: Device) -> None:
    device.put(*(str(number) for number in range(10)))
    device.office.largest = 3
    with device.serving() as server:
        uplink = device.connect(server.url)
        device.until_sent()
        uplink.stop()

    assert device.office.stored == [str(number) for number in range(10)]


def test_an_answer_that_acknowledges_nothing_does_not_make_a_busy_loop(device: Device) -> None:
    device.put("a")
    asked = threading.Semaphore(0)

    def answer(request: Request) -> tuple[int, bytes]:
        if request.path.startswith("/v1/wait"):
            return 200, b'{"generation": 0}'
        asked.release()
        return 200, b'{"acknowledged": []}'

    with served(answer) as server:
        uplink = device.connect(server.url, settings=config.Uplink(retry_min_s=5, retry_max_s=5))
        assert asked.acquire(timeout=WAIT_S)
        until(lambda: "acknowledges none" in uplink.status()["last_error"])
        assert not asked.acquire(timeout=0.3)
        uplink.stop()


def test_a_generation_is_announced_as_soon_as_it_exists_and_reported_when_installed(device: Device) -> None:
    with device.serving() as server:
        uplink = device.connect(server.url, enforced=3)
        device.office.until(lambda: device.office.waits == [3])
        began = time.monotonic()
        device.office.publish(4)
        assert device.news.get(timeout=WAIT_S) == 4
        assert time.monotonic() - began < 1
        uplink.installed(4, losses={"events": 2}, controls={"exec": "lsm"})
        device.office.until(lambda: device.office.waits == [3, 4] and len(device.office.reports) == 1)
        uplink.stop()

    report = device.office.reports[0]
    assert (report["generation"], report["losses"], report["controls"]) == (4, {"events": 2}, {"exec": "lsm"})


def test_a_generation_that_the_service_cannot_install_is_announced_again_but_not_in_a_loop(device: Device) -> None:
    with device.serving() as server:
        uplink = device.connect(server.url)
        began = time.monotonic()
        device.office.publish(1)
        assert [device.news.get(timeout=WAIT_S) for _ in range(3)] == [1, 1, 1]
        assert time.monotonic() - began >= 2
        uplink.stop()


def test_a_number_below_the_known_one_is_announced_until_the_service_has_looked_and_again_when_it_moves(
    device: Device,
) -> None:
    """A stolen layer key may have driven the known number up: what is published after it is news all the same."""
    device.office.publish(12)
    with device.serving() as server:
        uplink = device.connect(server.url, enforced=1 << 62, settings=msgspec.structs.replace(SETTINGS, poll_s=1))
        assert [device.news.get(timeout=WAIT_S) for _ in range(2)] == [12, 12]
        uplink.knows(1 << 62)
        waits = len(device.office.waits)
        device.office.until(lambda: len(device.office.waits) >= waits + 3)
        while not device.news.empty():  # those of before the service had looked
            assert device.news.get() == 12
        device.office.publish(13)
        assert device.news.get(timeout=WAIT_S) == 13
        uplink.stop()


def test_an_enterprise_that_answers_at_once_is_not_asked_more_than_once_a_second(device: Device) -> None:
    with served(lambda _: (200, b'{"generation": 0}')) as server:
        began = time.monotonic()
        uplink = device.connect(server.url)
        until(lambda: len(server.requests) >= 3)
        assert time.monotonic() - began >= 2
        uplink.stop()


def test_the_idle_uplink_is_one_request(device: Device) -> None:
    with device.serving() as server:
        uplink = device.connect(server.url)
        device.office.until(lambda: len(device.office.waits) == 1)
        time.sleep(0.5)
        assert len(server.requests) == 1
        uplink.stop()


def test_a_wrong_certificate_is_told_and_nothing_is_sent(device: Device, certificate: Path) -> None:
    device.put("a")
    with device.serving(certificate) as server:
        uplink = device.connect(server.url, "ab" * 32)
        until(lambda: uplink.status()["state"] == "wrong-certificate")
        assert server.requests == []
        uplink.stop()
    assert device.outbox.counters().queued == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_device_that_was_removed_does_not_hammer(device: Device, status: int) -> None:
    device.put("a")
    device.office.status = status
    with device.serving() as server:
        uplink = device.connect(server.url, settings=config.Uplink(retry_min_s=0.01, retry_max_s=30))
        until(lambda: uplink.status()["state"] == "refused" and len(server.requests) == 2)
        time.sleep(0.5)
        assert len(server.requests) == 2  # one to wait, one to send
        assert f"status {status}" in uplink.status()["last_error"]
        uplink.stop()


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"generation": "x"}', b"\xff" * 1000, b" " * 300_000], ids=len)
def test_an_answer_that_is_not_as_agreed_is_an_error_and_not_the_end(device: Device, answer: bytes) -> None:
    device.put("a")
    with served(lambda _: (200, answer)) as server:
        uplink = device.connect(server.url)
        until(lambda: len(server.requests) >= 6)
        assert uplink.status()["state"] == "unreachable"
        assert uplink.is_alive()
        uplink.stop()
    assert device.outbox.counters().queued == 1


def test_stop_ends_an_open_long_poll_within_a_second(device: Device, certificate: Path) -> None:
    with device.serving(certificate) as server:
        uplink = device.connect(server.url, server.fingerprint)
        device.office.until(lambda: len(device.office.waits) == 1)
        began = time.monotonic()
        uplink.stop()
        assert time.monotonic() - began < 1
        assert not uplink.is_alive()


def test_stop_ends_a_connection_that_is_being_made_and_a_pause(device: Device) -> None:
    """A listener that accepts nobody: the TLS handshake waits for an answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        uplink = device.connect(f"https://127.0.0.1:{port}", "ab" * 32, settings=config.Uplink(connect_timeout_s=30))
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(1) == b"\x16"  # the client's hello has begun
            began = time.monotonic()
            uplink.stop()
            assert time.monotonic() - began < 1
            assert not uplink.is_alive()


def test_a_full_disk_keeps_no_alert_here_and_does_not_end_the_uplink(device: Device) -> None:
    with device.serving() as server:
        uplink = device.connect(server.url)
        device.office.until(lambda: len(device.office.waits) == 1)
        device.put("a")
        device.outbox._database.execute("PRAGMA query_only = ON")  # every write fails, as on a full disk
        uplink.notify()
        device.office.until(lambda: len(device.office.bodies.get(1, [])) >= 3)  # sent, and cannot be forgotten here
        assert "what is queued stays" in uplink.status()["last_error"]
        device.outbox._database.execute("PRAGMA query_only = OFF")
        device.until_sent()
        assert device.office.stored == ["a"]
        uplink.stop()
