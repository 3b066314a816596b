# SPDX-License-Identifier: Apache-2.0
"""Trees in the vault: hard links, points in time, versions that go, contents that are packed, power cuts."""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mamplus_host.clock import DeviceClock
from mamplus_host.config import Limits
from mamplus_host.errors import VaultError
from mamplus_host.executor import steps
from mamplus_host.executor.actions.restore import Restore
from mamplus_host.executor.shape import State
from mamplus_host.executor.vault import files as vault_files
from mamplus_host.executor.vault.tree import Step
from mamplus_host.executor.vault.vault import Vault
from tests.kernel.acts import Clock
from tests.kernel.test_vault import CONTENT, picture

pytestmark = pytest.mark.kernel


class PowerCut(BaseException):
    """Nothing catches it: what follows a step does not happen."""


@pytest.fixture
def tree(place: Path) -> Path:
    root = place / "tree"
    (root / "below" / "deep").mkdir(parents=True)
    (root / "a").write_bytes(b"a as deployed")
    (root / "below" / "b").write_bytes(b"b as deployed")
    (root / "below" / "link").symlink_to("b")
    return root


def inode(path: Path) -> int:
    return path.stat().st_ino


def contents(root: Path) -> dict[str, bytes | str]:
    """Everything below a directory."""
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "directory"
    return found


def apply(vault: Vault, plan: list[Step]) -> None:
    for step in plan:
        vault.do(step)
    vault.settle()


@pytest.mark.parametrize("damage", ["in place", "one name removed", "one name replaced", "all names removed"])
def test_a_file_with_several_names_comes_back_as_one_file(vault: Vault, place: Path, damage: str) -> None:
    names = [place / "one", place / "two", place / "three"]
    names[0].write_bytes(CONTENT)
    for name in names[1:]:
        os.link(names[0], name)
    for name in names:
        vault.protect(name)
    before = picture(names[0])

    if damage == "in place":
        names[0].write_bytes(b"evil")
    elif damage == "one name replaced":
        names[1].unlink()
        names[1].write_bytes(b"evil")
    else:
        for name in names if damage == "all names removed" else names[1:2]:
            name.unlink()
    for name in names:
        if not vault.intact(str(name)):
            vault.restore(name)

    assert len({inode(name) for name in names}) == 1
    assert names[0].stat().st_nlink == 3
    assert [picture(name) for name in names] == [before] * 3


def test_a_tree_goes_back_to_a_point_in_time_and_forward_again(vault: Vault, tree: Path, clock: Clock) -> None:
    vault.protect(tree, follow=True)
    first, then = contents(tree), clock.wall_s()
    (tree / "a").write_bytes(b"a updated")
    (tree / "new").mkdir()
    (tree / "new" / "file").write_bytes(b"came later")
    (tree / "below" / "b").unlink()
    for path in ("a", "new", "new/file", "below/b"):
        vault.accept(str(tree / path))
    second, later = contents(tree), clock.wall_s()

    plan = vault.plan(tree, at=then)
    assert {(Path(one.path).name, one.what) for one in plan if one.what != "as it is"} == {
        ("a", "put back"), ("b", "put back"), ("file", "take away"), ("new", "take away"),
    }  # fmt: skip
    assert contents(tree) == second  # a plan changes nothing
    apply(vault, plan)
    assert contents(tree) == first
    assert all(one.what == "as it is" for one in vault.plan(tree))

    apply(vault, vault.plan(tree, at=later))
    assert contents(tree) == second


def test_a_tree_of_which_nothing_was_kept_then_is_an_error_in_words(vault: Vault, tree: Path) -> None:
    vault.protect(tree)
    with pytest.raises(VaultError, match=r"no golden copy of .*tree' as of 5 s"):
        vault.plan(tree, at=5)


