# SPDX-License-Identifier: Apache-2.0
"""Programs that start: refused by content, whatever their name; unknown ones wait for their hash."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mamplus_host.ble.entry import Kind
from mamplus_host.kernel import layout, responder
from mamplus_host.kernel.tables import file_of
from mamplus_host.verdicts import Verdict

from .acts import count_mount
from .conftest import Agent, end, sha256

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("below_lsm")]
MARK_EXIT = 7  # of mark.c, when it was let run
COPIES = 200
SLOW_BYTES = 1 << 28
OLD_S = 0.1  # a younger file is hashed at every start, wherever it lies


@pytest.fixture
def agent(reused_agent: Agent) -> Agent:
    return reused_agent


def test_a_listed_program_copied_to_a_new_name_runs_no_instruction(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path
) -> None:
    listed = fresh()
    agent.block(listed)
    marks = tmp_path / "marks"
    marks.mkdir()

    for number in range(COPIES):
        copy = Path(shutil.copy(listed, tmp_path / f"copy-{number}"))
        assert agent.run(copy, marks / str(number)) == -signal.SIGKILL

    assert list(marks.iterdir()) == []
    record = agent.wait_for("held")
    assert (record.verdict, record.fields["sha256"].hex()) == (Verdict.BLOCK, sha256(listed))
    assert (record.fields["head_slot"], record.fields["head_generation"]) == (0, 1)
    assert agent.kernel.tables.counters()["refused"] == COPIES


def test_with_a_list_so_old_that_doubt_is_refused_a_suspected_program_is(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path
) -> None:
    odd = fresh()
    agent.publish((Kind.SHA256, sha256(odd), Verdict.SUSPECT))
    agent.make_known(odd, tmp_path / "first")

    agent.kernel.tables.set_posture(agent.config, suspect_as_block=True)

    with agent.start(odd, tmp_path / "second") as process:
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "second").exists()
    record = agent.wait_for("exec", lambda record: record.tgid == process.pid)
    assert (record.verdict, record.flags & layout.F_REFUSED) == (Verdict.SUSPECT, layout.F_REFUSED)


def test_a_listed_program_that_is_known_is_killed_at_once(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path
) -> None:
    listed, mark = fresh(), tmp_path / "mark"
    agent.make_known(listed, tmp_path / "earlier")
    agent.block(listed)

    with agent.start(listed, mark) as process:
        assert process.wait() == -signal.SIGKILL

    record = agent.wait_for("exec", lambda record: record.tgid == process.pid)
    assert (record.verdict, record.flags) == (Verdict.BLOCK, layout.F_REFUSED)
    assert not mark.exists()


def test_an_unknown_program_waits_for_its_hash_and_then_runs(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path
) -> None:
    unknown, mark = fresh(), tmp_path / "mark"

    with agent.start(unknown, mark) as process:
        assert process.wait() == MARK_EXIT

    assert mark.exists()
    start = agent.wait_for("exec", lambda record: record.tgid == process.pid)
    assert start.flags & (layout.F_UNKNOWN | layout.F_HELD) == layout.F_UNKNOWN | layout.F_HELD
    assert start.fields["path"].partition(b"\0")[0] == os.fsencode(unknown)
    answer = agent.wait_for("held")
    assert answer.fields["sha256"].hex() == sha256(unknown)
    assert answer.fields["waited_ns"] > 0
    assert not answer.flags & (layout.F_UNKNOWN | layout.F_REFUSED)
    assert agent.wait_for("exit").fields["exit_code"] == MARK_EXIT << 8


def test_a_known_program_never_waits(agent: Agent, fresh: Callable[..., Path], tmp_path: Path) -> None:
    program = fresh()
    agent.make_known(program, tmp_path / "mark")
    waited = agent.kernel.tables.counters()["held"]

    for _ in range(20):
        assert agent.run(program, tmp_path / "mark") == MARK_EXIT

    assert agent.kernel.tables.counters()["held"] == waited


def test_a_written_file_is_another_file(agent: Agent, fresh: Callable[..., Path], tmp_path: Path) -> None:
    program, other = fresh(), fresh()
    agent.make_known(program, tmp_path / "earlier")
    agent.block(other)
    program.write_bytes(other.read_bytes())  # same inode, same size

    assert agent.run(program, tmp_path / "mark") == -signal.SIGKILL
    assert not (tmp_path / "mark").exists()


def test_a_file_that_may_change_without_a_trace_waits_every_time(
    agent: Agent, fresh: Callable[..., Path], tmpfs: Path, tmp_path: Path
) -> None:
    program = fresh(directory=tmpfs)
    while time.time() - program.stat().st_ctime < OLD_S:
        os.sched_yield()

    for number in range(1, 4):
        assert agent.run(program, tmp_path / "mark") == MARK_EXIT
        assert agent.kernel.tables.counters()["held"] == number


@pytest.mark.parametrize("layer", ["lower", "merged"])
def test_a_program_on_an_overlay_is_hashed_too(
    agent: Agent, fresh: Callable[..., Path], overlay: Path, tmp_path: Path, layer: str
) -> None:
    program = overlay / "merged" / fresh(directory=overlay / layer).name
    listed = overlay / "merged" / fresh(directory=overlay / layer).name
    agent.block(listed)

    assert agent.run(program, tmp_path / "mark") == MARK_EXIT
    assert agent.run(listed, tmp_path / "other") == -signal.SIGKILL

    assert agent.wait_for("held").fields["sha256"].hex() == sha256(program)
    agent.make_known(program, tmp_path / "mark")
    with program.open("rb") as file:
        assert agent.kernel.tables.known(file_of(file.fileno())) == sha256(program)


def test_a_suspected_program_runs_and_is_told(agent: Agent, fresh: Callable[..., Path], tmp_path: Path) -> None:
    program = fresh()
    agent.publish((Kind.SHA256, sha256(program), Verdict.SUSPECT))

    assert agent.run(program, tmp_path / "mark") == MARK_EXIT

    record = agent.wait_for("held")
    assert (record.verdict, record.flags & layout.F_REFUSED) == (Verdict.SUSPECT, 0)


def test_what_is_remembered_is_believed_and_what_is_forgotten_is_not(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path
) -> None:
    program = fresh()
    with program.open("rb") as file:
        identity = file_of(file.fileno())

    agent.kernel.tables.remember(identity, sha256(program))
    assert agent.kernel.tables.known(identity) == sha256(program)
    assert agent.run(program, tmp_path / "mark") == MARK_EXIT
    assert agent.kernel.tables.counters()["held"] == 0

    assert agent.kernel.tables.forget(identity.dev, identity.ino)
    assert agent.run(program, tmp_path / "mark") == MARK_EXIT
    assert agent.kernel.tables.counters()["held"] == 1


def test_what_is_known_of_a_file_ends_with_its_file_system(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path
) -> None:
    program = fresh()
    agent.make_known(program, tmp_path / "mark")
    with program.open("rb") as file:
        identity = file_of(file.fileno())
    held = agent.kernel.tables.counters()["held"]

    count_mount(agent.kernel.directory, program)

    assert agent.kernel.tables.known(identity) == ""
    assert agent.run(program, tmp_path / "mark") == MARK_EXIT
    assert agent.kernel.tables.counters()["held"] == held + 1
    assert agent.kernel.tables.known(identity) == sha256(program)
    assert agent.run(program, tmp_path / "mark") == MARK_EXIT
    assert agent.kernel.tables.counters()["held"] == held + 1


def test_a_program_in_a_directory_that_others_may_write_is_marked(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path
) -> None:
    program = fresh()
    tmp_path.chmod(0o777)

    agent.run(program, tmp_path / "mark")

    assert agent.wait_for("exec").flags & layout.F_WORLD_WRITABLE


def test_a_program_without_a_name_is_hashed_and_marked(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path
) -> None:
    program = fresh()
    agent.block(program)
    descriptor = os.open(program, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    program.unlink()

    unnamed = f"/proc/self/fd/{descriptor}"
    command: list[str | Path] = [agent.programs / "enter", agent.cgroup, unnamed, tmp_path / "mark"]
    done = subprocess.run(command, pass_fds=[descriptor], check=False)
    os.close(descriptor)

    assert done.returncode == -signal.SIGKILL
    assert agent.wait_for("exec").flags & layout.F_DELETED
    assert not (tmp_path / "mark").exists()


def test_forks_name_the_child_and_exits_its_status(agent: Agent) -> None:
    with agent.start(agent.programs / "burst", "1") as process:
        assert process.wait() == 0

    fork = agent.wait_for("fork")
    child = fork.fields["child_tgid"]
    assert fork.tgid == process.pid
    assert agent.wait_for("exit", lambda record: record.tgid == child).fields["head_ppid"] == process.pid


def test_nothing_outside_of_the_scope_is_held_or_told(agent: Agent, fresh: Callable[..., Path], tmp_path: Path) -> None:
    program = fresh()
    agent.block(program)

    assert subprocess.run([program, tmp_path / "mark"], check=False).returncode == MARK_EXIT

    assert agent.kernel.tables.counters()["produced"] == 0


def test_monitor_mode_refuses_nothing_and_says_what_it_would_have_refused(
    reuse: Callable[..., Agent], fresh: Callable[..., Path]
) -> None:
    agent = reuse(agent={"mode": "monitor"})
    listed = fresh("burst")
    agent.block(listed)

    with agent.start(listed, "2000") as process:  # runs long enough to be hashed meanwhile
        assert process.wait() == 0

    assert agent.wait_for("exec").flags & layout.F_HELD == 0
    record = agent.wait_for("held")
    assert (record.verdict, record.flags) == (Verdict.BLOCK, layout.F_MONITOR)
    assert agent.kernel.tables.counters()["refused"] == 0


def test_a_traced_program_that_is_unknown_gets_the_declared_answer(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path
) -> None:
    unknown = fresh()

    assert agent.run(agent.programs / "traced", unknown, tmp_path / "mark") == 128 + signal.SIGKILL

    record = agent.wait_for("exec", lambda record: record.flags & layout.F_DECLARED != 0)
    assert record.flags & (layout.F_REFUSED | layout.F_UNKNOWN) == layout.F_REFUSED | layout.F_UNKNOWN
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(("answer", "exit_code"), [("refuse", -signal.SIGKILL), ("allow", MARK_EXIT)])
def test_without_a_responder_unknown_programs_get_the_declared_answer_at_once(
    reuse: Callable[..., Agent], fresh: Callable[..., Path], tmp_path: Path, answer: str, exit_code: int
) -> None:
    agent = reuse(exec={"on_responder_down": answer})
    end(responder.ensure_running(agent.config).pid)

    assert agent.run(fresh(), tmp_path / "mark") == exit_code

    record = agent.wait_for("exec")
    assert record.flags & layout.F_DECLARED
    assert (tmp_path / "mark").exists() == (exit_code == MARK_EXIT)


def test_past_the_deadline_the_declared_answer_is_given(
    reuse: Callable[..., Agent], fresh: Callable[..., Path], tmp_path: Path
) -> None:
    agent = reuse(exec={"deadline_ms": 1})
    program = fresh()
    os.truncate(program, SLOW_BYTES)  # sparse: it takes long to hash and no room

    assert agent.run(program, tmp_path / "mark") == -signal.SIGKILL

    record = agent.wait_for("held")
    assert record.flags & (layout.F_DECLARED | layout.F_REFUSED) == layout.F_DECLARED | layout.F_REFUSED
    assert not (tmp_path / "mark").exists()
