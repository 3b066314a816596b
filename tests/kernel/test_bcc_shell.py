# SPDX-License-Identifier: Apache-2.0
"""The bcc shell tells what happens in its cgroup, and nothing else, and it leaves nothing behind."""

import os
import secrets
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from mamplus_host.collector.decode import decode_run
from mamplus_host.config import Config, Scope, cgroup_dir
from mamplus_host.events import Connect, Event, Exec, Exit, Fork
from mamplus_host.kernel.bcc_shell import LOST, LOST_BYTES, READY_BYTES, read_frames
from mamplus_host.kernel.headers import merge_headers
from story.stage import wait_for
from tests.kernel import acts

pytestmark = pytest.mark.kernel

KIND = struct.Struct("<48xH")  # mamplus_head.kind
SHELL = (sys.executable, "-m", "mamplus_host.kernel.bcc_shell")
# Joins the cgroup named by its first argument, then becomes the rest of them.
JOIN = ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"']
CONNECTS = """
import socket
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    with socket.socket(family) as s:
        s.connect_ex((address, {port}))
"""
UDP_CONNECTS = """
import socket
with socket.socket(type=socket.SOCK_DGRAM) as s:
    for _ in range({count}):
        s.connect(("127.0.0.1", 9))
"""


@pytest.fixture
def cgroup() -> Iterator[Path]:
    path = cgroup_dir(Config(scope=Scope(cgroup="/"))) / f"mamplus-test-{secrets.token_hex(6)}"
    path.mkdir()
    yield path
    wait_for("who has exited to be gone", lambda: not (path / "cgroup.procs").read_text(), timeout_s=acts.SOON_S)
    path.rmdir()


class Shell:
    """A running bcc shell; `until` reads on to the frame that is waited for."""

    def __init__(self, cgroup: Path, connects: str) -> None:
        command = [*SHELL, "--cgroup", str(cgroup), "--connects", connects]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.frames = read_frames(cast(BinaryIO, self.process.stdout))
        assert len(next(self.frames)) == READY_BYTES

    def events(self, last: type) -> list[Event]:
        """Return what is told up to the first event of type `last`."""
        events: list[Event] = []
        for frame in self.frames:
            events += decode_run(KIND.unpack_from(frame)[0], 1, frame)
            if isinstance(events[-1], last):
                return events
        raise AssertionError(f"the shell ended before it told of {last.__name__}: {events}")

    def stop(self) -> int:
        self.process.stdin.close()  # type: ignore[union-attr]
        code = self.process.wait(timeout=30)
        self.process.stdout.close()  # type: ignore[union-attr]
        return code


@pytest.fixture(params=["cgroup", "tracepoint"])
def shell(cgroup: Path, request: pytest.FixtureRequest) -> Iterator[Shell]:
    running = Shell(cgroup, request.param)
    yield running
    running.process.kill()
    running.stop()


def inside(cgroup: Path, *command: str) -> int:
    """Run `command` in `cgroup` and return its process id."""
    process = subprocess.Popen([*JOIN, str(cgroup), *command])
    assert process.wait(timeout=60) == 0
    return process.pid


