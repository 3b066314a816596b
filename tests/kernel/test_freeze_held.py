# SPDX-License-Identifier: Apache-2.0
"""The executor on held programs: journalled, answered by the list, by time, and by a new agent."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mamplus_host.clock import SystemClock
from mamplus_host.config import Agent as AgentConfig
from mamplus_host.config import Config, Limits, SuspicionPolicy
from mamplus_host.errors import ActionFailed
from mamplus_host.events import Exec, File, Head
from mamplus_host.executor.evidence.picture import collect
from mamplus_host.executor.execute import Executor
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.inforce import InForceStore
from mamplus_host.executor.journal import Journal, verify
from mamplus_host.executor.plan import plan
from mamplus_host.executor.processes.process import HOLD_PREFIX
from mamplus_host.executor.processes.tasks import boot_id as boot
from mamplus_host.executor.vault.vault import Vault
from mamplus_host.verdicts import ActionKind, Decision, Finding, Indicator, Verdict
from tests.journey.acting import carry_out
from tests.kernel import acts

pytestmark = pytest.mark.kernel

BAD = Indicator("sha256", "ab" * 32)
SUSPECT_ID = "01SUSPECT" + "0" * 17


class Clock(SystemClock):
    """The real clock, which can be moved forward."""

    ahead_s = 0

    def boot_ns(self) -> int:
        return super().boot_ns() + self.ahead_s * 10**9


class Agent:
    """Journal, vault and executor on one state directory, as the service joins them."""

    def __init__(self, config: Config) -> None:
        self.config, self.clock = config, Clock()
        self.open()

    def open(self) -> None:
        config = self.config
        self.journal = Journal(config.state / "journal", max_bytes=config.limits.journal_bytes, clock=self.clock)
        self.vault = Vault(config.state / "vault", limits=config.limits, clock=self.clock)
        self.executor = Executor(
            config, journal=self.journal, vault=self.vault, clock=self.clock, guarded=GuardSet.of_pids({os.getpid()})
        )

    def treat(self, pid: int, finding: Finding, decision_id: str = SUSPECT_ID) -> list[tuple[str, str]]:
        decision = decided(pid, finding, decision_id)
        outcomes = carry_out(self.executor, decision, plan(decision, self.config))
        return [(outcome.action.value, outcome.state) for outcome in outcomes]

    def close(self) -> None:
        self.journal.close()
        self.vault.close()


def decided(pid: int, finding: Finding, decision_id: str, ino: int = 1) -> Decision:
    head = Head(boot_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME), cgroup_id=1, generation=1, tgid=pid, ppid=1, uid=0,
                slot=0, flags=0, verdict=Verdict.SUSPECT, comm="x")  # fmt: skip
    event = Exec(head=head, file=File(dev=1, ino=ino, size=1, ctime_s=1, ctime_ns=1), sha256=BAD.value, path="/x")
    return Decision(id=decision_id, finding=finding, event=event, rule="ble", reason="", indicator=BAD)


@pytest.fixture
def scope() -> Iterator[Path]:
    with acts.own_cgroup() as path:
        yield path


@pytest.fixture
def agent(scope: Path, tmp_path: Path) -> Iterator[Agent]:
    one = Agent(acts.config_for(tmp_path / "state", scope, limits=Limits()))
    yield one
    one.close()


def test_a_suspect_is_held_until_the_list_says_allow(agent: Agent, scope: Path, tmp_path: Path) -> None:
    with acts.counting(tmp_path, scope) as suspect:
        assert agent.treat(suspect.pid, Finding.SUSPECTED) == [("freeze", "done")]
        assert suspect.stands_still()

        assert agent.executor.resolve_held(lambda _: Verdict.SUSPECT) == []
        assert suspect.stands_still()

        outcomes = agent.executor.resolve_held({BAD: Verdict.ALLOW}.__getitem__)
        assert [(one.decision_id, one.action, one.state) for one in outcomes] == [
            (SUSPECT_ID, ActionKind.FREEZE, "undone")
        ]
        suspect.await_moving()
        assert agent.executor.held == []


def test_a_suspect_is_killed_when_the_list_says_block(agent: Agent, scope: Path, tmp_path: Path) -> None:
    with acts.counting(tmp_path, scope) as suspect:
        agent.treat(suspect.pid, Finding.SUSPECTED)

        outcomes = agent.executor.resolve_held({BAD: Verdict.BLOCK}.__getitem__)

        assert [(one.action, one.state) for one in outcomes] == [(ActionKind.KILL, "done")]
        assert suspect.program.process.wait(10) == -9
        assert not list(scope.glob(f"{HOLD_PREFIX}*"))
        with pytest.raises(ActionFailed, match="killed process cannot be brought back"):
            agent.executor.undo(SUSPECT_ID)


def test_undo_lets_a_held_program_go_on_and_only_once(agent: Agent, scope: Path, tmp_path: Path) -> None:
    with acts.counting(tmp_path, scope) as suspect:
        agent.treat(suspect.pid, Finding.SUSPECTED)

        outcomes = agent.executor.undo(SUSPECT_ID)

        assert [(one.action, one.state) for one in outcomes] == [(ActionKind.FREEZE, "undone")]
        suspect.await_moving()
        with pytest.raises(ActionFailed, match="undone before"):
            agent.executor.undo(SUSPECT_ID)


def test_a_running_confirmed_program_is_killed_and_that_has_no_inverse(
    agent: Agent, scope: Path, tmp_path: Path
) -> None:
    with acts.counting(tmp_path, scope) as bad:
        assert agent.treat(bad.pid, Finding.CONFIRMED) == [("kill", "done")]
        assert bad.program.process.wait(10) == -9
    with pytest.raises(ActionFailed, match="killed process cannot be brought back"):
        agent.executor.undo(SUSPECT_ID)
    with pytest.raises(ActionFailed, match="nothing is known"):
        agent.executor.undo("01UNKNOWN")


@pytest.mark.parametrize(("on_deadline", "ends"), [("release", False), ("kill", True)])
def test_when_nobody_answers_in_time_the_declared_answer_is_given(
    scope: Path, tmp_path: Path, on_deadline: str, ends: bool
) -> None:
    policy = SuspicionPolicy(deadline_s=100, on_deadline="kill" if on_deadline == "kill" else "release")
    agent = Agent(acts.config_for(tmp_path / "state", scope, suspicion=policy))
    with acts.counting(tmp_path, scope) as suspect:
        agent.treat(suspect.pid, Finding.SUSPECTED)
        agent.clock.ahead_s = 90
        assert agent.executor.expire() == []
        assert suspect.stands_still()

        agent.clock.ahead_s = 101
        outcomes = agent.executor.expire()

        assert [one.state for one in outcomes] == ["done" if ends else "undone"]
        if ends:
            assert suspect.program.process.wait(10) == -9
        else:
            suspect.await_moving()
    agent.close()


def test_a_full_disk_keeps_no_deadline_from_being_answered_and_nothing_is_ended_at_every_tick(
    scope: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = SuspicionPolicy(deadline_s=100, on_deadline="kill")
    agent = Agent(acts.config_for(tmp_path / "state", scope, suspicion=policy))
    for name in "12":
        (tmp_path / name).mkdir()
    with acts.counting(tmp_path / "1", scope) as first, acts.counting(tmp_path / "2", scope) as second:
        for suspect in (first, second):
            agent.treat(suspect.pid, Finding.SUSPECTED, f"{suspect.pid:026}")
        agent.clock.ahead_s = 101

        def full(_self: InForceStore, _ids: object) -> None:
            raise ActionFailed("no space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(InForceStore, "drop", full)
            assert [one.state for one in agent.executor.expire()] == ["done", "done"]
            assert agent.executor.expire() == []
        assert [one.program.process.wait(10) for one in (first, second)] == [-9, -9]

        agent.clock.ahead_s = 201
        agent.executor.expire()
        assert agent.executor.held == []
    agent.close()


def test_monitor_mode_touches_nothing_and_says_what_it_would_have_done(scope: Path, tmp_path: Path) -> None:
    agent = Agent(acts.config_for(tmp_path / "state", scope, agent=AgentConfig(mode="monitor")))
    with acts.counting(tmp_path, scope) as suspect:
        assert agent.treat(suspect.pid, Finding.SUSPECTED) == [("freeze", "dry-run")]
        assert agent.treat(suspect.pid, Finding.CONFIRMED) == [("kill", "dry-run")]
        suspect.await_moving()
    agent.close()


def test_an_agent_that_only_watches_by_now_lets_go_and_ends_nothing(scope: Path, tmp_path: Path) -> None:
    policy = SuspicionPolicy(deadline_s=100, on_deadline="kill")
    before = Agent(acts.config_for(tmp_path / "state", scope, suspicion=policy))
    with acts.counting(tmp_path, scope) as suspect:
        before.treat(suspect.pid, Finding.SUSPECTED)
        before.close()
        watching = Agent(msgspec.structs.replace(before.config, agent=AgentConfig(mode="monitor")))

        assert watching.executor.resolve_held({BAD: Verdict.BLOCK}.__getitem__) == []
        watching.clock.ahead_s = 101
        outcomes = watching.executor.expire()

        assert [(one.action, one.state) for one in outcomes] == [(ActionKind.FREEZE, "undone")]
        suspect.await_moving()
    watching.close()


def test_two_suspicions_of_one_app_hold_it_until_both_are_answered(agent: Agent, scope: Path, tmp_path: Path) -> None:
    second_id = "01SECOND" + "0" * 18
    with acts.counting(tmp_path, scope) as suspect:
        agent.treat(suspect.pid, Finding.SUSPECTED)
        agent.treat(suspect.pid, Finding.SUSPECTED, second_id)

        agent.executor.undo(SUSPECT_ID)
        assert suspect.stands_still()

        agent.executor.undo(second_id)
        suspect.await_moving()
        assert not list(scope.glob(f"{HOLD_PREFIX}*"))


def test_a_new_agent_finds_what_a_killed_one_held(agent: Agent, scope: Path, tmp_path: Path) -> None:
    with acts.counting(tmp_path, scope) as suspect:
        agent.treat(suspect.pid, Finding.SUSPECTED)
        agent.close()

        agent.open()
        assert [held.decision_id for held in agent.executor.held] == [SUSPECT_ID]
        assert suspect.stands_still()
        agent.executor.resolve_held({BAD: Verdict.ALLOW}.__getitem__)
        suspect.await_moving()


FREEZER = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, ".")
from mamplus_host.verdicts import Finding
from tests.kernel import acts
from tests.kernel.test_freeze_held import Agent
agent = Agent(acts.config_for(Path(sys.argv[1]), Path(sys.argv[2])))
print("ready", flush=True)
while True:
    for number in range(1000):
        agent.treat(int(sys.argv[3]), Finding.SUSPECTED, f"01K{number:023}")
        agent.executor.undo(f"01K{number:023}")
    agent.journal.append("note", "", {})
"""


