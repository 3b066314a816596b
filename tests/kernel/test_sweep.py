# SPDX-License-Identifier: Apache-2.0
"""What runs already is looked at again when a list arrives: programs, and what they have loaded."""

import ctypes.util
import queue
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mamplus_host.ble.entry import Kind
from mamplus_host.sweep import Asks, Sweep, running
from mamplus_host.verdicts import Verdict

from .conftest import DEADLINE_S, Agent, Started, sha256
from .test_exec_path import Stages

pytestmark = pytest.mark.kernel


@pytest.fixture
def agent(reused_agent: Agent) -> Agent:
    return reused_agent


class Swept(Stages):
    """A pipeline with a sweep beside it, whose loop is the test."""

    def __init__(self, agent: Agent, spared: frozenset[int] = frozenset()) -> None:
        super().__init__(agent)
        self.spared = spared
        jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        asks = Asks(
            content=self.pipeline.ask, start=self.pipeline.ask_start, spared=lambda: self.spared,
            boot_ns=lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME), generation=lambda: 7,
        )  # fmt: skip
        self.jobs = jobs
        self.sweep = Sweep(agent.cgroup, agent.kernel.tables, asks, post=jobs.put, take=self.pipeline.take)

    def look(self) -> None:
        """Sweep once, to the end."""
        self.sweep.start()
        self.jobs.get(timeout=DEADLINE_S)()


@pytest.fixture
def swept(agent: Agent) -> Swept:
    agent.config.state.mkdir(parents=True, exist_ok=True)
    return Swept(agent)


def unique(source: Path, to: Path) -> Path:
    """Copy a file, with bytes behind its end that make it another content."""
    shutil.copy(source, to)
    with to.open("ab") as file:
        file.write(secrets.token_bytes(16))
    return to


def await_running(process: Started, path: Path) -> None:
    """Wait until the process has `path` mapped, and the C library: then it runs, and loads no more."""
    end = time.monotonic() + DEADLINE_S
    while True:
        mapped = [place.path for _file, place in running(process.pid, 0)]
        if str(path) in mapped and any("/libc." in one for one in mapped):
            return
        assert time.monotonic() < end, f"{path} is not mapped, only {mapped}"
        time.sleep(0.005)


def test_a_program_that_runs_is_ended_by_the_list_that_names_it(swept: Swept, tmp_path: Path) -> None:
    program = unique(Path("/usr/bin/sleep"), tmp_path / "listed-later")
    with swept.agent.start(program, "60") as process:
        await_running(process, program)
        swept.use((Kind.SHA256, sha256(program), Verdict.BLOCK))

        swept.look()

        assert process.wait() == -signal.SIGKILL
    alert = swept.alerts.list()[0]
    assert (alert["finding"], alert["entry_id"]) == ("confirmed", 1)
    assert str(program) in str(alert)


def test_a_program_that_has_loaded_a_listed_library_is_ended(swept: Swept, tmp_path: Path) -> None:
    found = next(Path("/lib").glob(f"*/{ctypes.util.find_library('m')}"))
    library = unique(found, tmp_path / "libodd.so")
    with swept.agent.start("/usr/bin/env", f"LD_PRELOAD={library}", "/usr/bin/sleep", "60") as process:
        await_running(process, library)
        swept.use((Kind.SHA256, sha256(library), Verdict.BLOCK))

        swept.look()

        assert process.wait() == -signal.SIGKILL
    assert str(library) in str(swept.alerts.list()[0])


def test_a_program_whose_file_is_gone_is_found_all_the_same(swept: Swept, tmp_path: Path) -> None:
    program = unique(Path("/usr/bin/sleep"), tmp_path / "gone")
    content = sha256(program)
    with swept.agent.start(program, "60") as process:
        await_running(process, program)
        program.unlink()
        swept.use((Kind.SHA256, content, Verdict.BLOCK))

        swept.look()

        assert process.wait() == -signal.SIGKILL


def test_a_program_in_a_listed_place_is_ended(swept: Swept, tmp_path: Path) -> None:
    program = unique(Path("/usr/bin/sleep"), tmp_path / "miner")
    with swept.agent.start(program, "60") as process:
        await_running(process, program)
        swept.use((Kind.PATH, str(program), Verdict.BLOCK))

        swept.look()

        assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("case", ["not listed", "spared", "allowed"])
def test_what_is_not_to_be_touched_runs_on(swept: Swept, tmp_path: Path, case: str) -> None:
    program = unique(Path("/usr/bin/sleep"), tmp_path / "good")
    with swept.agent.start(program, "60") as process:
        await_running(process, program)
        if case == "spared":
            swept.spared = frozenset({process.pid})
        content = "0" * 64 if case == "not listed" else sha256(program)
        swept.use((Kind.SHA256, content, Verdict.ALLOW if case == "allowed" else Verdict.BLOCK))

        swept.look()

        assert process.poll() is None
    assert swept.sweep.counts["files"] >= (0 if case == "spared" else 1)


def test_what_is_outside_of_the_scope_is_not_looked_at(swept: Swept, tmp_path: Path) -> None:
    program = unique(Path("/usr/bin/sleep"), tmp_path / "elsewhere")
    swept.use((Kind.SHA256, sha256(program), Verdict.BLOCK))
    with subprocess.Popen([program, "60"]) as process:
        swept.look()

        assert process.poll() is None
        process.kill()
    assert swept.sweep.counts["files"] == 0


def test_an_unknown_library_is_hashed_once_for_all_who_have_it(swept: Swept, tmp_path: Path) -> None:
    program = unique(Path("/usr/bin/sleep"), tmp_path / "twice")
    with swept.agent.start(program, "60") as one, swept.agent.start(program, "60") as two:
        await_running(one, program)
        await_running(two, program)
        anew = sum(file.dev >> 20 == 0 for file, _place in running(one.pid, 0))  # tmpfs and its like: maybe each time

        swept.look()
        first = swept.sweep.counts["hashed"]
        swept.look()

        assert swept.sweep.counts["hashed"] - first <= anew
        assert swept.sweep.counts["unread"] == 0
