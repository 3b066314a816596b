# SPDX-License-Identifier: Apache-2.0
"""Who rewrites many protected files is stopped, and goes on when somebody answers for it."""

import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mamplus_host.config import Agent, VaultPolicy
from mamplus_host.errors import ActionFailed
from mamplus_host.events import MassRewrite
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.processes.process import Processes
from mamplus_host.executor.processes.stopping import Stopper
from mamplus_host.executor.processes.tasks import task
from mamplus_host.executor.vault.window import BY_PERSON
from story.stage import wait_for
from tests.kernel import acts
from tests.kernel.protecting import Device, by_another, device, manager, place, sh, state_of, tree

__all__ = ["device", "manager", "place", "tree"]  # fixtures
pytestmark = pytest.mark.kernel


@pytest.fixture
def writer(device: Device) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts Python programs in the scope that end when they are told to."""
    started = []

    def start(source: str) -> subprocess.Popen[bytes]:
        scope = Path(device.config.scope.cgroup)
        process = subprocess.Popen(
            ["python3", "-S", "-c", source], preexec_fn=lambda: (scope / "cgroup.procs").write_text("0"),
            stdout=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_who_rewrites_many_files_is_stopped_by_the_watch_and_goes_on_when_it_is_let(
    device: Device, tree: Path, writer: Callable[[str], "subprocess.Popen[bytes]"]
) -> None:
    for number in range(40):
        (tree / f"{number:03}").write_text(f"number {number}")
    device.protecting.protect(tree)
    process = writer(
        "import os, time\nfor n in range(40):\n"
        f" open(f'{tree}/{{n:03}}', 'wb').write(os.urandom(9000)); time.sleep(.1)\n"
        "print('through')"
    )
    mass: list[MassRewrite] = []
    while not mass:
        mass = device.turn(settles=False)
    assert mass[0].tgid == process.pid
    assert "were stopped after" in mass[0].stopped
    wait_for("the signal to be taken", lambda: state_of(process.pid) == "T")
    assert len(mass[0].paths) < 40

    device.protecting.let_go()
    assert process.stdout is not None
    assert process.stdout.readline() == b"through\n"


REMOVES_ALL = """
import os, sys
for name in sorted(os.listdir(sys.argv[1])):
    os.unlink(os.path.join(sys.argv[1], name))
