# SPDX-License-Identifier: Apache-2.0
"""Nobody waits without end: the responder stopped, frozen, starved or dead while programs start and a logger logs.

On a tmpfs and in cgroups of our own. The whole machine's version is tests/vm/no_deadlock.py.
"""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from mamplus_host.kernel import layout, pins, responder
from mamplus_host.kernel.bpf import Map
from mamplus_host.kernel.tables import file_of
from story.stage import wait_for

from . import acts
from .conftest import Agent, end, sha256
from .test_watch import ask, await_count, count, poke

pytestmark = pytest.mark.kernel
STARTS = 200
AT_ONCE = 20
MARK_EXIT = 7  # of mark.c, when it was let run
DEADLINE_MS = 1000  # [exec] deadline_ms
LIMIT_S = 60.0  # for what takes 2 s on a machine at rest: without an answer it would be for ever
BEATS_S = 2.5  # of the responder's heart, a second apart
STALL_S = 15.0  # for one open of the logger: half a second, and a busy machine

Holding = Callable[[int], AbstractContextManager[None]]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def killed(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGKILL)
    yield


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    with acts.own_cgroup() as cgroup:
        home = home_of(pid)
        (cgroup / "cgroup.procs").write_text(str(pid))
        (cgroup / "cgroup.freeze").write_text("1")
        try:
            yield
        finally:
            (cgroup / "cgroup.freeze").write_text("0")
            (home / "cgroup.procs").write_text(str(pid))


def home_of(pid: int) -> Path:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    name = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
    return acts.MOUNT / name.lstrip("/")


