# SPDX-License-Identifier: Apache-2.0
"""Protected trees: what is new in them, and what no event tells."""

import os
from pathlib import Path

import pytest

from mamplus_host.events import FileChange
from mamplus_host.executor.actions.restore import MAX_RESTORES
from mamplus_host.protected.protecting import MAX_NOT_TAKEN
from tests.kernel.protecting import Device, by_another, device, manager, place, sh, tree

__all__ = ["device", "manager", "place", "tree"]  # fixtures
pytestmark = pytest.mark.kernel


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


def test_what_is_remembered_of_new_files_is_bounded(device: Device, tmp_path: Path) -> None:
    for number in range(MAX_NOT_TAKEN + 10):
        device.protecting._note_not_taken(f"{tmp_path}/{number}", "too many")

    assert len(device.protecting._not_taken) == MAX_NOT_TAKEN