def of_type(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def test_a_program_is_told_of_from_its_start_to_its_end(shell: Shell, cgroup: Path) -> None:
    before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    pid = inside(cgroup, "/bin/true")
    after_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    events = shell.events(Exit)

    start, end = events
    assert isinstance(start, Exec)
    assert (start.path, start.sha256, start.head.comm) == ("/bin/true", "", "true")
    assert isinstance(end, Exit)
    assert [event.head.tgid for event in (start, end)] == [pid, pid]
    assert start.head.cgroup_id == cgroup.stat().st_ino
    assert before_ns < start.head.boot_ns < end.head.boot_ns < after_ns


def test_a_fork_names_the_child_and_the_child_its_parent(shell: Shell, cgroup: Path) -> None:
    pid = inside(cgroup, "/bin/sh", "-c", "/bin/true; exit 0")

    events = shell.events(Exit)

    (fork,) = of_type(events, Fork)
    child = next(event for event in of_type(events, Exec) if event.path == "/bin/true")
    assert (fork.head.tgid, fork.child_tgid) == (pid, child.head.tgid)
    assert child.head.ppid == pid


def test_a_thread_is_no_fork(shell: Shell, cgroup: Path) -> None:
    inside(cgroup, sys.executable, "-c", "import threading; t = threading.Thread(target=int); t.start(); t.join()")

    assert of_type(shell.events(Exit), Fork) == []


def test_a_connect_is_told_with_its_address_and_port(shell: Shell, cgroup: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        pid = inside(cgroup, sys.executable, "-c", CONNECTS.format(port=port))

    connects = of_type(shell.events(Exit), Connect)

    told = [(str(c.address), c.port, c.protocol, c.head.tgid) for c in connects]
    assert told == [("127.0.0.1", port, socket.IPPROTO_TCP, pid), ("::1", port, socket.IPPROTO_TCP, pid)]


def test_what_happens_outside_its_cgroup_is_not_told(shell: Shell, cgroup: Path) -> None:
    subprocess.run(["/bin/true"], check=True)
    with socket.socket() as outside:
        outside.connect_ex(("127.0.0.1", 9))
    pid = inside(cgroup, "/bin/true")

    assert {cast(Exec, event).head.tgid for event in shell.events(Exit)} == {pid}


def test_records_that_find_no_room_are_counted(cgroup: Path) -> None:
    shell, count = Shell(cgroup, "cgroup"), 50_000
    try:
        inside(cgroup, sys.executable, "-c", UDP_CONNECTS.format(count=count))  # while nobody reads
        frames = drained(shell)
        cpus = sorted(os.sched_getaffinity(0))
        for cpu in cpus:  # a loss is told with the next record of its CPU
            inside(cgroup, "/usr/bin/taskset", "-c", str(cpu), "/bin/true")
        frames += drained(shell)
    finally:
        shell.process.kill()
        shell.stop()

    losses = [LOST.unpack(frame)[0] for frame in frames if len(frame) == LOST_BYTES]
    assert losses[-1] == max(losses) > 0
    starts_and_ends = 2 + 3 * len(cpus)  # taskset is a start of its own
    assert len(frames) - len(losses) + losses[-1] == count + starts_and_ends


def drained(shell: Shell) -> list[bytes]:
    """Return the frames that come until none has come for a second: the shell polls twice in that time."""
    descriptor, data = cast(BinaryIO, shell.process.stdout).fileno(), b""
    while select.select([descriptor], [], [], 1.0)[0]:
        data += os.read(descriptor, 1 << 20)
    return list(read_frames(BytesIO(data)))


def test_it_ends_well_when_the_agent_is_gone_and_detaches_everything(shell: Shell, cgroup: Path) -> None:
    assert shell.stop() == 0

    listed = subprocess.run(["bpftool", "cgroup", "show", cgroup], capture_output=True, text=True, check=True)
    assert listed.stdout.strip() == ""


def test_a_killed_shell_leaves_nothing_attached(cgroup: Path) -> None:
    shell = Shell(cgroup, "cgroup")
    attached = subprocess.run(["bpftool", "cgroup", "show", cgroup], capture_output=True, text=True, check=True).stdout
    shell.process.kill()
    shell.stop()

    listed = subprocess.run(["bpftool", "cgroup", "show", cgroup], capture_output=True, text=True, check=True).stdout
    assert "on_connect4" in attached
    assert listed.strip() == ""


def test_split_header_trees_are_merged_without_being_changed(tmp_path: Path) -> None:
    for file in ("made/include/generated/a.h", "made/arch/x86/include/generated/b.h", "made/Makefile"):
        written(tmp_path / file)
    for file in ("common/include/linux/c.h", "common/arch/x86/include/asm/d.h", "common/Makefile"):
        written(tmp_path / file)

    (tmp_path / "made" / "scripts").symlink_to(tmp_path / "not installed")
    (tmp_path / "common" / "scripts").mkdir()
    merge_headers(tmp_path / "merged", [tmp_path / "made", tmp_path / "common"])
    assert (tmp_path / "merged" / "scripts").is_dir()

    found = {str(path.relative_to(tmp_path / "merged")) for path in real_files(tmp_path / "merged")}
    assert found == {
        "include/generated/a.h",
        "arch/x86/include/generated/b.h",
        "include/linux/c.h",
        "arch/x86/include/asm/d.h",
        "Makefile",
    }
    assert (tmp_path / "merged/Makefile").resolve() == tmp_path / "made/Makefile"


def written(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def real_files(folder: Path) -> list[Path]:
    return [Path(where, name) for where, _, names in os.walk(folder, followlinks=True) for name in names]


def test_a_cgroup_that_is_not_there_is_one_sentence_and_exit_1() -> None:
    command = [*SHELL, "--cgroup", "/sys/fs/cgroup/none-such"]

    result = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, text=True, check=False, timeout=60)

    assert result.returncode == 1
    assert "none-such" in result.stderr
    assert "Traceback" not in result.stderr
