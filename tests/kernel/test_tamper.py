# SPDX-License-Identifier: Apache-2.0
"""What is done to the agent, its responder, and what they have in the kernel is noticed, told, and put back."""

import ctypes
import errno
import fcntl
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mamplus_host.kernel._native import lib

from mamplus_host.ble.entry import Kind
from mamplus_host.config import Config
from mamplus_host.control import client
from mamplus_host.errors import AgentUnreachable
from mamplus_host.executor.network.netfilter import HELPER_S
from mamplus_host.kernel import layout, pins
from mamplus_host.kernel.bpf import Fd, Map
from mamplus_host.tamper.pins import Pins
from mamplus_host.verdicts import Verdict
from story.stage import wait_for

from .conftest import Agent, Started

pytestmark = pytest.mark.kernel
LISTED = "127.66.0.1"
TICKS_S = 40.0  # of many looks: the machine may be busy
PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17


# --- pins, links, maps: in the hands of the test ---------------------------------------------------


@pytest.fixture
def held(agent: Agent) -> Iterator[Pins]:
    """What an agent holds of its pins, with one listed address."""
    agent.publish((Kind.IP, LISTED, Verdict.BLOCK))
    made = Pins(agent.config, agent.kernel.directory, agent.cgroup)
    assert made.look() == []
    yield made
    made.close()


def connect(agent: Agent) -> int:
    return agent.run(agent.programs / "talk", "tcp", LISTED, "9")


def test_a_pin_that_is_removed_or_replaced_is_put_back(agent: Agent, held: Pins) -> None:
    directory = agent.kernel.directory
    (directory / "active").unlink()
    link = pins.link_pin(directory, "mamplus_exec")
    link.unlink()
    with Fd.open(directory / "posture") as other:
        other.pin(link)

    found = held.look()

    assert {(one.op, one.is_put_back) for one in found} == {("pin", True)}
    assert {one.detail for one in found} == {
        "the pin 'active' was removed",
        "the pin 'link_mamplus_exec' was replaced",
    }
    assert held.look() == []
    assert pins.is_complete(directory)


def test_a_hook_that_is_detached_is_attached_again(agent: Agent, held: Pins) -> None:
    with Fd.open(pins.link_pin(agent.kernel.directory, "mamplus_connect4")) as link:
        assert lib.mamplus_link_detach(link.number) == 0
    assert connect(agent) == errno.ECONNREFUSED

    found = held.look()

    assert [(one.op, one.detail, one.is_put_back) for one in found] == [
        ("link", "the hook 'mamplus_connect4' was detached", True)
    ]
    assert connect(agent) == errno.EPERM
    assert held.look() == []


def test_everything_unpinned_at_once_stays_enforced_and_is_pinned_again(agent: Agent, held: Pins) -> None:
    directory = agent.kernel.directory
    for path in sorted(directory.iterdir(), key=lambda path: not path.name.startswith("link_")):
        path.unlink()
    directory.rmdir()
    assert connect(agent) == errno.EPERM

    found = held.look()

    assert found[0].op == "mount"
    assert all(one.is_put_back for one in found)
    assert pins.is_complete(directory)
    assert connect(agent) == errno.EPERM


def change_active(agent: Agent) -> None:
    Map.pinned(agent.kernel.directory / "active", 4, 8).set(bytes(4), bytes(8))


def change_posture(agent: Agent) -> None:
    path = agent.kernel.directory / "posture"
    Map.pinned(path, 4, layout.POSTURE.size).set(
        bytes(4), (1).to_bytes(4, sys.byteorder) + bytes(layout.POSTURE.size - 4)
    )


def change_guard(agent: Agent) -> None:
    address = bytes(10) + b"\xff\xff" + bytes((127, 66, 0, 1))
    Map.pinned(agent.kernel.directory / "guard", layout.GUARD_KEY.size, 4).set(address + bytes(4), bytes(4))


def take_tables_out(agent: Agent) -> None:
    tables = Map.pinned(agent.kernel.directory / "ble", 4, 4)
    for key in list(tables.keys()):
        tables.remove(key)


