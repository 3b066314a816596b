# SPDX-License-Identifier: Apache-2.0
"""A running agent that follows a policy about files, with whatever this kernel has for it."""

import contextlib
import errno
import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mamplus_host.config import Config
from mamplus_host.control import client
from mamplus_host.errors import AgentUnreachable
from story.stage import wait_for

pytestmark = pytest.mark.kernel
CONTENT = b"as it should be\n"
MARKS = 16384  # FILE_MARKS_MAX of responder_files.h
TICKS_S = 30.0  # of several looks: the machine may be busy


class Running:
    """An agent as a process of its own."""

    def __init__(self, config: Config, file: Path) -> None:
        self.config, self._file = config, file

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mamplus_host.service", "--config", self._file], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        assert self._process.stdout.readline().startswith("ready")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        assert self._process.stdout
        self._process.stdout.close()

    def policy(self, **files: Any) -> None:
        """What an update does: keep the policy, and tell the agent."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(AgentUnreachable):  # its state is guarded, where the kernel can
                stack.enter_context(client.hold(self.config.control_socket, "admit"))
            path = self.config.state / "ble" / "policy.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"version": 1, "files": files}))

    def guarded(self) -> dict[str, Any]:
        answer: dict[str, Any] = client.call(self.config.control_socket, "status")["guarded_paths"]
        return answer

    def newest(self, path: Path) -> dict[str, Any]:
        """What the vault says that `path` should be."""
        versions = client.call(self.config.control_socket, "vault-versions", path=str(path))
        found: dict[str, Any] = next(one["facts"] for one in versions if one["kind"] == "golden")
        return found

    def alerts(self) -> list[str]:
        return [str(one) for one in client.call(self.config.control_socket, "alerts")]

    def in_scope(self, enter: Path, *command: str | Path) -> int:
        return subprocess.run([enter, self.config.scope.cgroup, *command], timeout=20, check=False).returncode


@pytest.fixture
def running(configure: Callable[..., Config], tmp_path: Path) -> Iterator[Running]:
    config, netns = configure(), f"mptest-{secrets.token_hex(3)}"
    file = tmp_path / "agent.toml"
    file.write_text(
        f'[scope]\ncgroup = "{config.scope.cgroup}"\nnetns = ["{netns}"]\n'
        f'[paths]\nstate = "{config.paths.state}"\nrun = "{config.paths.run}"\nbpffs = "{config.paths.bpffs}"\n'
    )
    subprocess.run(["ip", "netns", "add", netns], check=True)
    made = Running(config, file)
    yield made
    made.stop()
    subprocess.run(["ip", "netns", "delete", netns], check=True)


def test_a_guarded_file_is_as_it_was_whatever_this_kernel_has_for_it(
    running: Running, programs: Path, tmp_path: Path
) -> None:
    guarded = tmp_path / "shop.conf"
    guarded.write_bytes(CONTENT)
    running.policy(guarded=[{"path": str(guarded)}])
    running.start()

    damage = running.in_scope(programs / "enter", "/bin/sh", "-c", f"rm {guarded}; echo spoiled >{guarded}")

    state = running.guarded()
    assert state["guarded"] == 1
    if state["tier"] == "lsm":
        assert damage != 0
    else:
        assert "noticed and put back (1 files)" in state["tier"]
        wait_for("the file to be put back", lambda: guarded.read_bytes() == CONTENT, timeout_s=TICKS_S)
    assert guarded.read_bytes() == CONTENT
    wait_for("the alert", lambda: any(str(guarded.name) in one for one in running.alerts()), timeout_s=TICKS_S)


TOUCHES = "import os, sys\nprint(flush=True)\nwhile True: os.utime(sys.argv[1])"


def test_an_agent_whose_big_file_is_touched_without_end_answers_and_ends(running: Running, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(50 << 20))
    running.start()
    client.call(running.config.control_socket, "protect", path=str(big))
    with subprocess.Popen([sys.executable, "-S", "-c", TOUCHES, big], stdout=subprocess.PIPE) as toucher:
        assert toucher.stdout
        toucher.stdout.readline()
        for _ in range(3):
            assert running.guarded()
        running.stop()
        running.start()
        toucher.kill()


def test_the_agents_state_is_a_guests_to_write_only_while_it_is_connected(running: Running) -> None:
    running.start()
    if running.guarded()["tier"] != "lsm":
        pytest.skip(f"nothing is refused here: {running.guarded()['tier']}")
    path = running.config.state / "written-by-a-guest"

    with client.hold(running.config.control_socket, "admit"):
        path.write_text("granted")
    wait_for("the guest to be forgotten", lambda: not is_writable(path), timeout_s=TICKS_S)

    with pytest.raises(PermissionError):
        path.write_text("not any more")
    with client.hold(running.config.control_socket, "admit"):
        path.unlink()


def test_who_gets_the_agents_number_does_not_get_its_rights(running: Running, programs: Path, tmp_path: Path) -> None:
    guarded = tmp_path / "shop.conf"
    guarded.write_bytes(CONTENT)
    running.policy(guarded=[{"path": str(guarded)}])
    running.start()
    _refused(running)
    running._process.kill()
    running._process.wait()

    number = str(running._process.pid)
    command: list[str | Path] = [programs / "as_pid", number, programs / "filetry", "write", guarded]
    code = subprocess.run(command, timeout=20, check=False).returncode

    assert errno.errorcode.get(code) == "EPERM"


def is_writable(path: Path) -> bool:
    try:
        path.open("a").close()
    except PermissionError:
        return False
    return True


OPENS = [
    "write", "append", "read-write", "open-truncate", "proc-root", "reopen", "handle", "user-namespace",
    "detached-mount", "chroot", "uring-open",
]  # fmt: skip


def _refused(running: Running) -> None:
    """Wait until opens are refused, by whatever this kernel has for it."""

    def is_in_force() -> bool:
        return str(running.guarded()["tier"]).startswith(("lsm", "fanotify"))

    wait_for("the rules to be in force", is_in_force, timeout_s=TICKS_S)


def test_directories_that_find_no_mark_are_told(running: Running, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number in range(MARKS + 10):
        (tree / str(number)).mkdir(parents=True)
    running.policy(guarded=[{"path": str(tree)}])
    running.start()
    _refused(running)

    state = running.guarded()

    if state["tier"] != "lsm":
        assert "11 directories or files" in state["unresolved"]  # the tree itself has one
    running.policy(guarded=[])


def test_every_way_of_opening_for_writing_is_refused_and_reading_is_not(
    running: Running, programs: Path, tmp_path: Path
) -> None:
    tree, out = tmp_path / "tree", tmp_path / "out"
    (out / "mount").mkdir(parents=True)
    tree.mkdir()
    guarded, linked = tree / "shop.conf", out / "linked"
    guarded.write_bytes(CONTENT)
    linked.hardlink_to(guarded)
    shutil.copy(programs / "mark", tree / "program")
    running.policy(guarded=[{"path": str(tree)}])
    running.start()
    _refused(running)

    others = {"handle": [out], "user-namespace": [out / "mount"]}
    codes = {
        way: subprocess.run([programs / "filetry", way, guarded, *others.get(way, [])], check=False).returncode
        for way in OPENS
    }
    codes["hard link"] = subprocess.run([programs / "filetry", "write", linked], check=False).returncode
    codes["new"] = subprocess.run([programs / "filetry", "create", tree / "new"], check=False).returncode

    assert codes == dict.fromkeys(codes, errno.EPERM)
    assert guarded.read_bytes() == CONTENT
    assert subprocess.run([programs / "filetry", "read", guarded], check=False).returncode == 0
    assert subprocess.run([tree / "program"], check=False, stdout=subprocess.DEVNULL).returncode == 7  # as ever
    wait_for("the alert", lambda: any("shop.conf" in one for one in running.alerts()), timeout_s=TICKS_S)


def test_a_data_folder_is_read_by_its_program_alone(running: Running, programs: Path, tmp_path: Path) -> None:
    folder, reader = tmp_path / "clients", tmp_path / f"reader-{secrets.token_hex(4)}"
    (folder / "below").mkdir(parents=True)
    names = folder / "below" / "names"
    names.write_bytes(CONTENT)
    shutil.copy(programs / "filetry", reader)
    with reader.open("ab") as file:
        file.write(secrets.token_bytes(8))
    early = subprocess.Popen(
        [programs / "filetry", "held-read", names, "r"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert early.stdout
    assert early.stdout.readline() == b"open\n"
    running.policy(readable=[{"path": str(folder), "readers": [{"path": str(reader)}]}])
    running.start()
    _refused(running)

    assert subprocess.run([programs / "filetry", "read", names], check=False).returncode == errno.EPERM
    assert subprocess.run([programs / "filetry", "read", folder], check=False).returncode == errno.EPERM
    assert subprocess.run([reader, "read", names], check=False).returncode == 0
    early.communicate(b"x", timeout=20)
    if running.guarded()["tier"] == "lsm":  # fanotify tells of older descriptors up to 6.13 only (a94204f4d48e)
        assert early.returncode == errno.EPERM


def test_what_a_writer_leaves_is_kept(running: Running, programs: Path, tmp_path: Path) -> None:
    guarded, writer = tmp_path / "shop.conf", tmp_path / f"writer-{secrets.token_hex(4)}"
    guarded.write_bytes(CONTENT)
    shutil.copy(programs / "filetry", writer)
    with writer.open("ab") as file:
        file.write(secrets.token_bytes(8))
    running.policy(guarded=[{"path": str(guarded), "writers": [{"path": str(writer)}]}])
    running.start()

    assert running.in_scope(programs / "enter", writer, "truncate", guarded) == 0
    assert running.in_scope(programs / "enter", writer, "chmod", guarded) == 0
    if (
        running.guarded()["tier"] != "lsm"
    ):  # nobody is kept from writing there: what is spoiled before it is kept is lost
        left = {"size": 0, "mode": 0o777}
        wait_for("what the writer left to be kept", lambda: left.items() <= running.newest(guarded).items())

    running.in_scope(programs / "enter", "/bin/sh", "-c", f"echo spoiled >{guarded}")
    wait_for("the file to be as the writer left it", lambda: guarded.read_bytes() == b"", timeout_s=TICKS_S)
    assert guarded.stat().st_mode & 0o777 == 0o777


def test_a_rule_that_the_policy_drops_is_dropped_and_what_a_person_protected_stays(
    running: Running, programs: Path, tmp_path: Path
) -> None:
    guarded, own = tmp_path / "shop.conf", tmp_path / "own.conf"
    for path in (guarded, own):
        path.write_bytes(CONTENT)
    running.start()
    client.call(running.config.control_socket, "protect", path=str(own))
    running.policy(guarded=[{"path": str(guarded)}, {"path": str(own)}])
    client.call(running.config.control_socket, "reload")
    wait_for("the rules", lambda: running.guarded()["guarded"] == 2, timeout_s=TICKS_S)

    running.policy()
    client.call(running.config.control_socket, "reload")
    wait_for("no rule", lambda: running.guarded()["guarded"] == 0, timeout_s=TICKS_S)
    wait_for("no watch", lambda: not running.guarded()["tier"].startswith("fanotify"), timeout_s=TICKS_S)

    running.in_scope(programs / "enter", "/bin/sh", "-c", f"echo new >{guarded}; echo spoiled >{own}")
    wait_for("what a person protected to be put back", lambda: own.read_bytes() == CONTENT, timeout_s=TICKS_S)
    assert guarded.read_bytes() == b"new\n"


def test_opens_of_what_the_system_needs_wait_for_nobody(running: Running) -> None:
    """A responder that is stopped would stop every start; the vault is enough there."""
    running.policy(guarded=[{"path": "/etc/mamplus-no-such-file"}, {"path": "/etc/hostname"}])
    running.start()

    state = running.guarded()

    if state["tier"] != "lsm":
        assert "opens of it are not refused" in state["unresolved"]["/etc/hostname"]


def test_what_this_kernel_cannot_do_for_a_rule_is_said(running: Running, tmp_path: Path) -> None:
    folder = tmp_path / "clients"
    folder.mkdir()
    running.policy(
        guarded=[{"path": str(tmp_path / "absent"), "writers": [{"package": "no-such-package"}]}],
        readable=[{"path": str(folder), "readers": [{"path": str(tmp_path / "no-such-program")}]}],
    )
    running.start()

    state = running.guarded()

    assert state["absent"] or state["tier"] != "lsm"
    assert state["unresolved"]["package no-such-package"] == "no such package, or no program in it"
    assert state["unresolved"][str(tmp_path / "no-such-program")] == "no such program here"