def test_what_is_taken_away_can_be_asked_for_again(vault: Vault, tree: Path, clock: Clock) -> None:
    vault.protect(tree)
    then = clock.wall_s()
    (tree / "later").write_bytes(b"of an administrator")
    vault.accept(str(tree / "later"))
    now = clock.wall_s()

    apply(vault, vault.plan(tree, at=then))
    assert not (tree / "later").exists()
    assert not vault.is_protected(str(tree / "later"))
    vault.restore(tree / "later", at=now)

    assert (tree / "later").read_bytes() == b"of an administrator"


def test_versions_go_when_they_are_too_many_or_too_old_and_what_is_protected_stays(
    tmp_path: Path, place: Path, clock: Clock
) -> None:
    one = Vault(tmp_path / "small", limits=Limits(vault_versions=3, vault_version_days=1), clock=clock)
    path = place / "file"
    for number in range(6):
        path.write_bytes(b"%d" % number)
        one.accept(str(path))
    one.tidy()
    assert len(one.versions(path)) == 3

    clock.wall += 10 * 86_400
    one.tidy()
    assert [version.sha256 for version in one.versions(path)] == [one.latest(str(path)).sha256]
    path.unlink()
    one.restore(path)
    assert path.read_bytes() == b"5"
    assert len(list((tmp_path / "small" / "objects").iterdir())) == 1
    one.close()


class Signed(DeviceClock):
    """A device's clock that is wrong by `wrong_s`."""

    wrong_s = 0.0

    def wall_s(self) -> float:
        return super().wall_s() + self.wrong_s


@pytest.mark.parametrize("years", [10, -10], ids=["ahead", "back"])
def test_a_wrong_clock_takes_no_version_away(tmp_path: Path, place: Path, years: int) -> None:
    clock = Signed(tmp_path / "state")
    clock.confirm(clock.wall_s())
    one = Vault(tmp_path / "wrong", limits=Limits(), clock=clock)
    path = place / "file"
    for number in range(3):
        path.write_bytes(b"%d" % number)
        one.accept(str(path))
        clock.wrong_s = years * 365 * 86_400 * number / 2

        one.tidy()

    assert len(one.versions(path)) == 3
    one.close()


def test_an_unchanged_file_that_is_protected_again_is_no_new_version(vault: Vault, tree: Path) -> None:
    vault.protect(tree)
    vault.protect(tree)
    assert [one.versions for one in vault.list()] == [1] * 6


def test_what_is_seldom_needed_is_packed_and_comes_back_bit_for_bit(vault: Vault, place: Path, tmp_path: Path) -> None:
    path, objects = place / "file", tmp_path / "vault" / "objects"
    first, second = b"the same line again and again\n" * 20_000, b"another one, which compresses\n" * 20_000
    path.write_bytes(first)
    vault.protect(path)
    before = vault.store.used_bytes()
    path.write_bytes(second)
    vault.protect(path)

    vault.tidy()
    vault.await_packing()

    names = sorted(one.name for one in objects.iterdir())
    assert [name.endswith(".zst") for name in names].count(True) == 1
    assert vault.store.objects.is_packed(vault.versions(path)[1].sha256)
    assert vault.store.used_bytes() < before + len(second) / 10 + len(first) / 10
    vault.restore(path, at=vault.versions(path)[1].taken_at)
    assert path.read_bytes() == first
    assert not any(one.name.endswith(".zst") for one in objects.iterdir())  # it is what is needed now


def test_a_packed_content_that_was_damaged_is_an_error_and_no_file(vault: Vault, place: Path, tmp_path: Path) -> None:
    path = place / "file"
    for content in (b"first\n" * 10_000, b"second\n" * 10_000):
        path.write_bytes(content)
        vault.protect(path)
    vault.tidy()
    vault.await_packing()
    (packed,) = (tmp_path / "vault" / "objects").glob("*.zst")
    packed.chmod(0o600)
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 0xFF
    packed.write_bytes(data)

    with pytest.raises(VaultError, match="cannot be read"):
        vault.restore(path, at=vault.versions(path)[1].taken_at)
    assert path.read_bytes() == b"second\n" * 10_000