@pytest.mark.parametrize(
    ("change", "name"),
    [(change_active, "active"), (change_posture, "posture"), (change_guard, "guard"), (take_tables_out, "ble")],
)
def test_a_map_that_somebody_else_changed_is_written_again(
    agent: Agent, change: Callable[[Agent], None], name: str
) -> None:
    agent.publish((Kind.IP, LISTED, Verdict.BLOCK))
    agent.kernel.tables.set_guard([("127.66.0.9", 0)])
    assert agent.kernel.tables.restore() == []
    change(agent)
    assert connect(agent) == errno.ECONNREFUSED

    assert name in agent.kernel.tables.restore()

    assert connect(agent) == errno.EPERM
    assert agent.kernel.tables.restore() == []


# --- a whole agent, as a process -------------------------------------------------------------------


@dataclass
class Running:
    """An agent that runs in a cgroup of its own; its packets are read in a namespace of its own."""

    config: Config
    file: Path
    own: Path  # its cgroup
    netns: str
    process: Started | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        self.process = Started(
            [sys.executable, "-m", "mamplus_host.service", "--config", self.file], stdout=subprocess.PIPE,
            preexec_fn=lambda: (self.own / "cgroup.procs").write_text("0"),
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith(b"ready")

    def stop(self) -> None:
        if self.process is not None:
            (self.own / "cgroup.freeze").write_text("0")
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def ask(self, what: str) -> Any:
        return client.call(self.config.control_socket, what)

    def alerts(self) -> list[str]:
        """Return what was told of tampering, newest first."""
        try:
            return [alert["summary"] for alert in self.ask("alerts") if alert["rule"] == "tamper"]
        except AgentUnreachable:
            return []

    def await_alert(self, *words: str) -> str:
        def told() -> str:
            return next((alert for alert in self.alerts() if all(word in alert for word in words)), "")

        wait_for(f"an alert that says {words}", lambda: bool(told()), timeout_s=TICKS_S)
        return told()


@pytest.fixture
def running(configure: Callable[..., Config], tmp_path: Path) -> Iterator[Running]:
    tag = secrets.token_hex(4)
    netns = f"mptest-{tag}"
    config = configure(scope={"cgroup": str(configure().scope.cgroup), "netns": [netns]})
    own = Path(config.scope.cgroup).with_name(f"mamplus-own-{tag}")
    file = tmp_path / "agent.toml"
    file.write_text(
        f'[scope]\ncgroup = "{config.scope.cgroup}"\nnetns = ["{netns}"]\n'
        f"[agent]\nself_protection = false\n"
        f'[paths]\nstate = "{config.paths.state}"\nrun = "{config.paths.run}"\nbpffs = "{config.paths.bpffs}"\n'
    )
    own.mkdir()
    subprocess.run(["ip", "netns", "add", netns], check=True)
    made = Running(config, file, own, netns)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        (own / "cgroup.kill").write_text("1")
        subprocess.run(["ip", "netns", "del", netns], check=False)
        wait_for("the agent's cgroup to be empty", lambda: "populated 0" in (own / "cgroup.events").read_text())
        own.rmdir()


def test_who_killed_the_agent_is_told_by_the_next_one(running: Running) -> None:
    killed = running.pid
    os.kill(killed, signal.SIGKILL)
    assert running.process is not None
    running.process.wait()

    running.start()

    told = running.await_alert("SIGKILL", f"pid {killed}")
    assert f"pid {os.getpid()}" in told


def test_an_agent_that_is_stopped_is_woken_by_its_responder_and_tells(running: Running) -> None:
    os.kill(running.pid, signal.SIGSTOP)

    running.await_alert("SIGSTOP", f"pid {running.pid}")
    running.await_alert("woken by the responder")


def test_an_agent_that_was_frozen_finds_the_gap_itself(running: Running) -> None:
    (running.own / "cgroup.freeze").write_text("1")
    frozen = subprocess.run(["sleep", "16"], check=True)  # its responder lies in the same cgroup
    assert frozen.returncode == 0
    (running.own / "cgroup.freeze").write_text("0")

    running.await_alert("did not run for")


def test_a_stopped_responder_is_woken_and_told(running: Running) -> None:
    responder = int(running.ask("status")["responder"]["pid"])

    os.kill(responder, signal.SIGSTOP)

    running.await_alert("SIGSTOP", f"pid {responder}")
    wait_for(
        "the responder to run again",
        lambda: "State:\tT" not in Path(f"/proc/{responder}/status").read_text(),
        timeout_s=TICKS_S,
    )


def test_who_ends_the_keeper_is_told(running: Running) -> None:
    responder = int(running.ask("status")["responder"]["pid"])
    (keeper,) = map(int, Path(f"/proc/{responder}/task/{responder}/children").read_text().split())

    os.kill(keeper, signal.SIGKILL)

    told = running.await_alert("SIGKILL", f"pid {keeper}")
    assert f"pid {os.getpid()}" in told


def test_a_tracer_of_the_agent_is_told(running: Running) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.ptrace(PTRACE_SEIZE, running.pid, None, None) == 0
    try:
        running.await_alert("is traced by", f"pid {os.getpid()}")
    finally:
        os.kill(running.pid, signal.SIGSTOP)
        os.waitpid(running.pid, 0)
        libc.ptrace(PTRACE_DETACH, running.pid, None, None)
        os.kill(running.pid, signal.SIGCONT)


def test_an_agent_that_is_moved_or_given_to_the_oom_killer_goes_back(running: Running) -> None:
    before = Path(f"/proc/{running.pid}/oom_score_adj").read_text()
    (Path(running.config.scope.cgroup) / "cgroup.procs").write_text(str(running.pid))
    Path(f"/proc/{running.pid}/oom_score_adj").write_text("1000")

    running.await_alert("was moved from cgroup", "it is as it was")
    running.await_alert("oom_score_adj", "it is as it was")

    assert str(running.pid) in (running.own / "cgroup.procs").read_text().split()
    assert Path(f"/proc/{running.pid}/oom_score_adj").read_text() == before


def test_a_pin_that_became_a_directory_is_put_back(running: Running) -> None:
    pin = pins.link_pin(pins.directories(running.config)[0], "mamplus_connect4")
    pin.unlink()
    (pin / "below").mkdir(parents=True)

    running.await_alert("the pin 'link_mamplus_connect4' was replaced", "it is as it was")

    assert pin.is_file()
    assert [path.name for path in pin.parent.iterdir() if path.is_dir()] == []


def test_rules_that_somebody_flushed_are_put_back(running: Running) -> None:
    inside = ["nsenter", f"--net=/run/netns/{running.netns}", "iptables-legacy"]
    subprocess.run([*inside, "-F", "MAMPLUS-OUT"], check=True)

    running.await_alert("iptables rules were gone", "it is as it was")

    kept = subprocess.run([*inside, "-S", "MAMPLUS-OUT"], check=True, capture_output=True, text=True).stdout
    assert "--object-pinned" in kept


def test_who_holds_the_lock_of_iptables_holds_up_neither_the_start_nor_the_loop(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "xtables.lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(path))
    running.stop()
    slowest_s = 0.0

    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        begun = time.monotonic()
        running.start()
        assert time.monotonic() - begun < HELPER_S  # which one helper alone may take
        for _ in range(20):
            begun = time.monotonic()
            said = running.ask("status")["netfilter"]["rules"]
            slowest_s = max(slowest_s, time.monotonic() - begun)
            time.sleep(0.5)
            if f"held by process {os.getpid()}" in said:
                break
    assert "not answered" in said or f"held by process {os.getpid()}" in said
    assert slowest_s < 5.0

    wait_for("the rules", lambda: running.ask("status")["netfilter"]["rules"] == "kept", timeout_s=60)


def test_what_is_done_to_a_running_agents_pins_is_told_and_counted(running: Running) -> None:
    directory = pins.directories(running.config)[0]
    pins.link_pin(directory, "mamplus_connect4").unlink()

    running.await_alert("the pin 'link_mamplus_connect4' was removed", "it is as it was")

    assert running.ask("status")["tamper"] == {"pin": 1}
    assert any(event["kind"] == "tamper" for event in running.ask("events"))
