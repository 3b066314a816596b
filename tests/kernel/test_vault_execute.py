# SPDX-License-Identifier: Apache-2.0
"""From a touched file to the file put back, by watch, plan, executor and vault together."""

import os
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mamplus_host.collector.files import FileWatch
from mamplus_host.config import Config
from mamplus_host.errors import ActionFailed, ConfigInvalid
from mamplus_host.events import FileChange
from mamplus_host.executor.actions.restore import MAX_RESTORES, RESTORE_WINDOW_NS
from mamplus_host.executor.execute import Executor
from mamplus_host.executor.plan import plan
from mamplus_host.verdicts import ActionKind, Decision, Finding, Outcome
from tests.journey.acting import carry_out
from tests.kernel import acts
from tests.kernel.test_freeze_held import Agent

pytestmark = pytest.mark.kernel

ID = "01RESTORE" + "0" * 17


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with acts.own_cgroup() as scope:
        one = Agent(acts.config_for(tmp_path / "state", scope))
        yield one
        one.close()


@pytest.fixture(params=["tmpfs", "ext4"])
def file(request: pytest.FixtureRequest) -> Iterator[Path]:
    with acts.own_tmpfs() if request.param == "tmpfs" else acts.own_directory() as place:
        path = place / "app.conf"
        path.write_text("as deployed")
        yield path


def treat(agent: Agent, change: FileChange, decision_id: str = ID) -> list[Outcome]:
    decision = Decision(id=decision_id, finding=Finding.CONFIRMED, event=change, rule="protected-file", reason="")
    return carry_out(agent.executor, decision, plan(decision, agent.config))


def changed(path: Path) -> FileChange:
    return FileChange(boot_ns=1, path=str(path), changes=("modify",), tgid=0)


def test_a_file_that_another_program_damaged_is_back_and_our_own_write_is_not_told(agent: Agent, file: Path) -> None:
    watch = FileWatch.open(agent.vault.protect(file))
    subprocess.run(["python3", "-c", "import sys; open(sys.argv[1], 'w').write('evil')", str(file)], check=True)
    select.select([watch], [], [], 5)
    (change,) = watch.read()

    assert agent.executor.is_damaged(change.path)
    (outcome,) = treat(agent, change)

    assert (outcome.action, outcome.state) == (ActionKind.RESTORE, "done")
    assert outcome.took_ns > 0
    assert file.read_text() == "as deployed"
    assert watch.read() == []
    assert not agent.executor.is_damaged(change.path)
    watch.close()


def test_undoing_a_restoration_brings_the_change_back_and_protects_it(agent: Agent, file: Path) -> None:
    agent.vault.protect(file)
    file.write_text("a legitimate update")
    file.chmod(0o640)
    treat(agent, changed(file))

    outcomes = agent.executor.undo(ID)

    assert [(one.action, one.state) for one in outcomes] == [(ActionKind.RESTORE, "undone")]
    assert file.read_text() == "a legitimate update"
    assert file.stat().st_mode & 0o777 == 0o640
    assert not agent.executor.is_damaged(str(file))
    with pytest.raises(ActionFailed, match="undone before"):
        agent.executor.undo(ID)


def test_a_file_that_is_fought_for_is_left_alone_and_reported_until_an_administrator_comes(
    agent: Agent, file: Path
) -> None:
    agent.vault.protect(file)
    for number in range(MAX_RESTORES):
        file.write_text(f"evil {number}")
        assert [one.state for one in treat(agent, changed(file))] == ["done"]
    file.write_text("evil again")

    (outcome,) = treat(agent, changed(file))

    assert outcome.state == "failed"
    assert "waits for an administrator" in outcome.detail
    assert agent.vault.is_suspended(str(file))
    assert file.read_text() == "evil again"
    assert not agent.executor.is_damaged(str(file))
    agent.vault.restore(file)
    assert file.read_text() == "as deployed"
    file.write_text("evil later")
    assert agent.executor.is_damaged(str(file))


def test_restorations_far_apart_are_no_fight(agent: Agent, file: Path) -> None:
    agent.vault.protect(file)
    for number in range(MAX_RESTORES + 3):
        agent.clock.ahead_s += RESTORE_WINDOW_NS // 10**9 // MAX_RESTORES + 1
        file.write_text(f"update {number}")
        assert [one.state for one in treat(agent, changed(file))] == ["done"]


def test_an_intact_file_is_not_written(agent: Agent, file: Path) -> None:
    agent.vault.protect(file)
    before = os.stat(file)

    (outcome,) = treat(agent, changed(file))

    assert (outcome.state, os.stat(file).st_ino) == ("done", before.st_ino)


def test_a_restoration_that_a_crash_interrupted_is_finished_by_the_next_agent(agent: Agent, file: Path) -> None:
    agent.vault.protect(file)
    file.write_text("evil")
    agent.journal.append(
        "intent",
        ID,
        {"action": "restore", "boot": "another", "boot_ns": 1, "tgid": 0, "path": str(file), "indicator": None},
    )
    agent.close()

    agent.open()
    outcomes = agent.executor.recover()

    assert [(one.decision_id, one.state) for one in outcomes] == [(ID, "done")]
    assert file.read_text() == "as deployed"
    assert agent.executor.recover() == []


def test_a_file_that_is_not_protected_is_an_action_that_failed(agent: Agent, file: Path) -> None:
    assert not agent.executor.is_damaged(str(file))

    (outcome,) = treat(agent, changed(file))

    assert (outcome.state, "no golden copy" in outcome.detail) == ("failed", True)


def test_what_is_not_journalled_is_not_done(agent: Agent, file: Path) -> None:
    agent.vault.protect(file)
    file.write_text("evil")
    os.close(agent.journal._fd)
    agent.journal._fd = os.open("/dev/full", os.O_WRONLY)

    (outcome,) = treat(agent, changed(file))

    assert (outcome.state, file.read_text()) == ("failed", "evil")


def test_configuration_without_its_cgroup_is_refused(tmp_path: Path, agent: Agent) -> None:
    config: Config = acts.config_for(tmp_path, Path("/sys/fs/cgroup/unified/mamplus-test-none"))
    with pytest.raises(ConfigInvalid, match="no cgroup at"):
        Executor(config, journal=agent.journal, vault=agent.vault, clock=agent.clock)
