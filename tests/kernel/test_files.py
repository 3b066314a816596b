# SPDX-License-Identifier: Apache-2.0
"""The file watch on real file systems: what was touched, by whom, and what never goes unnoticed."""

import os
import select
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mamplus_host.collector import files
from mamplus_host.collector.files import OVERFLOW, FileWatch, Tier
from mamplus_host.collector.files_fanotify import FanotifyTier
from mamplus_host.collector.files_inotify import InotifyTier
from mamplus_host.events import FileChange
from tests.kernel import acts

pytestmark = pytest.mark.kernel

TIERS: dict[str, Callable[[], Tier]] = {"fanotify": FanotifyTier, "inotify": InotifyTier}


@pytest.fixture(params=["tmpfs", "ext4"])
def place(request: pytest.FixtureRequest) -> Iterator[Path]:
    with acts.own_tmpfs() if request.param == "tmpfs" else acts.own_directory() as path:
        yield path


@pytest.fixture
def file(place: Path) -> Path:
    path = place / "one" / "two" / "app.conf"
    path.parent.mkdir(parents=True)
    path.write_text("content")
    return path


@pytest.fixture(params=TIERS)
def watch(request: pytest.FixtureRequest, file: Path) -> Iterator[FileWatch]:
    one = FileWatch(TIERS[request.param]())
    one.add(str(file))
    yield one
    one.close()


def after(watch: FileWatch, *command: str) -> tuple[int, list[FileChange]]:
    """Run one program to its end; return its pid and what was told. What a program did is queued when it has ended."""
    program = subprocess.Popen(command)
    assert program.wait(10) == 0
    select.select([watch], [], [], 5)
    return program.pid, watch.read()


def python(source: str, *args: str) -> tuple[str, ...]:
    return ("python3", "-S", "-c", source, *args)


