# SPDX-License-Identifier: Apache-2.0
"""The fanotify tier: what is opened on a marked file system is asked about before it is open."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mamplus_host.ble.entry import Kind
from mamplus_host.config import ExecPolicy
from mamplus_host.kernel import layout, responder
from mamplus_host.kernel.tables import file_of
from mamplus_host.verdicts import Verdict
from story.stage import wait_for

from .conftest import DEADLINE_S, Agent, sha256

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("below_lsm")]
MARK_EXIT = 7  # of mark.c, when it was let run
REFUSED_EXIT = 126  # of enter.c, when execve failed with EPERM
SETTLED_S = 0.06  # a younger file gets no mark
WRITERS, FILES = 6, 250
# Writes the first argument's content to files below the second, and opens each at once; exit 1 when one was open.
WRITE_AND_OPEN = f"""
import pathlib, sys
content, directory, opened = pathlib.Path(sys.argv[1]).read_bytes(), pathlib.Path(sys.argv[2]), 0
for number in range({FILES}):
    file = directory / str(number)
    file.write_bytes(content)
    try:
        file.open("rb").close()
        opened += 1
    except PermissionError:
        file.unlink()
sys.exit(opened > 0)
"""


def pid_of(agent: Agent) -> int:
    return responder.ensure_running(agent.config, agent.cgroup).pid


def ask(agent: Agent) -> dict[str, str]:
    pidfd = os.pidfd_open(pid_of(agent))
    try:
        return agent.kernel.watching.ask(agent.config, pidfd)
    finally:
        os.close(pidfd)


def count(agent: Agent, name: str) -> int:
    return agent.kernel.watching.counters()[name]


def await_count(agent: Agent, name: str, value: int) -> None:
    end = time.monotonic() + DEADLINE_S
    while count(agent, name) < value:
        assert time.monotonic() < end, f"{name} is {count(agent, name)}, want {value}"
        time.sleep(0.002)


@pytest.fixture
def watching(reuse: Callable[..., Agent]) -> Iterator[Callable[..., Agent]]:
    """Has the responder mark what the sections of a configuration name; nothing any more at the end."""
    made: list[Agent] = []

    def watch(**sections: dict[str, Any]) -> Agent:
        made.append(reuse(**sections))
        assert ask(made[-1]) == {}
        return made[-1]

    yield watch
    for agent in made:
        leave(agent)
        assert ask(agent) == {}


def leave(agent: Agent) -> None:
    """From here on nothing is to be marked."""
    agent.config = msgspec.structs.replace(agent.config, exec=ExecPolicy())


@pytest.fixture
def watched(watching: Callable[..., Agent], tmpfs: Path) -> Agent:
    """An agent whose responder has marked the tmpfs."""
    return watching(exec={"fanotify": [str(tmpfs)]})


def test_a_listed_file_cannot_be_opened(watched: Agent, fresh: Callable[..., Path], tmpfs: Path) -> None:
    listed = fresh(directory=tmpfs)
    watched.block(listed)

    assert watched.run(watched.programs / "opener", listed) == errno.EPERM

    record = watched.wait_for("access")
    assert (record.verdict, record.flags & layout.F_REFUSED) == (Verdict.BLOCK, layout.F_REFUSED)
    assert record.fields["sha256"].hex() == sha256(listed)
    assert record.fields["path"].partition(b"\0")[0] == os.fsencode(listed)
    assert (record.fields["op"], record.fields["head_comm"].rstrip(b"\0")) == (layout.OP_OPEN, b"opener")


def test_a_listed_program_is_refused_and_not_killed(
    watched: Agent, fresh: Callable[..., Path], tmpfs: Path, tmp_path: Path
) -> None:
    listed = fresh(directory=tmpfs)
    copy = Path(shutil.copy(listed, tmpfs / "another-name"))
    watched.block(listed)

    assert watched.run(copy, tmp_path / "mark") == REFUSED_EXIT

    assert not (tmp_path / "mark").exists()
    assert watched.count("exec") == 0  # it was never started


def test_what_is_not_in_the_scope_is_let_go_on(watched: Agent, fresh: Callable[..., Path], tmpfs: Path) -> None:
    listed = fresh(directory=tmpfs)
    watched.block(listed)

    assert subprocess.run([watched.programs / "opener", listed], check=False).returncode == 0


def test_an_unknown_file_waits_for_its_hash_and_is_open_then(
    watched: Agent, fresh: Callable[..., Path], tmpfs: Path
) -> None:
    unknown = fresh(directory=tmpfs)

    assert watched.run(watched.programs / "opener", unknown) == 0

    assert (count(watched, "waited"), count(watched, "hashed")) >= (1, 1)
    with unknown.open("rb") as file:
        assert watched.kernel.tables.known(file_of(file.fileno())) == sha256(unknown)


def test_of_a_known_good_file_nobody_is_asked(watched: Agent, fresh: Callable[..., Path], tmpfs: Path) -> None:
    good = fresh(directory=tmpfs)
    time.sleep(SETTLED_S)
    assert watched.run(watched.programs / "opener", good) == 0
    asked = count(watched, "events")

    for _ in range(20):
        assert watched.run(watched.programs / "opener", good) == 0

    assert count(watched, "events") == asked


def test_a_file_that_others_may_write_is_asked_about_every_time(
    watched: Agent, fresh: Callable[..., Path], tmpfs: Path
) -> None:
    good = fresh(directory=tmpfs)
    good.chmod(0o777)
    time.sleep(SETTLED_S)
    assert watched.run(watched.programs / "opener", good) == 0
    asked = count(watched, "events")

    assert watched.run(watched.programs / "opener", good) == 0

    assert count(watched, "events") > asked


@pytest.mark.parametrize("how", ["write", "shared mapping"])
def test_a_good_file_that_was_written_is_asked_about_again(
    watched: Agent, fresh: Callable[..., Path], tmpfs: Path, how: str
) -> None:
    import mmap

    good, listed = fresh(directory=tmpfs), fresh(directory=tmpfs)
    time.sleep(SETTLED_S)
    assert watched.run(watched.programs / "opener", good) == 0
    watched.block(listed)
    poke(watched)
    assert watched.run(watched.programs / "opener", good) == 0  # marked again, under this generation
    written = count(watched, "written")

    with good.open("r+b") as file:
        if how == "write":
            file.write(listed.read_bytes())
        else:
            with mmap.mmap(file.fileno(), 0) as memory:
                memory[:] = listed.read_bytes()
    await_count(watched, "written", written + 1)

    assert watched.run(watched.programs / "opener", good) == errno.EPERM


def poke(agent: Agent) -> None:
    """What the agent does when it has swapped a generation in; returns when the marks are dropped."""
    from mamplus_host.kernel import watching

    dropped, pidfd = count(agent, "dropped"), os.pidfd_open(pid_of(agent))
    watching.poke(pidfd)
    os.close(pidfd)
    await_count(agent, "dropped", dropped + 1)


def test_a_generation_drops_every_mark(watched: Agent, fresh: Callable[..., Path], tmpfs: Path) -> None:
    file = fresh(directory=tmpfs)
    time.sleep(SETTLED_S)
    assert watched.run(watched.programs / "opener", file) == 0
    assert count(watched, "marked") == 1

    watched.block(file)
    poke(watched)

    assert watched.run(watched.programs / "opener", file) == errno.EPERM


def test_what_is_listed_is_not_open_at_the_moment_that_it_was_written(
    watched: Agent, fresh: Callable[..., Path], tmpfs: Path
) -> None:
    """What tells of a file that was closed may be read after it was hashed for who opens it."""
    listed = fresh()
    watched.block(listed)
    directories = [tmpfs / str(number) for number in range(WRITERS)]
    for directory in directories:
        directory.mkdir()
    refused = count(watched, "refused")

    writers = [watched.start(sys.executable, "-c", WRITE_AND_OPEN, listed, directory) for directory in directories]

    assert [writer.wait() for writer in writers] == [0] * WRITERS
    assert count(watched, "refused") - refused == WRITERS * FILES


def test_monitor_mode_only_reports(watching: Callable[..., Agent], fresh: Callable[..., Path], tmpfs: Path) -> None:
    agent = watching(agent={"mode": "monitor"}, exec={"fanotify": [str(tmpfs)]})
    listed = fresh(directory=tmpfs)
    agent.block(listed)

    assert agent.run(agent.programs / "opener", listed) == 0

    record = agent.wait_for("access")
    assert (record.verdict, record.flags) == (Verdict.BLOCK, layout.F_MONITOR)


def test_a_file_too_large_for_the_deadline_gets_the_declared_answer_at_once(
    watching: Callable[..., Agent], fresh: Callable[..., Path], tmpfs: Path
) -> None:
    agent = watching(exec={"fanotify": [str(tmpfs)], "deadline_ms": 20, "on_open": "refuse", "on_deadline": "refuse"})
    large = fresh(directory=tmpfs)
    os.truncate(large, 200 << 20)  # sparse: 2 s at 100 MB/s, which is what is thought before anything was measured

    assert agent.run(agent.programs / "opener", large) == errno.EPERM
    record = agent.wait_for("access")
    assert record.flags & layout.F_DECLARED
    assert count(agent, "waited") == 0
    await_count(agent, "hashed", 1)
    agent.publish((Kind.SHA256, "0" * 64, Verdict.BLOCK))


def test_a_file_that_was_written_is_hashed_before_anybody_opens_it(
    watched: Agent, fresh: Callable[..., Path], tmpfs: Path
) -> None:
    file = fresh(directory=tmpfs)

    with file.open("rb") as opened:
        one, content = file_of(opened.fileno()), sha256(file)
        wait_for("its hash", lambda: watched.kernel.tables.known(one) == content, timeout_s=DEADLINE_S)
    assert count(watched, "waited") == 0


def test_a_path_of_the_kernels_own_file_systems_is_refused_with_the_reason(reuse: Callable[..., Agent]) -> None:
    agent = reuse(exec={"fanotify": ["/proc/self"]})

    faults = ask(agent)

    assert "kernel's own" in faults["/proc/self"]
    assert agent.kernel.watching.paths()["/proc/self"].startswith("no: ")


def test_a_path_that_is_taken_out_is_not_asked_about(watched: Agent, fresh: Callable[..., Path], tmpfs: Path) -> None:
    listed = fresh(directory=tmpfs)
    watched.block(listed)
    leave(watched)

    assert ask(watched) == {}

    assert watched.run(watched.programs / "opener", listed) == 0


def test_another_mount_of_the_file_system_leads_nowhere(
    watched: Agent, fresh: Callable[..., Path], tmpfs: Path, tmp_path: Path
) -> None:
    listed = fresh(directory=tmpfs)
    watched.block(listed)
    beside = tmp_path / "bind"
    beside.mkdir()
    subprocess.run(["mount", "--bind", tmpfs, beside], check=True)
    try:
        assert watched.run(watched.programs / "opener", beside / listed.name) == errno.EPERM
    finally:
        subprocess.run(["umount", "-l", beside], check=True)


def test_many_that_wait_for_one_file_wait_for_one_hash(watched: Agent, fresh: Callable[..., Path], tmpfs: Path) -> None:
    file = fresh(directory=tmpfs)
    await_count(watched, "hashed", 1)  # by the close after writing
    os.truncate(file, 64 << 20)
    with file.open("rb") as opened:
        watched.kernel.tables.forget(file_of(opened.fileno()).dev, file.stat().st_ino)
    before = count(watched, "hashed")

    started = [watched.start(watched.programs / "opener", file) for _ in range(20)]
    assert [process.wait() for process in started] == [0] * 20

    assert count(watched, "hashed") - before <= 6


def test_the_responder_that_ends_lets_everybody_go(watched: Agent, fresh: Callable[..., Path], tmpfs: Path) -> None:
    listed = fresh(directory=tmpfs)
    watched.block(listed)
    keeper = watched.kernel.keeper

    responder.stop(watched.config)

    assert watched.run(watched.programs / "opener", listed) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(keeper, signal.SIG_DFL)