print("through", flush=True)
sys.stdin.read()
"""


def remover(device: Device, tree: Path, *by: str | Path) -> "subprocess.Popen[bytes]":
    """A program (below `by`) that removes all that is in a tree, says so, and waits."""
    return subprocess.Popen(
        [*by, "python3", "-S", "-c", REMOVES_ALL, tree],
        preexec_fn=lambda: (Path(device.config.scope.cgroup) / "cgroup.procs").write_text("0"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("by_the_manager", [False, True], ids=["nobody answers for it", "the package manager's child"])
def test_who_removed_many_is_judged_once_and_goes_on_when_somebody_answers_for_it(
    device: Device, tree: Path, manager: Path, by_the_manager: bool
) -> None:
    for number in range(40):
        (tree / f"{number:03}").write_text(f"number {number}")
    device.protecting.protect(tree)
    by: tuple[str | Path, ...] = (manager, "-c", '"$@"; true', "sh") if by_the_manager else ()
    process = remover(device, tree, *by)
    assert process.stdout is not None
    assert process.stdout.readline() == b"through\n"
    stopped: list[int] = []
    stop = device.stopper.stop

    def noted(tgid: int, boot_ns: int) -> int:
        stopped.append(tgid)
        return stop(tgid, boot_ns)

    device.stopper.stop = noted  # type: ignore[method-assign]
    mass = device.turn(settles=False)

    assert len(mass) == (0 if by_the_manager else 1)
    assert len(stopped) >= 1 if by_the_manager else stopped == [process.pid]
    device.protecting.let_go()
    process.communicate(timeout=20)  # it goes on


@pytest.fixture
def braking(tmp_path: Path, manager: Path) -> Iterator[Callable[..., Device]]:
    """Make a device whose brake stops whoever changes 13 files, and put 40 files into a protected tree."""
    with ExitStack() as stack:
        scope = stack.enter_context(acts.own_cgroup())

        def make(tree: Path, **policy: object) -> Device:
            made = Device(acts.config_for(tmp_path / "state", scope, **policy), manager, braked_after=13)
            stack.callback(made.close)
            for number in range(40):
                (tree / f"{number:03}").write_text(f"number {number}")
            made.protecting.protect(tree)
            return made

        yield make


@pytest.mark.parametrize("files", [10, 1000], ids=["too many", "not too many"])
def test_whom_the_brake_stopped_is_judged_by_what_the_watch_saw(
    braking: Callable[..., Device], tree: Path, files: int
) -> None:
    device = braking(tree, vault=VaultPolicy(mass_files=files))
    process = remover(device, tree)
    select.select([device.brake], [], [], 60)
    mass = device.turn(settles=False)

    assert [one.tgid for one in mass] == ([process.pid] if files == 10 else [])
    assert process.pid in device.stopper.stopped
    device.brake.turn(False)  # it would be stopped again at the next thirteen
    device.protecting.let_go()
    assert process.stdout is not None
    assert process.stdout.readline() == b"through\n"
    process.communicate(timeout=20)


def test_what_was_put_back_counts_like_what_was_never_touched(braking: Callable[..., Device], tree: Path) -> None:
    device = braking(tree)
    before = len(list(tree.iterdir()))
    for number in range(30):
        (tree / f"{number:03}").unlink()
    device.restorer.do(device.restorer.prepare("test", {"path": f"{tree}/"}))
    process = remover(device, tree)
    select.select([device.brake], [], [], 60)

    assert before - len(list(tree.iterdir())) <= 13 + (os.cpu_count() or 1)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("why", ["monitor mode", "a window", "a maintenance window"])
def test_the_brake_stops_nobody_whom_the_watch_would_let_go(
    braking: Callable[..., Device], tree: Path, why: str
) -> None:
    device = braking(tree, agent=Agent(mode="monitor" if why == "monitor mode" else "enforce"))
    if why == "a window":
        device.protecting.open_window(5, BY_PERSON)
    device.maintenance = why == "a maintenance window"
    device.protecting.tick()
    process = remover(device, tree)
    assert process.stdout is not None
    assert process.stdout.readline() == b"through\n"
    process.communicate(timeout=20)


def test_a_mass_rewrite_does_not_hide_what_else_was_changed(device: Device, tree: Path, place: Path) -> None:
    for number in range(40):
        (tree / f"{number:03}").write_text(f"number {number}")
    other = place / "other"
    other.write_text("as deployed")
    device.protecting.protect(tree)
    device.protecting.protect(other)
    by_another("python3", "-S", "-c", REMOVES_ALL.replace("sys.stdin.read()", ""), tree)
    sh(f"echo evil >{other}")

    assert device.turn()

    assert other.read_text() == "as deployed"


def test_what_a_stopped_family_made_is_not_protected(
    device: Device, tree: Path, writer: Callable[[str], "subprocess.Popen[bytes]"]
) -> None:
    for number in range(40):
        (tree / f"{number:03}").write_text(f"number {number}")
    device.protecting.protect(tree)
    writer(
        "import os, time\nfor n in range(40):\n"
        f" open(f'{tree}/{{n:03}}.locked', 'wb').write(os.urandom(9000))\n"
        f" os.unlink(f'{tree}/{{n:03}}'); time.sleep(.1)\n"
    )
    sh(f"echo mine >{tree}/of-another")
    while not device.turn(settles=False):
        pass
    device.tick()

    assert (tree / "000.locked").exists()
    assert not device.vault.is_protected(str(tree / "000.locked"))
    assert device.vault.is_protected(str(tree / "of-another"))
    assert "was stopped" in device.protecting.state().not_taken[str(tree / "000.locked")]


def test_who_was_stopped_by_an_agent_that_died_is_let_go_by_the_next(
    device: Device, writer: Callable[[str], "subprocess.Popen[bytes]"]
) -> None:
    process = writer("import time\nprint('ready', flush=True)\ntime.sleep(0.2)\nprint('through')")
    assert process.stdout is not None
    process.stdout.readline()
    assert device.stopper.stop(process.pid, device.clock.boot_ns()) == 1
    Stopper(device.config.state, Processes.of(device.config, GuardSet())).recover()
    assert process.stdout.readline() == b"through\n"


def test_nobody_outside_of_the_scope_is_stopped(device: Device) -> None:
    outside = subprocess.Popen(["sleep", "60"])
    with pytest.raises(ActionFailed, match="outside of the scope"):
        device.stopper.stop(outside.pid, device.clock.boot_ns())
    assert state_of(outside.pid) != "T"
    outside.kill()
    outside.wait()


def test_whom_the_brake_stopped_goes_on_also_when_the_loop_may_not_stop_it(device: Device) -> None:
    outside = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    outside.send_signal(signal.SIGSTOP)
    os.waitpid(outside.pid, os.WUNTRACED)
    found = task(outside.pid)
    assert found is not None
    device.stopper.adopt({outside.pid: found.start_ns})
    with pytest.raises(ActionFailed, match="outside of the scope"):
        device.stopper.stop(outside.pid, device.clock.boot_ns())

    device.stopper.go_on()

    outside.communicate(timeout=20)


@pytest.mark.timeout(60)
def test_pipes_devices_and_links_in_the_place_of_rewritten_files_are_not_opened(device: Device, tmp_path: Path) -> None:
    """Opening a pipe waits for who writes: whoever rewrote many files would stop the agent with one."""
    pipe, link, text = tmp_path / "pipe", tmp_path / "link", tmp_path / "text"
    os.mkfifo(pipe)
    link.symlink_to("/dev/null")
    text.write_text("as it was")
    device.protecting.protect(text)

    assert device.protecting.judging.scrambled([str(pipe), str(link), str(text)]) == 0