ACTS = {
    "write": (python("import sys; open(sys.argv[1], 'w').write('x')"), {"modify", "close-write"}),
    "append": (python("import sys; open(sys.argv[1], 'a').write('x')"), {"modify", "close-write"}),
    "chmod": (python("import os, sys; os.chmod(sys.argv[1], 0o600)"), {"attrib"}),
    "xattr": (python("import os, sys; os.setxattr(sys.argv[1], 'user.x', b'x')"), {"attrib"}),
    "delete": (python("import os, sys; os.unlink(sys.argv[1])"), {"delete"}),
    "rename-away": (python("import os, sys; os.rename(sys.argv[1], sys.argv[1] + '2')"), {"moved-away"}),
    "directory-deleted": (python("import shutil, sys, os; shutil.rmtree(os.path.dirname(sys.argv[1]))"), {"delete"}),
    "directory-moved": (
        python("import os, sys; d = os.path.dirname(sys.argv[1]); os.rename(d, d + '2')"), {"moved-away"}),
    "directory-above-moved": (
        python("import os, sys; d = os.path.dirname(os.path.dirname(sys.argv[1])); os.rename(d, d + '2')"),
        {"moved-away"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("act", ACTS)
def test_every_way_to_touch_a_file_is_told_with_the_writers_pid_where_the_tier_can(
    watch: FileWatch, file: Path, act: str
) -> None:
    command, wanted = ACTS[act]

    pid, changes = after(watch, *command, str(file))

    assert [change.path for change in changes] == [str(file)]
    assert wanted <= set(changes[0].changes)
    assert changes[0].tgid == (pid if watch.tier == "fanotify" else 0)
    assert watch.lost == 0


def test_a_file_moved_over_it_is_told(watch: FileWatch, file: Path) -> None:
    other = file.with_name("other")
    other.write_text("evil")
    watch.read()

    pid, changes = after(watch, *python("import os, sys; os.rename(*sys.argv[1:])"), str(other), str(file))

    assert "moved-over" in changes[0].changes
    assert changes[0].tgid in (0, pid)


def test_the_watch_follows_a_restored_file_and_a_directory_that_was_made_again(watch: FileWatch, file: Path) -> None:
    after(watch, *python("import shutil, sys, os; shutil.rmtree(os.path.dirname(sys.argv[1]))"), str(file))
    file.parent.mkdir()
    file.write_text("restored")
    watch.add(str(file))
    watch.read()

    pid, changes = after(watch, *ACTS["write"][0], str(file))

    assert [change.path for change in changes] == [str(file)]
    assert changes[0].tgid in (0, pid)


def test_neighbours_and_forgotten_files_are_not_told(watch: FileWatch, file: Path) -> None:
    neighbour = file.with_name("neighbour")
    watch.add(str(neighbour))
    watch.remove(str(neighbour))

    _pid, changes = after(watch, *ACTS["write"][0], str(neighbour))
    assert changes == []
    _pid, changes = after(watch, *ACTS["write"][0], str(file.with_name("third")))
    assert changes == []


def test_a_protected_file_that_is_not_there_yet_is_told_when_it_comes(watch: FileWatch, file: Path) -> None:
    coming = file.with_name("coming")
    watch.add(str(coming))

    _pid, changes = after(watch, *ACTS["write"][0], str(coming))

    assert [change.path for change in changes] == [str(coming)]
    assert "created" in changes[0].changes


def test_fanotify_tells_a_write_through_another_hard_link_and_who_it_was(file: Path, place: Path) -> None:
    watch = FileWatch.open([str(file)])
    assert watch.tier == "fanotify"
    os.link(file, place / "another-name")
    watch.read()

    pid, changes = after(watch, *ACTS["write"][0], str(place / "another-name"))

    assert [(change.path, change.tgid) for change in changes] == [(str(file), pid)]
    watch.close()


def test_fanotify_leaves_our_own_touches_out_and_keeps_two_writers_apart(file: Path) -> None:
    watch = FileWatch.open([str(file)])
    file.write_text("ours")
    assert watch.read() == []

    first = subprocess.Popen([*ACTS["write"][0], str(file)])
    first.wait(10)
    second, changes = after(watch, *ACTS["append"][0], str(file))

    assert {(change.path, change.tgid) for change in changes} == {(str(file), first.pid), (str(file), second)}
    watch.close()


def test_a_burst_by_one_writer_is_one_change(file: Path) -> None:
    watch = FileWatch.open([str(file)])
    source = "import os, sys\nfor n in range(300):\n open(sys.argv[1], 'w').write('x'); os.chmod(sys.argv[1], n % 2)"

    pid, changes = after(watch, *python(source), str(file))

    assert [(change.path, change.tgid) for change in changes] == [(str(file), pid)]
    assert set(changes[0].changes) == {"modify", "close-write", "attrib"}
    watch.close()


def test_a_change_is_told_with_the_time_when_there_was_nothing_to_be_read(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = FileWatch(FanotifyTier())
    watch.add(str(file))
    assert watch.read() == []
    nothing_ns = watch.empty_ns
    with monkeypatch.context() as short:
        short.setattr(files, "MAX_BATCHES", 1)  # the queue is not read to its end
        [first] = after(watch, *python("import sys; open(sys.argv[1], 'w').write('x')", str(file)))[1]
    [second] = after(watch, *python("import sys; open(sys.argv[1], 'w').write('x')", str(file)))[1]

    assert 0 < first.since_ns == second.since_ns == nothing_ns < first.boot_ns < watch.empty_ns < second.boot_ns
    watch.close()


def test_an_overflow_is_counted_and_every_file_is_told_once_for_a_second_look(file: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    watch = FileWatch(InotifyTier())
    watch.add(str(file))
    quiet = file.with_name("quiet")
    watch.add(str(quiet))
    source = (
        "import os, sys\na, b = sys.argv[1], sys.argv[1] + '2'\n"
        "for n in range(int(sys.argv[2])):\n os.rename(a, b); os.rename(b, a)"
    )

    _pid, changes = after(watch, *python(source), str(file), str(limit // 4 + 1))

    told = {change.path: change.changes for change in changes}
    assert watch.lost == 1
    assert OVERFLOW in told[str(file)]
    assert told[str(quiet)] == (OVERFLOW,)
    watch.close()


def test_a_missing_directory_does_not_cost_the_tier_and_is_named(file: Path, place: Path) -> None:
    gone = place / "gone" / "file"
    watch = FileWatch.open([str(gone), str(file)])

    assert watch.tier == "fanotify"
    assert list(watch.unwatched) == [str(gone)]
    gone.parent.mkdir()
    watch.add(str(gone))
    assert watch.unwatched == {}
    watch.close()


def test_a_file_system_without_handles_is_watched_by_inotify() -> None:
    """A procfs file has no handle that fanotify could name."""
    watch = FileWatch.open(["/proc/self/net/none"])

    assert watch.tier == "inotify"
    watch.close()


def test_names_that_are_no_text_are_told_as_they_are(place: Path) -> None:
    name = place / "name\udcff"
    name.write_text("x")
    watch = FileWatch.open([str(name)])

    _pid, changes = after(watch, *ACTS["write"][0], str(name))

    assert [change.path for change in changes] == [str(name)]
    shutil.rmtree(name, ignore_errors=True)
    watch.close()
