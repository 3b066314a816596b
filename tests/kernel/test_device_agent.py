# SPDX-License-Identifier: Apache-2.0
"""What a person has a running agent do to the device, and undo: by the commands, as people type them."""

import errno
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mamplus_host.config import Config, cgroup_dir
from tests.journey.repository import entries
from tests.journey.test_layers import Company, install
from tests.journey.test_uplink_enterprise import Enterprise
from tests.kernel.buses import Login, wait_for

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]  # each command is a program that starts
BIN = Path(sys.executable).parent
NOTING = """
import sys
from mamplus_host import service
from mamplus_host.executor.execute import Executor
from mamplus_host.kernel.tables import Tables
from mamplus_host.pipeline import Pipeline
def note(kind, name):
    plain = getattr(kind, name)
    def noted(*arguments, **more):
        print(name, flush=True)
        return plain(*arguments, **more)
    setattr(kind, name, noted)
note(Tables, "load"), note(Executor, "recover"), note(Pipeline, "use")
sys.exit(service.main())
"""
DEADLINE_S = 60
ELSEWHERE = "192.0.2.1"  # kept for documentation
_CODE = 100  # that an exit code is greater than the errno it tells: Python has codes of its own


class Running:
    """An agent as a process of its own, and commands for it."""

    def __init__(self, config: Config, file: Path, netns: str = "") -> None:
        self.config, self._file, self._netns = config, file, netns

    def start(self, *program: str) -> list[str]:
        """Start the agent, or a Python `program` that becomes it; return what that printed until it was ready."""
        words = program or ("-m", "mamplus_host.service")
        command: list[str | Path] = [sys.executable, *words, "--config", self._file]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        said = list[str]()
        while not (line := self._process.stdout.readline()).startswith("ready"):
            assert line
            said.append(line.strip())
        return said

    def stop(self, *, by_power_cut: bool = False) -> None:
        self._process.kill() if by_power_cut else self._process.terminate()
        self._process.wait(DEADLINE_S)
        assert self._process.stdout
        self._process.stdout.close()

    def attempt(self, *words: str | Path, user: int = 0) -> "subprocess.CompletedProcess[str]":
        command = [BIN / "mamplus", *words, "--config", self._file]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE_S, check=False, user=user or None,
            extra_groups=[] if user else None, cwd="/",
        )  # fmt: skip

    def run(self, *words: str | Path) -> str:
        done = self.attempt(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def act(self, *words: str | Path) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.run(*words, "--json"))
        return said

    def connect(self, address: str) -> int:
        """Try to connect from within the scope, in a namespace from which nothing leads anywhere; return the errno."""
        line = f"import socket; exit({_CODE} + socket.socket().connect_ex(('{address}', 9)))"
        enter = f'echo $$ >"{cgroup_dir(self.config)}/cgroup.procs"; exec "$@"'
        inside = ["sh", "-ec", enter, "sh", "ip", "netns", "exec", self._netns, sys.executable, "-c", line]
        return subprocess.run(inside, check=False, timeout=DEADLINE_S).returncode - _CODE

    def verified(self, name: str) -> str:
        return str(json.loads(self.run("actions", "verify", name, "--json"))["seen"])


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Login]:
    made = Login(tmp_path)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", made.address)
    yield made
    made.close()


@pytest.fixture
def running(configure: Callable[..., Config], tmp_path: Path, login: Login) -> Iterator[Running]:
    config, netns = configure(), f"mptest-{secrets.token_hex(3)}"
    run = Path(f"/run/mptest-{secrets.token_hex(3)}")
    file, work = run / "agent.toml", tmp_path / "work"
    (work / "deep").mkdir(parents=True)
    run.mkdir(mode=0o755)
    file.write_text(
        f'[scope]\ncgroup = "{config.scope.cgroup}"\nnetns = ["{netns}"]\n[agent]\nself_protection = false\n'
        f'[paths]\nstate = "{config.paths.state}"\nrun = "{run}/run"\nbpffs = "{config.paths.bpffs}"\n'
        f'[container]\npaths = ["{work}"]\n'
    )
    subprocess.run(["ip", "netns", "add", netns], check=True)
    made = Running(config, file, netns)
    login.sit_down("1", 1000, "ada")
    made.start()
    yield made
    made.stop()
    subprocess.run(["ip", "netns", "delete", netns], check=True)
    subprocess.run(["rm", "-r", run], check=True)