def test_random_bytes_are_not_packed(vault: Vault, place: Path, tmp_path: Path) -> None:
    path = place / "file"
    for _number in range(2):
        path.write_bytes(os.urandom(100_000))
        vault.protect(path)
    vault.tidy()
    vault.await_packing()
    assert not list((tmp_path / "vault" / "objects").glob("*.zst"))


def test_an_index_of_before_is_taken_over(tmp_path: Path, place: Path, clock: Clock) -> None:
    """The schema of the first release, with a file in it."""
    import hashlib
    import sqlite3

    directory = tmp_path / "old"
    (directory / "objects").mkdir(parents=True)
    sha256 = hashlib.sha256(b"as deployed").hexdigest()
    (directory / "objects" / sha256).write_bytes(b"as deployed")
    path = place / "file"
    with sqlite3.connect(directory / "index.sqlite") as index:
        index.executescript(
            "CREATE TABLE protected (path BLOB PRIMARY KEY, suspended_at REAL NOT NULL DEFAULT 0);"
            "CREATE TABLE objects (sha256 TEXT PRIMARY KEY, size INTEGER NOT NULL);"
            "CREATE TABLE versions (id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL, kind TEXT NOT NULL,"
            " taken_at REAL NOT NULL, sha256 TEXT NOT NULL REFERENCES objects(sha256), size INTEGER NOT NULL,"
            " mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL, atime_ns INTEGER NOT NULL,"
            " mtime_ns INTEGER NOT NULL, xattrs BLOB NOT NULL);"
            "CREATE TABLE directories (path BLOB PRIMARY KEY, mode INTEGER NOT NULL, uid INTEGER NOT NULL,"
            " gid INTEGER NOT NULL);"
        )
        index.execute("INSERT INTO protected (path) VALUES (?)", (os.fsencode(path),))
        index.execute("INSERT INTO objects VALUES (?, 11)", (sha256,))
        index.execute(
            "INSERT INTO versions VALUES (1, ?, 'golden', 5, ?, 11, 420, 0, 0, 1, 1, x'90')",
            (os.fsencode(path), sha256),
        )

    one = Vault(directory, limits=Limits(), clock=clock)
    one.restore(path)
    assert path.read_bytes() == b"as deployed"
    one.close()


@pytest.mark.parametrize("cut", ["vault: file is back", "vault: what stood there is kept"])
def test_after_a_power_cut_the_file_is_back_and_what_stood_there_is_kept(
    tmp_path: Path, place: Path, clock: Clock, cut: str
) -> None:
    path = place / "file"
    path.write_bytes(CONTENT)
    one = Vault(tmp_path / "cut", limits=Limits(), clock=clock)
    one.protect(path)
    path.write_bytes(b"damage worth to be looked at")

    def at(name: str) -> None:
        if name == cut:
            raise PowerCut

    def restore() -> None:
        one.place(str(path), action="01ALERT-restore")
        one.settle()

    with steps.hooked(at), pytest.raises(PowerCut):
        restore()
    again = Vault(tmp_path / "cut", limits=Limits(), clock=clock)
    again.sweep_all()

    assert path.read_bytes() == CONTENT
    assert not list(place.glob(vault_files.TEMPORARY + "*"))
    (kept,) = again.replaced_by_action("01ALERT-restore")
    again.put_back(str(path), kept.id)
    assert path.read_bytes() == b"damage worth to be looked at"
    again.close()


def test_a_copy_that_a_power_cut_left_half_is_removed_and_no_version(tmp_path: Path, place: Path, clock: Clock) -> None:
    path = place / "file"
    path.write_bytes(CONTENT)
    one = Vault(tmp_path / "half", limits=Limits(), clock=clock)
    one.protect(path)
    (place / f"{vault_files.temporary_of('file')}01ALERT-restore-0123abcd").write_bytes(CONTENT[:100])

    one.sweep_all()

    assert [one.kind for one in one.versions(path)] == ["golden"]
    assert [one.name for one in place.iterdir()] == ["file"]
    one.close()