def test_an_agent_killed_at_any_moment_leaves_nothing_that_the_next_one_cannot_let_go(
    scope: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with acts.counting(tmp_path, scope) as suspect:
        for round_number in range(6):
            freezer = subprocess.Popen(
                [sys.executable, "-c", FREEZER, str(state), str(scope), str(suspect.pid)], stdout=subprocess.PIPE
            )
            assert freezer.stdout is not None
            freezer.stdout.readline()
            time.sleep(0.01 + 0.007 * round_number)  # somewhere in the middle of its work
            os.kill(freezer.pid, signal.SIGKILL)
            freezer.stdout.close()
            freezer.wait()

            agent = Agent(acts.config_for(state, scope))
            agent.executor.recover()
            assert agent.journal.open_intents() == []
            agent.executor.resolve_held({BAD: Verdict.ALLOW}.__getitem__)
            suspect.await_moving()
            assert not list(scope.glob(f"{HOLD_PREFIX}*"))
            agent.close()
            assert verify(state / "journal") is None


def test_a_damaged_file_of_what_is_in_force_is_kept_aside_and_noted(agent: Agent) -> None:
    (agent.config.state / "actions.json").write_text("{ torn")
    agent.close()

    agent.open()

    assert (agent.config.state / "actions.json.damaged").read_text() == "{ torn"
    assert [record.data for record in agent.journal.records()] == [{"damaged": "actions.json"}]


def test_evidence_names_the_program_its_ancestors_sockets_and_file_as_plain_json(scope: Path) -> None:
    source = """
        import socket, sys, time
        listening = socket.create_server(("127.0.0.1", 0))
        print(listening.getsockname()[1], flush=True)
        time.sleep(60)
    """
    with acts.running(source, "argument\udcff", cgroup=scope) as program:
        port = int(program.line())
        ino = os.stat(sys.executable).st_ino
        evidence = collect(decided(program.pid, Finding.SUSPECTED, SUSPECT_ID, ino))

    msgspec.json.encode(evidence)
    me, parent = evidence["processes"][:2]
    assert (me["pid"], parent["pid"]) == (program.pid, os.getpid())
    assert me["cmdline"][-1] == "argument\\xff"
    assert me["exe"] == os.path.realpath(sys.executable)
    assert me["cgroup"].endswith(scope.name)
    local = f"127.0.0.1:{port}"
    listening = {"pid": program.pid, "proto": "tcp", "local": local, "remote": "0.0.0.0:0", "state": "listen"}
    assert listening in evidence["sockets"]
    assert evidence["file"]["size"] == os.stat(sys.executable).st_size


def test_a_full_disk_does_not_keep_a_damaged_file_of_what_is_in_force_from_being_left(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    (agent.config.state / "actions.json").write_text("{ torn")
    agent.close()

    with monkeypatch.context() as full:
        full.setattr(Journal, "_write", no_room)
        agent.open()

    assert agent.executor.in_force() == []
    assert "No space left" in " ".join(agent.executor.faults)


def test_a_full_disk_leaves_what_an_older_release_held_for_the_next_start(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot_id, hold = boot(), {"cgroup": "/x", "tgid": 1, "boot_ns": 1}
    held = [{"decision_id": SUSPECT_ID, "indicator": None, "hold": hold, "deadline_ns": time.time_ns()}]
    (agent.config.state / "held.json").write_text(json.dumps({"boot_id": boot_id, "held": held}))
    agent.close()

    with monkeypatch.context() as full:
        full.setattr("mamplus_host.executor.inforce.write_whole", no_room)
        agent.open()
    assert "No space left" in " ".join(agent.executor.faults)
    agent.close()
    agent.open()

    assert agent.executor.faults == []
    assert [one["alert"] for one in agent.executor.in_force()] == [SUSPECT_ID]


def no_room(*_args: object, **_named: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_damaged_vault_is_put_aside_whole_and_noted(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("as deployed")
    agent.vault.protect(tmp_path / "file")
    agent.close()
    vault = agent.config.state / "vault"
    for number in range(2):
        (vault / "index.sqlite").write_bytes(b"no database" * 1000)
        agent.open()
        agent.close()
        assert agent.vault.put_aside == ("vault.damaged", "vault.damaged.1")[number]
    agent.open()

    assert agent.vault.put_aside == ""
    assert len(list((agent.config.state / "vault.damaged" / "objects").iterdir())) == 1
    assert [record.data["kept_as"] for record in agent.journal.records()] == ["vault.damaged", "vault.damaged.1"]
    agent.vault.protect(tmp_path / "file")
    assert agent.vault.count() == 1


def test_contents_whose_index_is_empty_are_put_aside_too(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("as deployed")
    agent.vault.protect(tmp_path / "file")
    agent.close()
    (agent.config.state / "vault" / "index.sqlite").write_bytes(b"")

    agent.open()

    assert agent.vault.put_aside == "vault.damaged"
    assert len(list((agent.config.state / "vault.damaged" / "objects").iterdir())) == 1
