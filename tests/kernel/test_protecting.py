# SPDX-License-Identifier: Apache-2.0
"""Protected trees: what is new in them, whose changes are kept, and what no event tells."""

import hashlib
import os
import select
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from mamplus_host.clock import SystemClock
from mamplus_host.config import Agent, Config, VaultPolicy, cgroup_path
from mamplus_host.errors import ActionFailed, NotPossible
from mamplus_host.events import FileChange, MassRewrite
from mamplus_host.executor.actions.restore import MAX_RESTORES, Restore
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.processes.process import Processes
from mamplus_host.executor.processes.stopping import Stopper
from mamplus_host.executor.processes.tasks import task
from mamplus_host.executor.vault.vault import Vault
from mamplus_host.executor.vault.window import BY_MANAGER, BY_PERSON
from mamplus_host.protected.brake import Brake, Spared
from mamplus_host.protected.package_managers import PackageManagers
from mamplus_host.protected.protecting import MAX_NOT_TAKEN, Protecting
from story.stage import wait_for
from tests.kernel import acts

pytestmark = pytest.mark.kernel


class Clock(SystemClock):
    ahead_s = 0.0

    def boot_ns(self) -> int:
        return super().boot_ns() + int(self.ahead_s * 1e9)


class Device:
    """Vault, watch and restorer, as the service joins them."""

    def __init__(self, config: Config, manager: Path, braked_after: int = 1000) -> None:
        self.config, self.clock = config, Clock()
        config.state.mkdir(exist_ok=True)
        self.told: list[str] = []
        self.journal: list[dict[str, object]] = []
        self.vault = Vault(config.state / "vault", limits=config.limits, clock=self.clock)
        self.restorer = Restore(self.vault, self.clock)
        self.maintenance = False
        self.writers: set[int] = set()  # programs that the policy names
        guarded = GuardSet.of_pids([os.getpid()])
        self.stopper = Stopper(config.state, Processes.of(config, guarded))
        managers = PackageManagers(programs=[str(manager)])
        self.programs: tuple[str, ...] = ()  # the guard set's
        self.brake = Brake(config.state / "braked", files=braked_after, window_s=60.0, spared=lambda: Spared(
            scope=cgroup_path(config), tgids=guarded.numbers(), units=(), programs=self.programs,
            managers=managers.programs,
        ))  # fmt: skip
        self.protecting = Protecting(
            config, self.vault, clock=self.clock, boot_id="boot", stopper=self.stopper,
            brake=self.brake, managers=managers, ancestors=lambda _tgid: [],
            covers=lambda _boot_ns: self.maintenance, note=self.journal.append,
            told=lambda rule, _summary: self.told.append(rule), allows=lambda change: change.tgid in self.writers,
        )  # fmt: skip

    def turn(self, *, waits: bool = True, settles: bool = True) -> list[MassRewrite]:
        """What the loop does with what was touched; return the mass rewrites."""
        if waits:
            select.select([self.protecting.files], [], [], 5)
        mass = []
        for event in self.protecting.read():
            if isinstance(event, MassRewrite):
                mass.append(event)
            else:
                self.treat(event)
        if settles:
            self.protecting.settle()
        return mass

    def treat(self, change: FileChange) -> None:
        path = change.path
        self.protecting.accepting.doubt(change)
        if self.vault.is_protected(path) and not self.vault.is_suspended(path) and not self.vault.intact(path):
            if self.protecting.accepting.may(change):
                return
            try:
                self.restorer.do(self.restorer.prepare("test", {"path": path}))
            except ActionFailed:
                return
        if self.vault.is_protected(path):
            self.protecting.rewatch(path)

    def tick(self, seconds: float = 60.0) -> None:
        """Let time go by until what no event told is found: with the second look."""
        self.clock.ahead_s += seconds
        for _look in range(2):
            for change in self.protecting.tick():
                self.treat(change)
        self.protecting.settle()

    def holds(self, path: Path) -> tuple[str, str]:
        """Return what is at `path`, and what should be there."""
        return path.read_text(), self.vault.beginning(str(path), 100).decode()

    def close(self) -> None:
        self.protecting.close()
        self.vault.close()


@pytest.fixture
def place() -> Iterator[Path]:
    with acts.own_tmpfs() as path:
        yield path