def test_a_file_goes_into_quarantine_and_comes_back(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "tool"
    path.write_bytes(b"payload")
    done = running.act("quarantine", "add", path)
    assert not path.exists()
    assert running.verified(done["id"]) == "done"
    (listed,) = [json.loads(line) for line in running.run("quarantine", "list", "--json").splitlines()]
    assert (listed["path"], listed["id"]) == (str(path), done["id"])

    running.run("quarantine", "restore", listed["id"])

    assert path.read_bytes() == b"payload"
    assert running.run("quarantine", "list") == "Nothing is in quarantine.\n"


def test_a_quarantined_file_stays_so_when_the_agent_dies_and_can_still_be_undone(
    running: Running, tmp_path: Path
) -> None:
    path = tmp_path / "tool"
    path.write_bytes(b"payload")
    done = running.act("quarantine", "add", path)
    running.stop(by_power_cut=True)
    running.start()
    assert not path.exists()
    running.run("undo", done["undo"])
    assert path.read_bytes() == b"payload"


def test_the_list_is_in_the_tables_before_what_was_interrupted_is_finished_and_asked_about_it_after(
    running: Running, tmp_path: Path
) -> None:
    running.stop()
    install(running.config.state, Company(tmp_path).list(entries(3)))

    said = running.start("-c", NOTING)

    assert said == ["load", "recover", "use"]


def test_screens_are_locked_and_it_says_that_only_the_password_opens_them(running: Running, login: Login) -> None:
    done = running.act("lock")
    assert login.is_locked("1")
    assert done["undo"] == ""
    assert running.attempt("undo", done["alert"]).returncode == 1


def test_what_fails_says_why_and_exits_1(running: Running, tmp_path: Path) -> None:
    for words, why in (
        (("quarantine", "add", tmp_path / "missing"), "cannot quarantine"),
        (("mount", "/", "read-only"), "not touched"),
        (("usb", "off", "99-9"), "no USB device"),
        (("evidence", "take", "--pid", "1"), "no key of the enterprise"),
        (("lock", "--container"), "no professional container"),
    ):
        done = running.attempt(*words)
        assert (done.returncode, why in done.stderr) == (1, True), done.stderr
    assert running.attempt("radio", "off", "--for", "long").returncode == 2
    assert running.attempt("wipe", "-").returncode == 2


def test_all_but_the_enterprise_is_refused_for_a_time_also_after_the_agent_was_killed_and_let_through_again(
    running: Running,
) -> None:
    assert "time limit" in running.attempt("refuse", "--all").stderr
    assert running.connect(ELSEWHERE) == errno.ENETUNREACH
    done = running.act("refuse", "--all", "--for", "1h")
    assert running.verified(done["id"]) == "done"
    assert running.connect(ELSEWHERE) == errno.EPERM
    assert running.connect("127.0.0.1") != errno.EPERM

    running.stop(by_power_cut=True)
    assert running.connect(ELSEWHERE) == errno.EPERM
    running.start()
    assert running.connect(ELSEWHERE) == errno.EPERM
    (listed,) = [json.loads(line) for line in running.run("actions", "--json").splitlines()]
    assert (listed["id"], 0 < listed["left_s"] <= 3600) == (done["id"], True)

    running.run("undo", done["undo"])

    assert running.connect(ELSEWHERE) == errno.ENETUNREACH
    assert running.run("actions", "--json") == ""


def test_without_an_order_nothing_is_wiped(running: Running, tmp_path: Path) -> None:
    (tmp_path / "work" / "deep" / "plan").write_bytes(b"secret")
    (tmp_path / "order").write_text("wipe it")
    done = running.attempt("wipe", tmp_path / "order", "--yes")
    assert done.returncode == 1
    assert "no order" in done.stderr
    assert (tmp_path / "work" / "deep" / "plan").exists()


def test_a_user_without_rights_asks_and_the_enterprise_gets_it(running: Running, tmp_path: Path) -> None:
    alert = running.act("quarantine", "add", _file(tmp_path))["alert"]
    assert running.attempt("status", user=65534).returncode == 1, "the control socket is open to all"

    refused = running.attempt("ask", "01JDNOSUCHALERT", "please", user=65534)

    assert refused.returncode == 1
    assert "no alert" in refused.stderr
    assert alert


@pytest.fixture
def enterprise(running: Running, tmp_path: Path) -> Iterator[Enterprise]:
    """A real one that this device belongs to."""
    made = Enterprise(tmp_path / "office")
    made.start()
    try:
        running.run("enroll", made.url, "--token", made.token(), "--name", "scanner")
        yield made
    finally:
        made.stop()


def test_what_the_enterprise_orders_over_the_network_is_done_and_its_receipt_arrives(
    enterprise: Enterprise, login: Login, tmp_path: Path
) -> None:
    (tmp_path / "work" / "deep" / "plan").write_bytes(b"secret")

    def answered() -> list[dict[str, Any]]:
        found = json.loads(enterprise.run("orders", "--json"))
        return [one for one in found if one["state"] != "waiting"]

    enterprise.run("lock", "scanner", "--reason", "left on a train")
    wait_for(lambda: len(answered()) == 1)
    assert login.is_locked("1")

    enterprise.run("wipe", "scanner", "--yes", "--send")
    wait_for(lambda: len(answered()) == 2)
    assert list((tmp_path / "work").iterdir()) == []

    wiped, locked = answered()
    assert [(one["what"], one["state"]) for one in (wiped, locked)] == [("wipe", "done"), ("lock", "done")]
    assert {json.loads(one["receipt"])["device"] for one in (wiped, locked)} == {wiped["device"]}
    assert {"wipe", "order"} <= {str(alert["kind"]) for alert in enterprise.alerts()}


def test_what_cannot_be_done_by_order_is_told_with_its_reason(enterprise: Enterprise) -> None:
    enterprise.run("lock", "scanner", "--container")

    def failed() -> list[str]:
        found = json.loads(enterprise.run("orders", "--json"))
        return [one["detail"] for one in found if one["state"] == "failed"]

    wait_for(failed)
    assert "no professional container" in failed()[0]


def test_what_a_person_asks_reaches_the_enterprise(running: Running, enterprise: Enterprise, tmp_path: Path) -> None:
    path = _file(tmp_path)
    running.run("protect", path)
    path.write_bytes(b"changed")
    wait_for(lambda: running.run("alerts", "--json"))
    alert = json.loads(running.run("alerts", "--json").splitlines()[0])["id"]

    said = running.attempt("ask", alert, "I need it for the stock-taking", user=65534)

    assert said.returncode == 0, said.stderr
    wait_for(lambda: any(one["kind"] == "ask" for one in enterprise.alerts()))
    (asked,) = [one for one in enterprise.alerts() if one["kind"] == "ask"]
    assert "user 65534 asks" in str(asked["summary"])
    assert "stock-taking" in str(asked["summary"])


def _file(directory: Path) -> Path:
    path = directory / "tool"
    path.write_bytes(os.urandom(16))
    return path
