# SPDX-License-Identifier: Apache-2.0
"""The device's side against the real enterprise: enrol, escalate, confirm, update, in both directions."""

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from mamplus_host import config
from mamplus_host.ble.entry import Kind
from mamplus_host.ble.store import BleStore
from mamplus_host.ble.update import update
from mamplus_host.clock import SystemClock
from mamplus_host.errors import EnrollRefused
from mamplus_host.outbox.client import Client, Waited
from mamplus_host.outbox.enroll import enroll
from mamplus_host.outbox.identity import Identity
from mamplus_host.outbox.store import Outbox
from mamplus_host.uplink import Uplink
from mamplus_host.verdicts import Escalation, Finding, Indicator, Severity, Verdict

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "mamplus_enterprise.cli.main"]
WAIT_S = 20.0


class Enterprise:
    """A real one, in a directory of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: subprocess.Popen[str] | None = None
        self.run("init", str(folder), "--dev")
        self._listen = "127.0.0.1:0"

    def run(self, *words: str) -> str:
        chosen = [] if words[0] == "init" else ["--dir", str(self._folder)]
        done = subprocess.run([*COMMAND, *chosen, *words], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        """Serve; the second time, where it listened the first time."""
        command = [*COMMAND, "--dir", str(self._folder), "serve", "--listen", self._listen]
        self._server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        out: IO[str] | None = self._server.stdout
        assert out is not None
        ready = out.readline().split()
        assert ready[0] == "ready", ready
        self._listen = ready[1].removeprefix("https://")

    @property
    def url(self) -> str:
        return f"https://{self._listen}"

    def stop(self) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.communicate(timeout=WAIT_S)
            self._server = None

    def token(self) -> str:
        return self.run("token", "new").strip().splitlines()[-1]

    def alerts(self) -> list[dict[str, object]]:
        text = self.run("alerts", "--json").strip()
        found = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
        assert isinstance(found, list)
        return found


@pytest.fixture(scope="module")
def enterprise(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enterprise]:
    made = Enterprise(tmp_path_factory.mktemp("enterprise") / "office")
    made.start()
    yield made
    made.stop()


def escalation(alert_id: str, address: str) -> Escalation:
    return Escalation(
        id=alert_id, kind="connect", finding=Finding.SUSPECTED, severity=Severity.HIGH, at=1_700_000_000.0, boot_ns=1,
        generation=1, rule="rule", summary="summary", indicator=Indicator("ip", address), evidence={"text": "é"},
    )  # fmt: skip


def test_a_confirmed_alert_is_on_the_list_of_the_device_that_raised_it(enterprise: Enterprise, tmp_path: Path) -> None:
    state = tmp_path / "device"
    enroll("", enterprise.token(), state, "scanner")
    first = update(state)
    news: queue.SimpleQueue[int] = queue.SimpleQueue()
    outbox = Outbox(state / "outbox.sqlite", max_bytes=1 << 20)
    settings = config.Uplink(retry_min_s=0.1, retry_max_s=0.5)
    uplink = Uplink(
        Identity.load(state), outbox, settings, SystemClock(), enforced=first.generation, on_generation=news.put
    )
    uplink.start()
    try:
        enterprise.stop()  # an outage while two alerts are raised
        for number in (1, 2):
            outbox.put(escalation(f"alert-{number}", f"203.0.113.{number}"))
            uplink.notify()
        enterprise.start()
        raised = _until_stored(enterprise, outbox, 2)
        enterprise.run("alerts", "confirm", str(raised["203.0.113.2"]))

        assert news.get(timeout=WAIT_S) == first.generation + 1
        result = update(state)
        uplink.installed(result.generation)
    finally:
        uplink.stop()
        outbox.close()
    assert (result.new, result.entries) == (True, first.entries + 1)
    with BleStore(state).current() as current:  # type: ignore[union-attr]
        (entry,) = (entry for _layer, entry in current.entries() if entry.value == "203.0.113.2")
    assert (entry.kind, entry.verdict) == (Kind.IP, Verdict.BLOCK)


def _until_stored(enterprise: Enterprise, outbox: Outbox, count: int) -> dict[str, object]:
    """Return the enterprise's alert ids by indicator, once `count` alerts are acknowledged."""
    deadline = time.monotonic() + WAIT_S
    while outbox.counters().acknowledged < count and time.monotonic() < deadline:
        time.sleep(0.02)
    alerts = enterprise.alerts()
    assert len(alerts) == count
    found = {json.dumps(alert): alert["id"] for alert in alerts}
    return {f"203.0.113.{n}": next(i for text, i in found.items() if f"203.0.113.{n}" in text) for n in (1, 2)}


def test_an_order_reaches_a_device_that_waits_already_and_its_long_poll_does_not_end_first(
    enterprise: Enterprise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "device"
    enroll("", enterprise.token(), state, "waiting")
    asked, orders = threading.Semaphore(0), queue.SimpleQueue[tuple[str, ...]]()
    wait = Client.wait

    def told(self: Client, *words: int, **more: int) -> Waited:
        asked.release()
        return wait(self, *words, **more)

    monkeypatch.setattr(Client, "wait", told)
    outbox = Outbox(state / "outbox.sqlite", max_bytes=1 << 20)
    enforced = update(state).generation
    uplink = Uplink(
        Identity.load(state), outbox, config.Uplink(poll_s=50), SystemClock(), enforced=enforced,
        on_generation=lambda _generation: None, on_orders=orders.put,
    )  # fmt: skip
    uplink.start()
    try:
        assert asked.acquire(timeout=WAIT_S)
        issued = json.loads(enterprise.run("lock", "waiting", "--json"))
        assert orders.get(timeout=WAIT_S) == (issued["order"],)  # less than poll_s
    finally:
        uplink.stop()
        outbox.close()


def test_a_token_works_once(enterprise: Enterprise, tmp_path: Path) -> None:
    token = enterprise.token()
    enroll("", token, tmp_path / "first", "first")

    with pytest.raises(EnrollRefused, match="unknown, used or too old"):
        enroll("", token, tmp_path / "second", "second")


def test_a_carrier_of_the_enterprise_loads_on_its_device(enterprise: Enterprise, tmp_path: Path) -> None:
    state, carrier = tmp_path / "device", tmp_path / "stick"
    enroll("", enterprise.token(), state, "scanner")
    enterprise.run("ble", "add", "domain", "bad.example", "--verdict", "block")
    enterprise.run("ble", "publish")
    enterprise.run("ble", "export", str(carrier))

    result = update(state, source=str(carrier))
    assert result.new
    with BleStore(state).current() as current:  # type: ignore[union-attr]
        assert "bad.example" in [entry.value for _layer, entry in current.entries()]
    assert not update(state, source=str(carrier)).new
