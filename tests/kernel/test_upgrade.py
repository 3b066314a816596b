# SPDX-License-Identifier: Apache-2.0
"""An agent of another release takes over without a gap, and nobody hangs."""

import errno
import itertools
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mamplus_host.ble.entry import Kind
from mamplus_host.kernel import pins, responder, tables
from mamplus_host.kernel.features import YES, probe
from mamplus_host.verdicts import Verdict
from story.stage import wait_for

from .acts import count_mount
from .conftest import DEADLINE_S, REFUSED, Agent, sha256

pytestmark = pytest.mark.kernel
LISTED = "127.66.0.1"


@pytest.fixture
def attach_patiently(attach: Callable[..., Agent], monkeypatch: pytest.MonkeyPatch) -> Callable[[], Agent]:
    """Starts wait for their responder as long as a test does: on a slow machine, too, no clock answers for it."""
    patience_ms = int(DEADLINE_S * 1000)
    monkeypatch.setattr(tables, "RESPONDER_STALE_MS", patience_ms)
    return lambda: attach(exec={"deadline_ms": patience_ms})


def as_another_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on agents think that they load other objects."""
    own = pins.stamp()
    monkeypatch.setattr(pins, "stamp", lambda: own[::-1])


def publish(agent: Agent, listed: Path) -> None:
    agent.publish((Kind.SHA256, sha256(listed), Verdict.BLOCK), (Kind.IP, LISTED, Verdict.BLOCK))


@contextmanager
def hammered(act: Callable[[int], int]) -> Iterator[list[int]]:
    """Do something again and again, and gather what came of it."""
    codes, is_over = list[int](), threading.Event()

    def strike() -> None:
        for number in itertools.count():
            if is_over.is_set():
                return
            codes.append(act(number))

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield codes
    finally:
        is_over.set()
        thread.join()


def test_what_is_listed_is_refused_at_every_moment_of_a_hand_over(
    attach_patiently: Callable[[], Agent], fresh: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, listed, innocent = attach_patiently(), fresh(), fresh()
    publish(old, listed)
    before = pins.directory_for(old.config, old.cgroup)

    def start(*command: str | Path) -> int:
        command = (old.programs / "enter", old.cgroup, *command)
        return subprocess.run(command, check=False, timeout=DEADLINE_S).returncode

    def connect(_number: int) -> int:
        return start(old.programs / "talk", "tcp", LISTED, "9")

    def run_listed_copy(number: int) -> int:  # under a new name: nobody knows it yet, so it is held
        return start(shutil.copy(listed, tmp_path / f"copy-{number}"), tmp_path / "mark")

    def run_innocent_copy(number: int) -> int:
        return start(shutil.copy(innocent, tmp_path / f"good-{number}"), tmp_path / "good")

    with hammered(connect) as connects, hammered(run_listed_copy) as starts, hammered(run_innocent_copy) as good:
        as_another_release(monkeypatch)
        new = attach_patiently()
        publish(new, listed)
        assert new.kernel.retire_predecessors() == 1
        done = len(starts)
        while len(starts) < done + 5 or len(good) < 5:
            threading.Event().wait(0.05)

    assert not new.kernel.adopted
    assert set(connects) == {errno.EPERM}
    assert set(starts) <= set(REFUSED)
    assert set(good) == {7}
    assert not (tmp_path / "mark").exists()
    assert not before.exists()
    assert "exec" in new.kernel.hooks()


def test_hashes_move_over_and_the_old_responder_goes(
    attach: Callable[..., Agent], fresh: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, program = attach(), fresh()
    count_mount(old.kernel.directory, program)
    old.make_known(program, tmp_path / "mark")
    before = responder.ensure_running(old.config).pid
    as_another_release(monkeypatch)

    new = attach()
    new.kernel.retire_predecessors()

    with new.start(program, tmp_path / "mark") as process:
        assert process.wait() == 7
    told = new.wait_for("exec", lambda record: record.tgid == process.pid)
    assert told.fields["sha256"].hex() == sha256(program)  # it did not wait
    status = Path(f"/proc/{before}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()
    assert responder.ensure_running(new.config).pid != before


def test_hooks_of_guarded_paths_that_stand_before_the_old_ones_go_are_whole_after_it(
    attach: Callable[..., Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = attach()
    old.kernel.stand_file_hooks()
    as_another_release(monkeypatch)
    new = attach()
    new.kernel.stand_file_hooks()  # as an agent does whose policy guards paths
    standing = pins.of_file_hooks(new.kernel.directory)
    if not standing:
        answer = probe().optional["lsm_files"]
        assert answer != YES
        pytest.skip(f"lsm_files: {answer}")

    new.kernel.retire_predecessors()

    assert pins.of_file_hooks(new.kernel.directory) == standing
    assert pins.is_complete(new.kernel.directory)
    assert not old.kernel.directory.exists()


def test_a_start_that_waits_for_the_old_responder_is_answered(
    attach_patiently: Callable[[], Agent], fresh: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = attach_patiently()
    os.kill(responder.ensure_running(old.config).pid, signal.SIGSTOP)  # as if hashing took so long
    with old.start(fresh(), tmp_path / "mark") as waiting:
        wait_for("the start to wait", lambda: old.kernel.tables.counters()["held"], timeout_s=DEADLINE_S)
        as_another_release(monkeypatch)
        new = attach_patiently()
        assert waiting.poll() is None

        new.kernel.retire_predecessors()

        assert waiting.wait() == 7
