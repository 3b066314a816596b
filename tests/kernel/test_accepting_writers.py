# SPDX-License-Identifier: Apache-2.0
"""A program that the policy names changes a protected file, and somebody else does at the same time."""

import hashlib
import sqlite3
import subprocess
from pathlib import Path

import msgspec
import pytest

from mamplus_host.events import FileChange
from mamplus_host.executor.vault.window import BY_PERSON
from tests.kernel.protecting import Device, device, manager, place, sh, tree

__all__ = ["device", "manager", "place", "tree"]  # fixtures
pytestmark = pytest.mark.kernel


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
    taken_ns, _before = device.protecting.accepting._paths[str(tree / "old")].taken
    late = FileChange(
        boot_ns=taken_ns + 4_000_000_000, path=str(tree / "old"), changes=("close-write",), tgid=1,
        since_ns=taken_ns + 3_000_000_000,
    )  # fmt: skip

    device.treat(late)

    assert device.vault.beginning(str(tree / "old"), 100) == b"updated\n"


def test_what_a_person_had_kept_since_is_not_taken_back_with_a_writers_change_that_is_in_doubt(
    device: Device, tree: Path
) -> None:
    device.protecting.protect(tree)
    by_the_writer(device, f"echo updated >{tree}/old")
    device.turn()
    taken_ns, _before = device.protecting.accepting._paths[str(tree / "old")].taken
    device.protecting.open_window(15, BY_PERSON)
    sh(f"echo by hand >{tree}/old")
    device.turn()
    device.protecting.close_window(BY_PERSON)

    device.treat(
        FileChange(boot_ns=taken_ns, path=str(tree / "old"), changes=("close-write",), tgid=1, since_ns=taken_ns)
    )

    assert device.holds(tree / "old") == ("by hand\n", "by hand\n")


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