@contextmanager
def starved(pid: int) -> Iterator[None]:
    """A thousandth of a processor: by cpu.max, or where the controller is in the old hierarchy by its quota."""
    old = Path("/sys/fs/cgroup/cpu")
    parent = old if (old / "cpu.cfs_quota_us").exists() or (old / "cgroup.procs").exists() else acts.MOUNT
    cgroup = parent / f"mamplus-test-{secrets.token_hex(4)}"
    if parent is acts.MOUNT and "cpu" not in (parent / "cgroup.controllers").read_text().split():
        pytest.skip("this kernel has no cpu controller")
    if parent is acts.MOUNT:
        (parent / "cgroup.subtree_control").write_text("+cpu")
    cgroup.mkdir()
    try:
        if parent is old:
            (cgroup / "cpu.cfs_period_us").write_text("1000000")
            (cgroup / "cpu.cfs_quota_us").write_text("1000")
        else:
            (cgroup / "cpu.max").write_text("1000 1000000")
        (cgroup / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        (parent / "cgroup.procs").write_text(str(pid))
        wait_for("the responder to be out", lambda: not (cgroup / "cgroup.procs").read_text(), timeout_s=LIMIT_S)
        cgroup.rmdir()


class Logger(threading.Thread):
    """Appends to a file that it opens anew for every line, as somebody outside of the scope."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path, self.longest_s, self.lines, self.is_ending = path, 0.0, 0, False

    def run(self) -> None:
        while not self.is_ending:
            begun = time.monotonic()
            with self.path.open("a") as file:
                file.write("a line\n")
            self.longest_s = max(self.longest_s, time.monotonic() - begun)
            self.lines += 1
            time.sleep(0.01)


@pytest.fixture
def watched(attach: Callable[..., Agent], tmpfs: Path) -> Agent:
    agent = attach(
        exec={
            "fanotify": [str(tmpfs)], "deadline_ms": DEADLINE_MS, "on_responder_down": "allow", "on_deadline": "allow",
        }
    )  # fmt: skip
    assert ask(agent) == {}
    return agent


@pytest.fixture
def logger(tmpfs: Path, watched: Agent) -> Iterator[Logger]:  # noqa: ARG001 - the mark comes first
    made = Logger(tmpfs / "log")
    made.start()
    yield made
    made.is_ending = True
    made.join(LIMIT_S)
    assert not made.is_alive(), "the logger hangs"


def start_many(agent: Agent, programs: list[Path], marks: Path) -> list[int]:
    """Start them, AT_ONCE at a time, each with a mark of its own; return their exit codes."""
    codes: list[int] = []
    for first in range(0, len(programs), AT_ONCE):
        some = [agent.start(program, marks / str(first + at)) for at, program in enumerate(programs[first:][:AT_ONCE])]
        codes += [process.wait(LIMIT_S) for process in some]
    return codes


@pytest.mark.parametrize("hold", [stopped, frozen, starved, killed])
def test_programs_start_and_logs_are_written_although_nobody_answers(
    watched: Agent, logger: Logger, fresh: Callable[..., Path], tmpfs: Path, tmp_path: Path, hold: Holding
) -> None:
    programs = [fresh(directory=tmpfs) for _ in range(STARTS)]
    marks = tmp_path / "marks"
    marks.mkdir()
    pid = responder.ensure_running(watched.config, watched.cgroup).pid
    begun, lines = time.monotonic(), logger.lines

    with hold(pid):
        codes = start_many(watched, programs, marks)
        took_s = time.monotonic() - begun
        assert logger.lines > lines

    assert took_s < LIMIT_S
    assert codes == [MARK_EXIT] * STARTS  # unknown ones, and the declared answer is to allow
    assert logger.longest_s < STALL_S
    if hold is not starved:  # a starved one answers some of them itself
        assert count(watched, "kept") > STARTS


def known_and_listed(agent: Agent, fresh: Callable[..., Path], tmpfs: Path) -> Path:
    """Return a listed program whose hash is known, and believed.

    The responder has hashed what was written after it: so it is told of the listed one's writing no more, by which it
    would be forgotten.
    """
    listed, later = fresh(directory=tmpfs), fresh(directory=tmpfs)
    agent.block(listed)
    poke(agent)
    with listed.open("rb") as file, later.open("rb") as after:
        one, content = file_of(after.fileno()), sha256(later)
        wait_until(lambda: agent.kernel.tables.known(one) == content)
        agent.kernel.tables.remember(file_of(file.fileno()), sha256(listed))
    return listed


@pytest.mark.parametrize("hold", [stopped, frozen, killed])
def test_what_is_known_and_listed_is_refused_although_nobody_answers(
    watched: Agent, fresh: Callable[..., Path], tmpfs: Path, hold: Holding
) -> None:
    listed = known_and_listed(watched, fresh, tmpfs)
    pid = responder.ensure_running(watched.config, watched.cgroup).pid

    with hold(pid):
        assert watched.run(watched.programs / "opener", listed) == 1  # EPERM


def test_a_responder_that_goes_on_answers_again(watched: Agent, fresh: Callable[..., Path], tmpfs: Path) -> None:
    with stopped(responder.ensure_running(watched.config, watched.cgroup).pid):
        assert watched.run(watched.programs / "opener", fresh(directory=tmpfs)) == 0
    kept = count(watched, "kept")
    hashed = count(watched, "hashed")

    file = fresh(directory=tmpfs)
    await_count(watched, "hashed", hashed + 1)
    assert watched.run(watched.programs / "opener", file) == 0

    assert count(watched, "kept") <= kept + 2  # the keeper may have been about to answer


def test_the_keeper_answers_nothing_once_the_responder_goes_on(
    watched: Agent, fresh: Callable[..., Path], tmpfs: Path
) -> None:
    with stopped(responder.ensure_running(watched.config, watched.cgroup).pid):
        assert watched.run(watched.programs / "opener", fresh(directory=tmpfs)) == 0
    time.sleep(BEATS_S)  # nothing is opened: a responder that finds nothing to read reads nothing
    kept = count(watched, "kept")

    for _ in range(30):
        assert watched.run(watched.programs / "opener", fresh(directory=tmpfs)) == 0

    assert count(watched, "kept") == kept


def test_a_keeper_that_is_stopped_is_replaced(watched: Agent, fresh: Callable[..., Path], tmpfs: Path) -> None:
    keeper = watched.kernel.keeper
    os.kill(keeper, signal.SIGSTOP)
    wait_until(lambda: watched.kernel.keeper not in (0, keeper))

    with stopped(responder.ensure_running(watched.config, watched.cgroup).pid):
        assert watched.run(watched.programs / "opener", fresh(directory=tmpfs)) == 0
    assert count(watched, "keeper_lost") == 1


def test_a_keeper_stays_until_its_successors_marks_stand(
    watched: Agent, fresh: Callable[..., Path], tmpfs: Path
) -> None:
    """A successor that is stopped after its first beat has marked nothing yet."""
    listed = known_and_listed(watched, fresh, tmpfs)
    old = watched.kernel.keeper
    end(responder.ensure_running(watched.config, watched.cgroup).pid)
    heartbeat = Map.pinned(watched.kernel.directory / "heartbeat", 4, layout.HEARTBEAT.size)
    values = dict(zip(layout.HEARTBEAT_FIELDS, layout.HEARTBEAT.unpack(heartbeat.get(bytes(4)) or b""), strict=True))
    values |= {"responder_tgid": os.getpid(), "responder_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME)}
    heartbeat.set(bytes(4), layout.HEARTBEAT.pack(*values.values()))

    time.sleep(BEATS_S)

    assert Path(f"/proc/{old}").exists()
    assert watched.run(watched.programs / "opener", listed) == 1  # EPERM


def test_the_keeper_answers_where_a_process_may_have_no_more_descriptors_than_a_kernel_gives(
    watched: Agent, fresh: Callable[..., Path], tmpfs: Path
) -> None:
    """4,096, where no systemd raised it; here nobody may."""
    end(responder.ensure_running(watched.config, watched.cgroup).pid)
    directory = watched.kernel.directory
    lock = watched.config.run / f"responder-{directory.name}.lock"
    command = (str(pins.RESPONDER), "--bpffs", str(directory), "--lock", str(lock))
    limited = ("prlimit", "--nofile=4096:4096", *command)
    pid = int(subprocess.run(limited, stdout=subprocess.PIPE, check=True).stdout)
    assert ask(watched) == {}

    with stopped(pid):
        assert watched.run(watched.programs / "opener", fresh(directory=tmpfs)) == 0


def test_a_keeper_that_ended_is_replaced(watched: Agent, fresh: Callable[..., Path], tmpfs: Path) -> None:
    keeper = watched.kernel.keeper
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: watched.kernel.keeper not in (0, keeper))

    with stopped(responder.ensure_running(watched.config, watched.cgroup).pid):
        assert watched.run(watched.programs / "opener", fresh(directory=tmpfs)) == 0


def test_a_start_that_was_held_by_a_signal_is_answered_although_the_responder_stands(
    attach: Callable[..., Agent], fresh: Callable[..., Path], tmp_path: Path
) -> None:
    agent = attach(exec={"deadline_ms": DEADLINE_MS, "on_deadline": "allow", "on_responder_down": "allow"})
    with (
        stopped(responder.ensure_running(agent.config, agent.cgroup).pid),
        agent.start(fresh(), tmp_path / "mark") as process,
    ):
        assert process.wait(LIMIT_S) == MARK_EXIT

    assert count(agent, "kept_starts") == 1


def test_an_access_that_waits_to_be_tried_again_is_answered_although_the_responder_stands(
    attach: Callable[..., Agent],
) -> None:
    """As lsm_exec.bpf.c leaves it: stopped, with an entry in `waits`. The hook itself is not needed for that."""
    agent = attach(exec={"deadline_ms": DEADLINE_MS})
    waits = Map.pinned(agent.kernel.directory / "waits", 4, layout.WAIT.size)
    with (
        stopped(responder.ensure_running(agent.config, agent.cgroup).pid),
        subprocess.Popen(["sleep", "3600"]) as process,
    ):
        try:
            os.kill(process.pid, signal.SIGSTOP)
            wait_until(lambda: state_of(process.pid) == "T")
            waits.set(process.pid.to_bytes(4, sys.byteorder), a_wait(process.pid))

            wait_until(lambda: state_of(process.pid) == "S")
        finally:
            process.kill()

    assert count(agent, "kept_starts") == 1


def a_wait(pid: int) -> bytes:
    fields = dict.fromkeys(layout.WAIT_FIELDS, 0)
    fields |= {"boot_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME), "tgid": pid}
    return layout.WAIT.pack(*fields.values())


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_keeper_leaves_the_cgroup_that_the_responder_is_started_in(agent: Agent) -> None:
    end(responder.ensure_running(agent.config, agent.cgroup).pid)
    lock = agent.config.run / f"responder-{agent.kernel.directory.name}.lock"
    with acts.own_cgroup() as cgroup:
        command = (str(pins.RESPONDER), "--bpffs", str(agent.kernel.directory), "--lock", str(lock))
        pid = int(
            subprocess.run([agent.programs / "enter", cgroup, *command], stdout=subprocess.PIPE, check=True).stdout
        )
        wait_until(lambda: home_of(pid) == cgroup and agent.kernel.keeper > 0)

        wait_until(lambda: home_of(agent.kernel.keeper) == acts.MOUNT)


def wait_until(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def test_a_successor_sends_the_keeper_of_a_dead_responder_home(
    watched: Agent, fresh: Callable[..., Path], tmpfs: Path
) -> None:
    old = watched.kernel.keeper
    with killed(responder.ensure_running(watched.config, watched.cgroup).pid):
        assert watched.run(watched.programs / "opener", fresh(directory=tmpfs)) == 0
    responder.ensure_running(watched.config, watched.cgroup)

    wait_until(lambda: not Path(f"/proc/{old}").exists())
    assert watched.run(watched.programs / "opener", fresh(directory=tmpfs)) == 0
