# SPDX-License-Identifier: Apache-2.0
"""The brake alone, while no loop reads anything: who changes too many files does not get past the limit."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mamplus_host.config import cgroup_path
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.processes.process import Processes
from mamplus_host.executor.processes.stopping import Stopper
from mamplus_host.protected.brake import Brake, Spared
from tests.kernel import acts

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

FILES, LIMIT = 400, 13
# One event may be in the hands of each other thread while the writer goes on: it is counted a file later.
BOUND = LIMIT + (os.cpu_count() or 1)

_EACH = "import os, sys\nat = sys.argv[1]\nfor n in sorted(os.listdir(at)):\n "
# By name: a program that goes through the files of the directory that is its last word, at once.
WAYS = {
    name: ["python3", "-S", "-c", _EACH + source]
    for name, source in {
        "removes": "os.unlink(f'{at}/{n}')",
        "cuts": "os.truncate(f'{at}/{n}', 1)",
        "writes over": "os.pwrite(os.open(f'{at}/{n}', os.O_WRONLY), b'x', 0)",
        "moves away": "os.rename(f'{at}/{n}', f'{at}/../{n}')",
        "moves another over it": "open(f'{at}/../{n}', 'w').close(); os.rename(f'{at}/../{n}', f'{at}/{n}')",
    }.items()
} | {"starts a program for each": ["/bin/dash", "-c", 'for f in "$0"/*; do rm "$f"; done']}


class Place:
    """Files that count, and a cgroup in whose scope they are changed."""

    def __init__(self, directory: Path, scope: Path, kept: Path) -> None:
        self.directory, self.scope, self.limited_to = directory, scope, scope
        self.tgids: frozenset[int] = frozenset()
        self.programs: tuple[str, ...] = ()
        self.managers: tuple[str, ...] = ()
        self.kept = kept
        self.brake = Brake(kept, files=LIMIT, window_s=600.0, spared=self.spared)
        for number in range(FILES):
            (directory / f"{number:04}").write_text(f"number {number}")
        self.before = self.seen()
        for name in self.before:
            self.brake.count(str(directory / name), True)

    def spared(self) -> Spared:
        scope = cgroup_path(acts.config_for(self.kept.parent, self.limited_to))
        return Spared(scope=scope, tgids=self.tgids, units=(), programs=self.programs, managers=self.managers)

    def seen(self) -> dict[str, tuple[int, str]]:
        return {path.name: (path.stat().st_ino, path.read_text()) for path in self.directory.iterdir()}

    def changed(self) -> int:
        now = self.seen()
        return sum(now.get(name) != was for name, was in self.before.items())

    def start(self, command: list[str], *, on: bool = True) -> "subprocess.Popen[bytes]":
        """Start a program in the scope."""
        self.brake.refresh()
        self.brake.turn(on)
        return subprocess.Popen(
            [*command, str(self.directory)], preexec_fn=lambda: (self.scope / "cgroup.procs").write_text("0")
        )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with acts.own_tmpfs() as own, acts.own_cgroup() as scope:
        (own / "files").mkdir()
        made = Place(own / "files", scope, tmp_path / "braked")
        assert not made.brake.why_not
        yield made
        (scope / "cgroup.kill").write_text("1")
        made.brake.close()


def stops(process: "subprocess.Popen[bytes]") -> bool:
    """Wait until a child is stopped (True) or has ended."""
    _pid, status = os.waitpid(process.pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        process.returncode = os.waitstatus_to_exitcode(status)
    return os.WIFSTOPPED(status)


@pytest.mark.parametrize("way", WAYS)
def test_whoever_changes_files_stands_still_at_the_limit(place: Place, way: str) -> None:
    process = place.start(WAYS[way])

    assert stops(process)
    assert LIMIT <= place.changed() <= BOUND
    found: dict[int, int] = {}
    place.brake.hand_over(found.update)
    assert list(found) == [process.pid]


def test_who_is_stopped_goes_on_when_the_next_agent_comes(place: Place) -> None:
    process = place.start(WAYS["removes"])
    assert stops(process)
    place.brake.turn(False)  # the agent dies before it has judged

    following = Brake(place.kept, files=LIMIT, window_s=600.0, spared=place.spared)
    config = acts.config_for(place.kept.parent, place.scope)
    stopper = Stopper(config.state, Processes.of(config, GuardSet()))
    following.hand_over(stopper.adopt)
    stopper.go_on()
    following.close()

    assert not stops(process)
    assert place.changed() == FILES


def gets_through(place: Place, command: list[str], *, on: bool = True) -> bool:
    return not stops(place.start(command, on=on)) and place.changed() == FILES


def test_nobody_is_stopped_while_the_brake_is_off_nor_for_what_was_done_then(place: Place) -> None:
    assert gets_through(place, WAYS["writes over"], on=False)
    process = place.start(["python3", "-S", "-c", "import os, sys; os.unlink(sys.argv[1] + '/0000')"])
    assert not stops(process)


def test_nobody_outside_of_the_scope_is_stopped(place: Place) -> None:
    with acts.own_cgroup() as other:
        place.limited_to = other
        assert gets_through(place, WAYS["removes"])


def test_a_program_of_the_guard_set_is_not_stopped_and_one_of_its_name_is(place: Place, tmp_path: Path) -> None:
    shell = str(shutil.copy("/bin/dash", place.directory.parent / "shell"))
    removes = [shell, "-c", 'for f in "$0"/*; do >"$f"; done']
    place.programs = (str(tmp_path / "shell"),)
    assert stops(place.start(removes))
    place.programs = (shell,)
    assert gets_through(place, removes)


def test_the_package_manager_is_not_stopped_nor_what_it_starts(place: Place) -> None:
    manager = str(shutil.copy("/bin/dash", place.directory.parent / "manager"))
    place.managers = (manager,)
    assert gets_through(place, [manager, "-c", '"$@"; true', "sh", *WAYS["removes"]])


def test_a_package_manager_that_others_may_write_is_stopped(place: Place) -> None:
    manager = Path(shutil.copy("/bin/dash", place.directory.parent / "manager"))
    manager.chmod(0o777)
    place.managers = (str(manager),)
    assert stops(place.start([str(manager), "-c", 'for f in "$0"/*; do >"$f"; done']))


def test_who_writes_one_file_again_and_again_is_not_stopped(place: Place) -> None:
    source = "import os, sys\nfd = os.open(f'{sys.argv[1]}/0000', 1)\nfor n in range(1000): os.pwrite(fd, b'x', n)"
    assert not stops(place.start(["python3", "-S", "-c", source]))


def test_what_is_no_longer_protected_does_not_count(place: Place) -> None:
    for name in place.before:
        place.brake.count(str(place.directory / name), False)
    assert gets_through(place, WAYS["removes"])
