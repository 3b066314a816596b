# SPDX-License-Identifier: Apache-2.0
"""Freezing, thawing and killing real programs, in cgroups of the test's own."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.processes.cgroups import members
from mamplus_host.executor.processes.process import HOLD_PREFIX, Processes
from mamplus_host.executor.processes.tasks import task
from story.stage import wait_for
from tests.kernel import acts

pytestmark = pytest.mark.kernel

FAMILY = """
    import mmap, os, sys
    def count(name):
        with open(name, "wb") as file:
            file.write(bytes(8))
        with open(name, "r+b") as file:
            page = mmap.mmap(file.fileno(), 8)
        number = 0
        while True:
            number += 1
            page[:] = number.to_bytes(8, "little")
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        count(sys.argv[1] if grandchild else sys.argv[2])
    print(child, flush=True)
    os.wait()
"""


@pytest.fixture
def scope() -> Iterator[Path]:
    with acts.own_cgroup() as path:
        yield path


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def processes(scope: Path, *guarded: int) -> Processes:
    return Processes(scope, acts.MOUNT, GuardSet.of_pids(guarded))


def test_the_apps_own_cgroup_is_frozen_in_place_and_counts_on_after_thawing(scope: Path, tmp_path: Path) -> None:
    app = scope / "app"
    app.mkdir()
    with acts.counting(tmp_path, app) as first, acts.counting(tmp_path, app) as second:
        acting = processes(scope)
        hold = acting.where(first.pid, now(), "x1")
        assert (hold.cgroup, hold.origin) == (str(app), "")

        assert acting.freeze(hold)
        assert first.stands_still()
        assert second.stands_still()

        acting.thaw(hold)
        first.await_moving()
        second.await_moving()


def test_in_the_scope_itself_only_the_program_is_frozen_and_it_moves_back(scope: Path, tmp_path: Path) -> None:
    with acts.counting(tmp_path, scope) as suspect, acts.counting(tmp_path, scope) as bystander:
        acting = processes(scope)
        hold = acting.where(suspect.pid, now(), "x2")

        assert acting.freeze(hold)
        assert suspect.stands_still()
        bystander.await_moving()
        assert members(scope / f"{HOLD_PREFIX}x2") == {suspect.pid}

        acting.thaw(hold)
        suspect.await_moving()
        assert (scope / "cgroup.procs").read_text().split().count(str(suspect.pid)) == 1
        assert not list(scope.glob(f"{HOLD_PREFIX}*"))


def test_descendants_are_held_with_their_ancestor(scope: Path, tmp_path: Path) -> None:
    pages = [tmp_path / "child", tmp_path / "grandchild"]
    with acts.running(FAMILY, *map(str, pages), cgroup=scope) as parent:
        child = int(parent.line())
        _await_nonzero(pages)
        acting = processes(scope)
        hold = acting.where(parent.pid, now(), "x3")

        assert acting.freeze(hold)
        held = members(Path(hold.cgroup))
        before = [page.read_bytes() for page in pages]
        time.sleep(0.05)
        assert [page.read_bytes() for page in pages] == before
        assert len(held) == 3
        assert {parent.pid, child} < held

        acting.kill_held(hold)
        assert parent.process.wait(10) == -9
        assert task(child) is None or child not in members(scope)
        assert not Path(hold.cgroup).exists()


def _await_nonzero(pages: list[Path]) -> None:
    wait_for("them to count", lambda: all(any(page.read_bytes()) for page in pages), timeout_s=acts.SOON_S)


def test_killing_a_held_app_ends_all_of_it_and_leaves_its_cgroup_usable(scope: Path, tmp_path: Path) -> None:
    app = scope / "app"
    app.mkdir()
    with acts.counting(tmp_path, app) as first, acts.counting(tmp_path, app) as second:
        acting = processes(scope)
        hold = acting.where(first.pid, now(), "x4")
        acting.freeze(hold)

        acting.kill_held(hold)

        assert (first.program.process.wait(10), second.program.process.wait(10)) == (-9, -9)
    with acts.counting(tmp_path, app) as later:
        later.await_moving()


def test_killing_one_process_spares_the_others_of_its_cgroup(scope: Path, tmp_path: Path) -> None:
    with acts.counting(tmp_path, scope) as target, acts.counting(tmp_path, scope) as other:
        processes(scope).kill(target.pid, now())

        assert target.program.process.wait(10) == -9
        other.await_moving()


def test_a_guarded_process_is_neither_killed_nor_frozen(scope: Path, tmp_path: Path) -> None:
    with acts.counting(tmp_path, scope) as guarded:
        acting = processes(scope, guarded.pid)
        for act in (acting.kill, lambda tgid, at: acting.where(tgid, at, "x5")):
            with pytest.raises(ActionFailed, match=f"process {guarded.pid} is guarded"):
                act(guarded.pid, now())
        guarded.await_moving()


def test_a_cgroup_with_a_guarded_process_is_not_frozen_but_the_suspect_in_it_is(scope: Path, tmp_path: Path) -> None:
    app = scope / "app"
    app.mkdir()
    with acts.counting(tmp_path, app) as suspect, acts.counting(tmp_path, app) as guarded:
        acting = processes(scope, guarded.pid)
        hold = acting.where(suspect.pid, now(), "x6")
        assert acting.freeze(hold)

        assert suspect.stands_still()
        guarded.await_moving()
        acting.thaw(hold)
        suspect.await_moving()


@pytest.mark.parametrize("tgid", [0, 1])
def test_pid_0_and_1_are_always_guarded(scope: Path, tgid: int) -> None:
    with pytest.raises(ActionFailed, match="is guarded"):
        processes(scope).kill(tgid, now())


def test_nothing_outside_of_the_scope_is_touched(scope: Path, tmp_path: Path) -> None:
    with acts.own_cgroup() as elsewhere, acts.counting(tmp_path, elsewhere) as stranger:
        acting = processes(scope)
        for act in (acting.kill, lambda tgid, at: acting.where(tgid, at, "x7")):
            with pytest.raises(ActionFailed, match="is outside of the scope"):
                act(stranger.pid, now())
        stranger.await_moving()


def test_a_process_id_that_another_program_has_got_is_not_acted_on(scope: Path, tmp_path: Path) -> None:
    before = now() - 10**9
    with acts.counting(tmp_path, scope) as newer:
        with pytest.raises(ActionFailed, match="is another program by now"):
            processes(scope).kill(newer.pid, before)
        newer.await_moving()


def test_a_process_that_has_ended_is_an_action_that_failed(scope: Path) -> None:
    with acts.running("pass", cgroup=scope) as program:
        program.process.wait(10)
        with pytest.raises(ActionFailed, match="has ended already"):
            processes(scope).kill(program.pid, now())


def test_a_frozen_program_can_be_killed_alone(scope: Path, tmp_path: Path) -> None:
    with acts.counting(tmp_path, scope) as suspect:
        acting = processes(scope)
        hold = acting.where(suspect.pid, now(), "x8")
        acting.freeze(hold)

        acting.kill(suspect.pid, now())

        assert suspect.program.process.wait(10) == -9
        acting.thaw(hold)


def test_a_name_full_of_parentheses_does_not_confuse_the_start_time(scope: Path) -> None:
    source = """
        import sys, time
        open("/proc/self/comm", "w").write(") R 1 1 (")
        print("named", flush=True)
        time.sleep(60)
    """
    with acts.running(source, cgroup=scope) as program:
        program.line()
        found = task(program.pid)

    assert found is not None
    assert (found.comm, found.ppid) == (") R 1 1 (", os.getpid())
    assert 0 < now() - found.start_ns < 60 * 10**9