@pytest.fixture
def manager(place: Path) -> Path:
    """A program that stands for the package manager's: it runs what it is given, and waits."""
    path = place / "manager"
    shutil.copy("/bin/dash", path)
    return path


@pytest.fixture
def device(tmp_path: Path, manager: Path) -> Iterator[Device]:
    with acts.own_cgroup() as scope:
        one = Device(acts.config_for(tmp_path / "state", scope), manager)
        yield one
        one.close()


@pytest.fixture
def tree(place: Path) -> Path:
    path = place / "tree"
    path.mkdir()
    (path / "old").write_text("as deployed")
    return path


def by_another(*command: str | Path) -> None:
    subprocess.run(command, check=True, timeout=20)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def sh(text: str) -> None:
    by_another("/bin/sh", "-c", text)


def test_what_is_new_in_a_tree_is_protected_when_nobody_has_touched_it_for_a_while(device: Device, tree: Path) -> None:
    device.protecting.protect(tree)
    sh(f"mkdir -p {tree}/new/deep; echo one >{tree}/new/deep/file; ln -s file {tree}/new/deep/link")
    device.turn()
    assert not device.vault.is_protected(str(tree / "new" / "deep" / "file"))
    device.tick()

    for name in ("new", "new/deep", "new/deep/file", "new/deep/link"):
        assert device.vault.is_protected(str(tree / name))
    sh(f"echo evil >{tree}/new/deep/file; rm {tree}/new/deep/link")
    device.turn()
    assert (tree / "new" / "deep" / "file").read_text() == "one\n"
    assert os.readlink(tree / "new" / "deep" / "link") == "file"


def test_what_comes_and_goes_before_it_is_quiet_is_not_protected(device: Device, tree: Path) -> None:
    device.protecting.protect(tree)
    sh(f"echo draft >{tree}/draft")
    device.turn()
    sh(f"rm {tree}/draft")
    device.turn()
    device.tick()
    assert not device.vault.is_protected(str(tree / "draft"))
    assert device.protecting.state().pending == 0


def test_a_tree_is_followed_by_the_next_agent_too(device: Device, tree: Path, manager: Path) -> None:
    device.protecting.protect(tree)
    sh(f"mkdir {tree}/new")
    device.turn()
    device.tick()
    again = Device(device.config, manager)
    sh(f"echo x >{tree}/new/later")
    again.turn()
    again.tick()
    assert again.vault.is_protected(str(tree / "new" / "later"))
    again.close()


def test_a_change_in_a_window_is_kept_and_one_after_it_is_undone(device: Device, tree: Path) -> None:
    device.protecting.protect(tree)
    device.protecting.open_window(15, BY_PERSON)
    sh(f"echo updated >{tree}/old")
    device.turn()
    assert (tree / "old").read_text() == "updated\n"
    device.protecting.close_window(BY_PERSON)
    sh(f"echo evil >{tree}/old")
    device.turn()

    assert (tree / "old").read_text() == "updated\n"
    assert len([one for one in device.vault.versions(tree / "old") if one.kind == "golden"]) == 2
    assert device.told == ["vault-window", "vault-window"]
    assert device.protecting.accepting.accepted == 1


def test_what_was_removed_in_a_window_stays_away_and_comes_back_on_demand(device: Device, tree: Path) -> None:
    device.protecting.protect(tree)
    then = device.clock.wall_s()
    device.protecting.open_window(15, BY_PERSON)
    sh(f"rm {tree}/old")
    device.turn()
    device.protecting.close_window(BY_PERSON)
    device.tick()
    assert not (tree / "old").exists()
    for step in device.vault.plan(tree, at=then):
        device.protecting.put([step])
    assert (tree / "old").read_text() == "as deployed"


def test_a_window_ends_by_itself_outlives_the_agent_and_not_the_boot(device: Device, manager: Path) -> None:
    device.protecting.open_window(1, BY_PERSON)
    again = Device(device.config, manager)
    assert again.protecting.accepting.window.is_open()
    again.clock.ahead_s = 61
    assert not again.protecting.accepting.window.is_open()
    again.close()
    with pytest.raises(NotPossible, match="want more than 0, and at most 1440"):
        device.protecting.open_window(100_000, BY_PERSON)