def test_protecting_many_files_is_one_transaction_and_all_or_nothing(vault: Vault, tree: Path) -> None:
    (tree / "big").write_bytes(b"x")
    os.truncate(tree / "big", Limits().protected_file_bytes + 1)
    with pytest.raises(VaultError, match="protected_file_bytes"):
        vault.protect(tree)
    assert vault.list() == []
    (tree / "big").unlink()
    for number in range(300):
        (tree / f"{number:03}").write_bytes(b"%d" % number)
    assert len(vault.protect(tree)) == 306
    shutil.rmtree(tree)
    apply(vault, vault.plan(tree))
    assert contents(tree)["299"] == b"299"


def test_the_agent_never_holds_the_library_that_packs(vault: Vault) -> None:
    assert vault.count() == 0
    told = subprocess.check_output(
        [sys.executable, "-c", "import sys, mamplus_host.service; print('zstandard' in sys.modules)"], text=True
    )
    assert told == "False\n"


class Cutter:
    """Cuts the power at the step of a number; says whether it did."""

    def __init__(self, number: int) -> None:
        self._left, self.has_cut = number, False

    def __call__(self, _name: str) -> None:
        self._left -= 1
        if self._left < 0:
            self.has_cut = True
            raise PowerCut


def do_and_settle(deed: Restore, facts: dict[str, Any], vault: Vault) -> None:
    deed.do(facts)
    vault.settle()


def interrupted(work: Callable[[], object], number: int) -> bool:
    """Do `work` with the power cut at step `number`; return whether it had so many steps."""
    cutter = Cutter(number)
    with steps.hooked(cutter), contextlib.suppress(PowerCut):
        work()
    return cutter.has_cut


@pytest.mark.parametrize("what", ["one file", "all below a directory"])
def test_a_restoration_and_its_undoing_cut_off_at_any_step_are_finished_by_the_next_start(
    tmp_path: Path, place: Path, clock: Clock, what: str
) -> None:
    cuts = 0
    for number in itertools.count():
        tree, state = place / f"tree-{number}", tmp_path / f"vault-{number}"
        tree.mkdir()
        files = [tree / name for name in ("one", "two", "three")]
        for file in files:
            file.write_bytes(CONTENT)
        one = Vault(state, limits=Limits(), clock=clock)
        one.protect(tree)
        damaged = files if what == "all below a directory" else files[:1]
        for file in damaged:
            file.write_bytes(b"damage of " + file.name.encode())
        target = f"{tree}/" if what == "all below a directory" else str(files[0])
        deed = Restore(one, clock)
        facts = deed.prepare("01ALERT-restore", {"path": target})

        was_cut = interrupted(partial(do_and_settle, deed, facts, one), number)
        one.store.close()  # as a power cut would
        again = Vault(state, limits=Limits(), clock=clock)
        again.sweep_all()
        deed = Restore(again, clock)
        deed.do(facts)
        assert deed.verify(facts) is State.DONE
        assert [file.read_bytes() for file in files] == [CONTENT] * 3
        assert sorted(path.name for path in tree.iterdir()) == ["one", "three", "two"]

        was_cut |= interrupted(partial(deed.undo, facts), number)
        again.store.close()
        last = Vault(state, limits=Limits(), clock=clock)
        last.sweep_all()
        deed = Restore(last, clock)
        deed.undo(facts)
        assert deed.verify(facts) is State.UNDONE
        assert all(file.read_bytes() == b"damage of " + file.name.encode() for file in damaged)
        assert sorted(path.name for path in tree.iterdir()) == ["one", "three", "two"]
        last.close()
        cuts += was_cut
        if not was_cut:
            break
    assert cuts >= 4
