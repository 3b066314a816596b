# SPDX-License-Identifier: Apache-2.0
"""Whose changes of protected files are kept: windows, and the package manager."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mamplus_host.errors import NotPossible
from mamplus_host.executor.vault.window import BY_MANAGER, BY_PERSON
from mamplus_host.protected.package_managers import PackageManagers
from tests.kernel.protecting import Device, device, manager, place, sh, tree

__all__ = ["device", "manager", "place", "tree"]  # fixtures
pytestmark = pytest.mark.kernel


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