def test_where_the_kernel_names_the_writer_a_hook_opens_no_window(device: Device) -> None:
    assert device.protecting.files.names_writers
    device.protecting.open_window(15, BY_MANAGER)
    assert not device.protecting.accepting.window.is_open()


def test_a_maintenance_window_answers_for_changes(device: Device, tree: Path) -> None:
    device.protecting.protect(tree)
    device.maintenance = True
    sh(f"echo serviced >{tree}/old")
    device.turn()
    assert (tree / "old").read_text() == "serviced\n"
    assert device.vault.intact(str(tree / "old"))


def full(*_arguments: object, **_how: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")


def by_the_writer(device: Device, text: str) -> None:
    """Run a shell script that the policy allows to change files."""
    with subprocess.Popen(["/bin/sh", "-c", f"read line; {text}"], stdin=subprocess.PIPE) as process:
        device.writers.add(process.pid)
        process.communicate(b"go\n", timeout=20)


def keep_while_another_writes(device: Device, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a writer's change kept, and another write the file after that began."""
    by_the_writer(device, f"echo updated >{tree}/old")
    accept = device.vault.accept

    def late(path: str, *, closed: bool) -> bool:
        sh(f"echo evil >{tree}/old")
        return accept(path, closed=closed)

    with monkeypatch.context() as slow:
        slow.setattr(device.vault, "accept", late)
        device.turn()


def test_a_change_that_is_found_before_its_event_is_read_is_not_taken_for_nobodys(device: Device, tree: Path) -> None:
    device.protecting.protect(tree)
    by_the_writer(device, f"echo updated >{tree}/old")

    for change in device.protecting.tick():
        device.treat(change)
    device.turn()

    assert (tree / "old").read_text() == "updated\n"
    assert device.vault.intact(str(tree / "old"))


def test_what_another_writes_before_the_writers_change_is_kept_is_not_kept(device: Device, tree: Path) -> None:
    device.protecting.protect(tree)
    by_the_writer(device, f"echo updated >{tree}/old")
    sh(f"echo evil >{tree}/old")

    device.turn()

    assert device.holds(tree / "old") == ("as deployed", "as deployed")


def test_what_another_writes_while_the_writers_change_is_kept_is_not_kept(
    device: Device, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.protecting.protect(tree)
    keep_while_another_writes(device, tree, monkeypatch)
    device.turn()

    assert (tree / "old").read_text() == "as deployed"
    replaced = [one.sha256 for one in device.vault.versions(tree / "old") if one.kind == "replaced"]
    assert replaced == [hashlib.sha256(b"evil\n").hexdigest()]


MAPS = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
print(flush=True)
sys.stdin.readline()
memory[:4] = b"evil"
print(flush=True)
sys.stdin.readline()
"""


def test_what_another_writes_through_a_mapping_before_the_writers_change_is_kept_is_not_kept(
    device: Device, tree: Path
) -> None:
    device.protecting.protect(tree)
    device.clock.ahead_s = -60  # what is kept now was kept long before what is read
    with subprocess.Popen(
        ["python3", "-S", "-c", MAPS, tree / "old"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as mapper:
        assert mapper.stdout
        assert mapper.stdin
        mapper.stdout.readline()
        by_the_writer(device, f"printf updated >{tree}/old")
        mapper.stdin.write(b"go\n")
        mapper.stdout.readline()  # what it wrote is told when it lets go
        device.turn()
        assert device.protecting.read() == []
        mapper.communicate(b"end\n")
    device.turn()

    assert device.holds(tree / "old") == ("as deployed", "as deployed")


def test_what_the_writer_has_open_still_is_kept_when_it_is_closed(device: Device, tree: Path) -> None:
    device.protecting.protect(tree)
    with subprocess.Popen(
        ["/bin/sh", "-c", f"read line; exec 3>{tree}/old; printf upda >&3; echo; read line; printf ted >&3"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
    ) as process:  # fmt: skip
        device.writers.add(process.pid)
        assert process.stdout
        assert process.stdin
        process.stdin.write(b"go\n")
        process.stdout.readline()
        device.turn()
        assert device.vault.beginning(str(tree / "old"), 100) == b"as deployed"
        process.communicate(b"end\n")
    device.turn()

    assert device.holds(tree / "old") == ("updated", "updated")


def test_what_is_read_long_after_a_change_was_kept_may_have_been_written_before(
    device: Device, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.protecting.protect(tree)
    device.protecting.read()
    keep_while_another_writes(device, tree, monkeypatch)
    device.clock.ahead_s += 60
    device.protecting.tick()  # nothing was read since
    [change] = [one for one in device.protecting.read() if isinstance(one, FileChange)]
    device.treat(msgspec.structs.replace(change, boot_ns=device.clock.boot_ns()))

    assert (tree / "old").read_text() == "as deployed"


def test_what_is_done_long_after_a_change_was_kept_casts_no_doubt_on_it(device: Device, tree: Path) -> None:
    device.protecting.protect(tree)
    by_the_writer(device, f"echo updated >{tree}/old")
    device.turn()
    [taken] = device.protecting.accepting._taken.values()
    late = FileChange(
        boot_ns=taken[0] + 4_000_000_000, path=str(tree / "old"), changes=("close-write",), tgid=1,
        since_ns=taken[0] + 3_000_000_000,
    )  # fmt: skip

    device.treat(late)

    assert device.vault.beginning(str(tree / "old"), 100) == b"updated\n"


def test_what_another_writes_after_the_writers_change_was_kept_is_undone(device: Device, tree: Path) -> None:
    device.protecting.protect(tree)
    by_the_writer(device, f"echo updated >{tree}/old")
    device.turn()
    sh(f"echo evil >{tree}/old")
    device.turn()
    assert (tree / "old").read_text() == "updated\n"


def test_what_is_told_of_a_writing_when_it_is_undone_does_not_undo_the_writers_change(
    device: Device, tree: Path
) -> None:
    device.protecting.protect(tree)
    by_the_writer(device, f"echo updated >{tree}/old")
    device.turn()
    sh(f"echo evil >{tree}/old")
    [change] = [one for one in device.protecting.read() if isinstance(one, FileChange)]
    device.treat(change)

    device.treat(change)  # it comes in two parts when the queue is read between opening and closing

    assert (tree / "old").read_text() == "updated\n"
    assert device.vault.intact(str(tree / "old"))


def test_what_another_wrote_stays_doubtful_until_what_was_before_can_be_declared_right(
    device: Device, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.protecting.protect(tree)
    with monkeypatch.context() as broken:
        broken.setattr(device.vault, "make_golden", full)
        keep_while_another_writes(device, tree, monkeypatch)
        device.turn()
        device.protecting.tick()
    assert device.vault.beginning(str(tree / "old"), 100) == b"evil\n"

    device.protecting.tick()
    device.tick()

    assert device.holds(tree / "old") == ("as deployed", "as deployed")


def test_what_waits_long_to_be_treated_is_in_doubt_as_when_it_was_read(
    device: Device, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.protecting.protect(tree)
    keep_while_another_writes(device, tree, monkeypatch)
    [change] = [one for one in device.protecting.read() if isinstance(one, FileChange)]
    device.clock.ahead_s += 60
    device.protecting.tick(change.since_ns)

    device.treat(change)

    assert (tree / "old").read_text() == "as deployed"


def test_a_change_that_cannot_be_kept_stays_is_told_once_and_kept_when_it_can_be(
    device: Device, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.protecting.protect(tree)
    with monkeypatch.context() as broken:
        broken.setattr(device.vault, "accept", full)
        by_the_writer(device, f"echo updated >{tree}/old")
        device.turn()
        assert device.protecting.settle_in_s() is None  # no end of trying at once
        for _minute in range(3):
            device.tick()
    assert (tree / "old").read_text() == "updated\n"
    assert device.told == ["vault-not-kept"]

    device.tick()

    assert device.vault.beginning(str(tree / "old"), 100) == b"updated\n"
    assert device.protecting.state().not_taken == {}


def test_what_cannot_be_kept_of_one_file_is_kept_of_another(
    device: Device, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "other").write_text("as deployed")
    device.protecting.protect(tree)
    device.maintenance = True
    accept = device.vault.accept
    monkeypatch.setattr(
        device.vault, "accept", lambda path, **how: full() if path.endswith("old") else accept(path, **how)
    )

    sh(f"echo updated | tee {tree}/old {tree}/other")
    device.turn()

    assert device.vault.beginning(str(tree / "other"), 100) == b"updated\n"
    assert device.protecting.accepting.waits(str(tree / "old"))
    assert device.protecting.settle_in_s() is None
    sh(f"echo again >{tree}/old")
    device.turn(settles=False)
    assert device.protecting.settle_in_s() is not None


def test_what_could_not_be_kept_and_is_unprotected_waits_no_longer(
    device: Device, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.protecting.protect(tree)
    with monkeypatch.context() as broken:
        broken.setattr(device.vault, "accept", full)
        by_the_writer(device, f"echo updated >{tree}/old")
        device.turn()
    device.protecting.unprotect(tree)
    assert not device.protecting.accepting.waits(str(tree / "old"))


def test_what_a_writer_removes_stays_away(device: Device, tree: Path) -> None:
    device.protecting.protect(tree)
    by_the_writer(device, f"exec rm {tree}/old")
    device.turn()
    device.tick()
    assert not (tree / "old").exists()


def held_open(program: Path, text: str) -> "subprocess.Popen[bytes]":
    """Run a shell script that is still there when its changes are looked at."""
    process = subprocess.Popen(
        [program, "-c", f"{text}; echo done; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_the_package_manager_and_what_it_starts_may_change_files(device: Device, tree: Path, manager: Path) -> None:
    device.protecting.protect(tree)
    with held_open(manager, f"/bin/sh -c 'echo packaged >{tree}/old; echo done; read line'") as process:
        device.turn()
        assert (tree / "old").read_text() == "packaged\n"
        assert device.vault.intact(str(tree / "old"))
        process.communicate()
    assert "manager" in str(device.journal[-1]["what"])


def test_a_program_that_only_has_its_name_may_not(device: Device, tree: Path, place: Path) -> None:
    device.protecting.protect(tree)
    (place / "elsewhere").mkdir()
    impostor = place / "elsewhere" / "manager"
    shutil.copy("/bin/dash", impostor)
    with held_open(impostor, f"echo evil >{tree}/old") as process:
        device.turn()
        process.communicate()
    assert (tree / "old").read_text() == "as deployed"


def test_a_package_manager_that_a_user_runs_may_not(manager: Path) -> None:
    managers = PackageManagers(programs=[str(manager)])
    process = subprocess.Popen([manager, "-c", "read line"], stdin=subprocess.PIPE, user=65534, group=65534)
    assert managers.at_work(process.pid) == ""
    process.communicate()
    process = subprocess.Popen([manager, "-c", "read line"], stdin=subprocess.PIPE)
    assert managers.at_work(process.pid) == str(manager)
    process.communicate()
    assert managers.at_work(os.getpid()) == ""


def test_a_mount_over_a_tree_is_told_and_nothing_is_put_into_it(device: Device, tree: Path, place: Path) -> None:
    device.protecting.protect(tree)
    cover = place / "cover"
    cover.mkdir()
    (cover / "old").write_text("another's")
    by_another("mount", "--bind", cover, tree)
    try:
        device.tick()
        sh(f"echo more >{tree}/old")
        device.turn(waits=False)
        device.tick()
        assert (cover / "old").read_text() == "more\n"
        assert device.told == ["vault-covered"]
        assert list(device.protecting.state().covered) == [str(tree)]
    finally:
        by_another("umount", tree)
    (tree / "old").write_text("our own write, which nobody tells")
    device.tick()
    assert (tree / "old").read_text() == "as deployed"
    assert device.protecting.state().covered == {}


def test_a_mount_over_a_file_is_told_once_and_nothing_is_tried_there(device: Device, tree: Path, place: Path) -> None:
    device.protecting.protect(tree)
    other = place / "other"
    other.write_text("another's")
    by_another("mount", "--bind", other, tree / "old")
    try:
        for _ in range(3):
            device.tick()
        assert device.told == ["vault-covered"]
        assert list(device.protecting.state().covered) == [str(tree / "old")]
        assert other.read_text() == "another's"
    finally:
        by_another("umount", tree / "old")
    device.tick()
    assert device.protecting.state().covered == {}


def test_what_cannot_be_put_back_is_tried_more_and_more_seldom(device: Device, tree: Path) -> None:
    device.protecting.protect(tree)
    device.protecting.files.read()
    (tree / "old").write_text("our own write, which nobody tells")
    (tree / "old").chmod(0o600)
    found = []
    for _ in range(20):  # a hundred seconds of ticks
        found.append(len(device.protecting.tick()))
        device.clock.ahead_s += 5
    assert found[:2] == [0, 1]
    assert 3 <= sum(found) <= 5


def test_a_path_that_cannot_be_watched_is_named_and_looked_at_with_every_tick(
    device: Device, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.protecting.protect(tree)
    tier = device.protecting.files._tier

    def no_space(_path: str) -> None:
        raise OSError(28, "no watch is left")

    monkeypatch.setattr(tier, "watch", no_space)
    device.protecting.rewatch(str(tree / "old"))
    assert list(device.protecting.state().unwatched) == [str(tree / "old")]
    (tree / "old").write_text("evil")  # our own writes are not told
    device.tick()
    assert (tree / "old").read_text() == "as deployed"


def test_a_file_that_is_fought_for_does_not_cost_its_tree_the_protection(device: Device, tree: Path) -> None:
    (tree / "other").write_text("as deployed")
    device.protecting.protect(tree)
    for number in range(MAX_RESTORES + 1):
        (tree / "old").write_text(f"evil {number}")
        device.treat(FileChange(boot_ns=1, path=str(tree / "old"), changes=("modify",), tgid=0))
    (tree / "other").write_text("evil")
    device.treat(FileChange(boot_ns=1, path=str(tree / "other"), changes=("modify",), tgid=0))

    assert (tree / "old").read_text() == f"evil {MAX_RESTORES}"
    assert [one.path for one in device.vault.list() if one.suspended] == [str(tree / "old")]
    assert (tree / "other").read_text() == "as deployed"
    assert not any(step.what != "as it is" for step in device.vault.plan(tree) if step.path != str(tree / "old"))


def test_a_mass_restoration_puts_all_back_and_its_undoing_all_away(device: Device, tree: Path) -> None:
    for number in range(200):
        (tree / f"{number:03}").write_text(f"number {number}")
    device.protecting.protect(tree)
    for number in range(150):
        (tree / f"{number:03}").write_text("scrambled")
    for number in range(150, 200):
        (tree / f"{number:03}").unlink()

    facts = device.restorer.prepare("01MASS-restore", {"path": f"{tree}/"})
    assert "200 of 200" in device.restorer.do(facts)
    assert device.restorer.verify(facts) == "done"
    assert all((tree / f"{number:03}").read_text() == f"number {number}" for number in range(200))
    assert "as it was kept" in device.restorer.do(facts)

    assert "150 files" in device.restorer.undo(facts)  # of what was removed there is nothing to bring back
    assert all((tree / f"{number:03}").read_text() == "scrambled" for number in range(150))
    assert device.restorer.verify(facts) == "undone"


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


@pytest.mark.parametrize("by_the_manager", [False, True], ids=["nobody answers for it", "the package manager's child"])
def test_who_removed_many_is_judged_once_and_goes_on_when_somebody_answers_for_it(
    device: Device, tree: Path, manager: Path, by_the_manager: bool
) -> None:
    for number in range(40):
        (tree / f"{number:03}").write_text(f"number {number}")
    device.protecting.protect(tree)
    command = ["python3", "-S", "-c", REMOVES_ALL, str(tree)]
    process = subprocess.Popen(
        [manager, "-c", '"$@"; true', "sh", *command] if by_the_manager else command,
        preexec_fn=lambda: (Path(device.config.scope.cgroup) / "cgroup.procs").write_text("0"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
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


def remover(device: Device, tree: Path) -> "subprocess.Popen[bytes]":
    """A program that removes all that is in a tree, says so, and waits."""
    return subprocess.Popen(
        ["python3", "-S", "-c", REMOVES_ALL, str(tree)],
        preexec_fn=lambda: (Path(device.config.scope.cgroup) / "cgroup.procs").write_text("0"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


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

    assert device.protecting._scrambled([str(pipe), str(link), str(text)]) == 0


def test_what_is_remembered_of_new_files_is_bounded(device: Device, tmp_path: Path) -> None:
    for number in range(MAX_NOT_TAKEN + 10):
        device.protecting._note_not_taken(f"{tmp_path}/{number}", "too many")

    assert len(device.protecting._not_taken) == MAX_NOT_TAKEN
