# SPDX-License-Identifier: Apache-2.0
"""Programs that are listed by path or user: ended in user space, right after their start."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from mamplus_host.ble.encode import encode
from mamplus_host.ble.entry import Entry, Kind, canonical
from mamplus_host.ble.format import Generation
from mamplus_host.ble.stack import Stack
from mamplus_host.clock import DeviceClock
from mamplus_host.collector.decode import decode_batch
from mamplus_host.executor.alertlog import AlertLog
from mamplus_host.executor.execute import Executor
from mamplus_host.executor.journal import Journal
from mamplus_host.executor.vault.vault import Vault
from mamplus_host.outbox.store import Outbox
from mamplus_host.pipeline import Pipeline
from mamplus_host.verdicts import Verdict
from tests.kernel.conftest import DEADLINE_S, Agent

pytestmark = pytest.mark.kernel


class Stages:
    """A pipeline on the ring of an attached kernel, as the service makes it."""

    def __init__(self, agent: Agent) -> None:
        self.agent, config = agent, agent.config
        clock = DeviceClock(config.state)
        limits = config.limits
        journal = Journal(config.state / "journal", max_bytes=limits.journal_bytes, clock=clock)
        vault = Vault(config.state / "vault", limits=limits, clock=clock)
        self.alerts = AlertLog(config.state / "alerts.sqlite")
        own, self.guards_us = frozenset({os.getpid()}), False
        self.pipeline = Pipeline(
            config=config, clock=clock, executor=Executor(config, journal=journal, vault=vault, clock=clock),
            outbox=Outbox(config.state / "outbox.sqlite", max_bytes=limits.outbox_bytes), alerts=self.alerts,
            guarded=lambda: own if self.guards_us else frozenset(), on_escalation=lambda: None,
            on_restored=lambda _path: None,
        )  # fmt: skip

    def use(self, *lines: tuple[Kind, str, Verdict]) -> None:
        entries = [
            Entry(id=n, kind=kind, value=canonical(kind, text), verdict=says, reason="by path")
            for n, (kind, text, says) in enumerate(lines, 1)
        ]
        self.pipeline.use(Stack.of(Generation(encode(entries, generation=7, created_s=1))))

    def take(self) -> None:
        while batch := self.agent.kernel.ring.drain():
            self.pipeline.take(decode_batch(*batch, print))

    def await_alert(self) -> dict[str, object]:
        end = time.monotonic() + DEADLINE_S
        while not (found := self.alerts.list()):
            assert time.monotonic() < end, "no alert"
            self.agent.kernel.ring.wait(0.1)
            self.take()
        return found[0]


@pytest.fixture
def stages(agent: Agent) -> Stages:
    agent.config.state.mkdir(parents=True, exist_ok=True)
    return Stages(agent)


@pytest.fixture
def sleeper(tmp_path: Path) -> Path:
    """A program of its own name, below a directory that a pattern can name."""
    path = tmp_path / "cache" / "miner-7"
    path.parent.mkdir()
    shutil.copy("/usr/bin/sleep", path)
    return path


def test_a_program_in_a_listed_place_is_killed_and_the_alert_says_by_which_entry_and_where(
    stages: Stages, sleeper: Path, tmp_path: Path
) -> None:
    stages.use((Kind.PATH, f"{tmp_path}/**/miner-*", Verdict.BLOCK))
    (tmp_path / "link").symlink_to(sleeper)

    with stages.agent.start(tmp_path / "link", "60") as process:
        alert = stages.await_alert()
        assert process.wait() == -signal.SIGKILL

    assert (alert["finding"], alert["decided_in"], alert["entry_id"]) == ("confirmed", "user space", 1)
    assert [action["action"] for action in alert["actions"]] == ["kill"]  # type: ignore[attr-defined]


def test_a_program_elsewhere_goes_on(stages: Stages, sleeper: Path, tmp_path: Path) -> None:
    stages.use((Kind.PATH, f"{tmp_path}/other/*", Verdict.BLOCK), (Kind.USER, "root", Verdict.BLOCK))

    assert stages.agent.run(sleeper, "0") == 0
    stages.take()
    assert stages.alerts.list() == []


def test_a_listed_users_program_is_killed(stages: Stages) -> None:
    stages.use((Kind.USER, "nobody", Verdict.BLOCK))
    command = ["/usr/bin/setpriv", "--reuid=nobody", "--clear-groups", "/usr/bin/sleep", "60"]

    with stages.agent.start(*command) as process:
        alert = stages.await_alert()
        assert process.wait() == -signal.SIGKILL

    assert alert["indicator"] == {"kind": "user", "value": "nobody"}


def test_what_the_agent_itself_starts_is_left_alone(stages: Stages, sleeper: Path, tmp_path: Path) -> None:
    stages.use((Kind.PATH, f"{tmp_path}/**", Verdict.BLOCK))
    stages.guards_us = True  # the test is the parent, as the agent is of its helpers

    assert stages.agent.run(sleeper, "0") == 0
    stages.take()
    assert stages.alerts.list() == []
