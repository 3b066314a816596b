# SPDX-License-Identifier: Apache-2.0
"""Guarded paths and data folders on a kernel with BPF LSM: each operation, by each way."""

import contextlib
import errno
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mamplus_host.config import CGROUP2_MOUNTS, parse
from mamplus_host.config import Agent as ConfiguredAgent
from mamplus_host.kernel import features, layout, responder
from mamplus_host.kernel.fileguards import FileGuards
from mamplus_host.kernel.objects import Kernel
from mamplus_host.kernel.tables import file_of
from mamplus_host.policy.files import OPERATIONS, DataFolder, FileRules, Guarded, Program
from tests.kernel.conftest import DEADLINE_S, Agent, sha256

SETUP_FAILED = 120  # of filetry: nothing was tried
CONTENT = b"as it should be\n"
TO_THE_FILE = [
    "write", "append", "read-write", "open-truncate", "truncate", "unlink", "rename", "exchange", "link", "chmod",
    "chown", "times", "xattr", "noxattr", "acl", "chattr", "bind-over", "private-bind-over", "move-over",
]  # fmt: skip
OTHER_WAYS = [
    "proc-root", "reopen", "handle", "user-namespace", "detached-mount", "chroot", "overlay",
    "uring-open", "uring-unlink", "uring-rename", "uring-link",
]  # fmt: skip
TAKEN_AWAY = ["umount", "umount-lazily", "umount-elsewhere", "move-away", "mount-move"]
NEW_NAMES = ["create", "symlink", "mkdir", "mknod", "tmpfile-link"]
THROUGH_A_DESCRIPTOR = [
    "held-write", "held-truncate", "held-chmod", "held-allocate", "held-sendfile", "held-copy", "held-splice",
    "held-uring-write", "held-map", "held-protect",
]  # fmt: skip


class Guard:
    """A place with a guarded tree, and a program that tries things on it."""

    def __init__(self, agent: Agent, place: Path, program: Path) -> None:
        self.agent, self.place, self.program = agent, place, program
        self.tree, self.out = place / "tree", place / "out"
        for directory in (self.tree, self.out, self.out / "mount", self.out / "lower", self.out / "work"):
            directory.mkdir()
        (self.out / "merged").mkdir()
        self.file = self.tree / "file"
        self.file.write_bytes(CONTENT)
        os.setxattr(self.file, "user.kept", b"x")
        self.beside = self.out / "other"
        self.beside.write_bytes(b"other\n")
        self.guards = FileGuards(agent.config, agent.kernel.directory, agent.kernel.tables.remember)

    def apply(self, *guarded: Guarded, folders: tuple[DataFolder, ...] = ()) -> None:
        """Have these rules in force, and no agent: what this test starts would pass as started by one."""
        self.guards.apply(FileRules(guarded=guarded, readable=folders))
        assert not self.guards.state().unresolved
        self.guards.leave()
        self.guards = FileGuards.__new__(FileGuards)

    def others(self, way: str) -> list[Path]:
        return {
            "rename": [self.out / "away"], "uring-rename": [self.out / "away"], "link": [self.out / "linked"],
            "uring-link": [self.out / "linked"], "exchange": [self.beside], "bind-over": [self.beside],
            "private-bind-over": [self.beside],
            "move-over": [self.beside], "handle": [self.out], "user-namespace": [self.out / "mount"],
            "overlay": [self.out],
        }.get(way, [])  # fmt: skip

    def attempt(self, way: str, path: Path | None = None, *others: Path, program: Path | None = None) -> int:
        """Return the errno that the program met, 0 when it did what it wanted."""
        given = others or self.others(way)
        command: list[str | Path] = [program or self.program, way, path or self.file, *given]
        code = subprocess.run(command, cwd=self.out, timeout=DEADLINE_S, check=False).returncode
        assert code != SETUP_FAILED, "what comes before the operation failed"
        return code


@pytest.fixture(scope="module")
def shared(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One agent for all tests here: to load the hooks takes longer than most of them."""
    mount = next(Path(m) for m in CGROUP2_MOUNTS if (Path(m) / "cgroup.controllers").exists())
    cgroup = mount / f"mamplus-test-{secrets.token_hex(4)}"
    cgroup.mkdir()
    home = tmp_path_factory.mktemp("agent")
    config = parse({
        "scope": {"cgroup": str(cgroup)},
        "paths": {
            "bpffs": f"/sys/fs/bpf/mptest-{secrets.token_hex(4)}",
            "run": str(home / "run"),
            "state": str(home / "state"),
        },
    })  # fmt: skip
    try:
        config.run.mkdir()
        kernel = Kernel.attach(config, cgroup)
        kernel.stand_file_hooks()
        yield Agent(config, cgroup, programs, kernel)
        kernel.close()
    finally:
        responder.stop(config)
        Kernel.detach(config)
        cgroup.rmdir()


@pytest.fixture
def guard(shared: Agent, tmp_path: Path, programs: Path) -> Iterator[Guard]:
    agent = shared
    _require_lsm(agent)
    agent.drain()
    agent.seen.clear()
    place = tmp_path / "place"
    place.mkdir()
    yield Guard(agent, place, programs / "filetry")
    _no_rules(agent)
    for point in (place / "tree" / "file", place / "tree"):
        subprocess.run(["umount", "-l", point], check=False, capture_output=True)


def _no_rules(agent: Agent) -> None:
    guards = FileGuards(agent.config, agent.kernel.directory, agent.kernel.tables.remember)
    guards.apply(FileRules())
    guards.leave()


def _require_lsm(agent: Agent) -> None:
    if "file_open" not in agent.kernel.hooks():
        found = features.probe().optional["lsm_files"]
        assert found != features.YES, "the kernel takes lsm_files, and it is not attached"
        pytest.skip(f"lsm_files: {found}")


@pytest.mark.parametrize("way", TO_THE_FILE)
def test_a_file_in_a_guarded_tree_stays_as_it_is(guard: Guard, way: str) -> None:
    before = guard.file.stat()
    guard.apply(Guarded(path=str(guard.tree)))

    assert errno.errorcode.get(guard.attempt(way)) == "EPERM"

    assert guard.file.read_bytes() == CONTENT
    after = guard.file.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_mode,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_no_other_way_leads_into_a_guarded_tree(guard: Guard, way: str) -> None:
    guard.apply(Guarded(path=str(guard.tree)))

    assert errno.errorcode.get(guard.attempt(way)) == "EPERM"
    assert guard.file.read_bytes() == CONTENT


@pytest.mark.parametrize("way", [*TO_THE_FILE, *OTHER_WAYS])
def test_what_is_tried_here_works_where_nothing_is_guarded(guard: Guard, way: str) -> None:
    """Otherwise a refusal proves nothing."""
    guard.apply(Guarded(path=str(guard.place / "elsewhere")))

    assert guard.attempt(way) == 0


@pytest.mark.parametrize("way", NEW_NAMES)
def test_nothing_new_comes_into_a_guarded_tree(guard: Guard, way: str) -> None:
    guard.apply(Guarded(path=str(guard.tree)))

    assert guard.attempt(way, guard.tree / "new") == errno.EPERM
    assert guard.attempt(way, guard.out / "new") == 0


def test_nothing_is_moved_or_linked_into_a_guarded_tree(guard: Guard) -> None:
    guard.apply(Guarded(path=str(guard.tree)))

    assert guard.attempt("rename", guard.beside, guard.tree / "moved") == errno.EPERM
    assert guard.attempt("rename", guard.beside, guard.file) == errno.EPERM
    assert guard.attempt("link", guard.beside, guard.tree / "linked") == errno.EPERM


def test_a_name_that_a_guarded_file_has_elsewhere_is_guarded_too(guard: Guard) -> None:
    linked = guard.out / "hard-link"
    linked.hardlink_to(guard.file)
    guard.apply(Guarded(path=str(guard.tree)))

    assert guard.attempt("write", linked) == errno.EPERM
    assert guard.attempt("truncate", linked) == errno.EPERM


def test_the_way_to_a_guarded_tree_is_not_renamed_nor_mounted_over(guard: Guard) -> None:
    guard.apply(Guarded(path=str(guard.tree)))

    assert guard.attempt("rename", guard.place, guard.place.with_name("gone")) == errno.EPERM
    assert guard.attempt("bind-over", guard.place, guard.out) == errno.EPERM
    assert guard.attempt("bind-over", guard.tree, guard.out) == errno.EPERM
    assert guard.attempt("write", guard.beside) == 0, "what only lies beside is free"


@pytest.fixture
def outer(guard: Guard) -> Iterator[Path]:
    """A file system of its own beside the tree, in which others can be mounted."""
    path = guard.out / "outer"
    with _mounted(path):
        yield path
        _no_rules(guard.agent)


@contextlib.contextmanager
def _mounted(path: Path) -> Iterator[Path]:
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "mptest", path], check=True)
    subprocess.run(["mount", "--make-private", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=False, capture_output=True)


def _disk(outer: Path, way: str) -> Path:
    """Return a mount below `outer`, with a file in it; how `outer` takes part in other namespaces goes by the way."""
    disk = outer / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "mptest", disk], check=True)
    if way == "umount-elsewhere":
        subprocess.run(["mount", "--make-shared", outer], check=True)
    (disk / "file").write_bytes(CONTENT)
    return disk


@pytest.mark.parametrize("way", TAKEN_AWAY)
def test_a_file_system_with_a_guarded_file_is_not_taken_away(guard: Guard, outer: Path, way: str) -> None:
    disk = _disk(outer, way)
    guard.apply(Guarded(path=str(disk / "file")))

    assert guard.attempt(way, disk, guard.out / "mount") == errno.EPERM
    assert (disk / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("way", TAKEN_AWAY[:-1])
def test_a_mount_that_no_guarded_path_leads_through_is_taken_away(guard: Guard, outer: Path, way: str) -> None:
    disk = _disk(outer, way)
    guard.apply(Guarded(path=str(guard.tree)))

    assert guard.attempt(way, disk, guard.out / "mount") == 0
    assert not (disk / "file").exists()


def test_another_mount_of_a_guarded_file_system_may_come_and_go(guard: Guard, outer: Path, tmp_path: Path) -> None:
    disk, elsewhere = _disk(outer, ""), tmp_path / "elsewhere"
    (elsewhere / "point").mkdir(parents=True)
    guard.apply(Guarded(path=str(disk / "file")))

    assert guard.attempt("move-over", elsewhere / "point", disk) == 0
    assert guard.attempt("umount", elsewhere / "point") == 0
    assert guard.attempt("umount", disk) == errno.EPERM


def test_a_namespace_gets_no_other_root_while_something_is_guarded_in_it(guard: Guard) -> None:
    if "MAMPLUS_VM" not in os.environ:
        pytest.skip("where it is not refused the whole machine has another root for a moment: make vm")
    root = guard.out / "mount"
    with _mounted(root):
        assert guard.attempt("pivot", guard.file, root) == 0
        guard.apply(Guarded(path=str(guard.tree)))
        assert guard.attempt("pivot", guard.file, root) == errno.EPERM
        own: list[str | Path] = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            guard.program,
            "pivot",
            guard.file,
            root,
        ]
        assert subprocess.run(own, check=False).returncode == 0, "a namespace of its own is its own affair"
        _no_rules(guard.agent)


def test_a_link_on_the_way_to_a_guarded_path_is_not_replaced(guard: Guard) -> None:
    link = guard.place / "link"
    link.symlink_to(guard.tree)
    guard.apply(Guarded(path=str(link / "file")))

    assert guard.attempt("unlink", link) == errno.EPERM
    assert guard.attempt("rename", guard.beside, link) == errno.EPERM
    assert guard.attempt("write") == errno.EPERM


def test_a_guarded_name_that_is_not_there_is_not_made(guard: Guard) -> None:
    absent = guard.out / "absent"
    guard.apply(Guarded(path=str(absent)))

    for way in NEW_NAMES:
        assert guard.attempt(way, absent) == errno.EPERM, way
    assert guard.attempt("rename", guard.beside, absent) == errno.EPERM
    assert guard.attempt("create", guard.out / "absent2") == 0


@pytest.mark.parametrize("way", THROUGH_A_DESCRIPTOR)
@pytest.mark.parametrize("is_guarded", [True, False], ids=["guarded", "free"])
def test_a_descriptor_that_is_older_than_the_rule_writes_no_more(guard: Guard, way: str, is_guarded: bool) -> None:
    command: list[str | Path] = [guard.program, way, guard.file, "w"]
    with subprocess.Popen(command, cwd=guard.out, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        _await_open(process)
        assert process.stdin
        guard.apply(Guarded(path=str(guard.tree if is_guarded else guard.out / "mount")))
        process.stdin.write(b"x")
        process.stdin.close()
        code = process.wait(DEADLINE_S)

    assert code == (errno.EPERM if is_guarded else 0)
    assert (guard.file.read_bytes() == CONTENT) or not is_guarded


def test_a_rule_refuses_only_the_operations_that_it_names(guard: Guard) -> None:
    guard.apply(Guarded(path=str(guard.tree), operations=("unlink",)))

    assert guard.attempt("write") == 0
    assert guard.attempt("chmod") == 0
    assert guard.attempt("unlink") == errno.EPERM


def test_a_writer_may_and_what_it_replaces_stays_guarded(guard: Guard, tmp_path: Path) -> None:
    writer = _another(guard.program, tmp_path)
    guard.apply(Guarded(path=str(guard.file), writers=(Program(path=str(writer)),)))

    assert guard.attempt("write", program=writer) == 0
    assert guard.attempt("write") == errno.EPERM
    assert guard.attempt("rename", guard.beside, guard.file, program=writer) == 0, "a new file under the guarded name"
    assert guard.attempt("write") == errno.EPERM, "no look of the agent was needed"


def test_a_writer_that_was_changed_is_no_writer(guard: Guard, tmp_path: Path) -> None:
    writer = _another(guard.program, tmp_path)
    guard.apply(Guarded(path=str(guard.tree), writers=(Program(sha256=sha256(writer)), Program(path=str(writer)))))
    assert guard.attempt("write", program=writer) == 0

    with writer.open("ab") as file:
        file.write(b"x")

    assert guard.attempt("write", program=writer) == errno.EPERM


@pytest.mark.parametrize("has_children", [True, False], ids=["children", "alone"])
def test_what_a_writer_starts_may_when_the_rule_says_so(guard: Guard, tmp_path: Path, has_children: bool) -> None:
    parent = tmp_path / "parent"
    shutil.copy("/bin/dash", parent)
    with parent.open("ab") as file:
        file.write(secrets.token_bytes(8))
    guard.apply(
        Guarded(path=str(guard.tree), writers=(Program(sha256=sha256(parent), path="", children=has_children),))
    )
    _make_known(guard.agent, parent)

    done = subprocess.run([parent, "-c", f"{guard.program} write {guard.file}; exit $?"], check=False)

    assert done.returncode == (0 if has_children else errno.EPERM)


def test_a_data_folder_is_read_by_its_programs_alone(guard: Guard, tmp_path: Path) -> None:
    reader = _another(guard.program, tmp_path)
    guard.apply(folders=(DataFolder(path=str(guard.tree), readers=(Program(path=str(reader)),)),))

    assert guard.attempt("read") == errno.EPERM
    assert guard.attempt("read", guard.tree) == errno.EPERM, "its names"
    assert guard.attempt("rename") == errno.EPERM
    assert guard.attempt("link") == errno.EPERM
    assert guard.attempt("read", guard.beside) == 0
    assert guard.attempt("read", program=reader) == 0


@pytest.mark.parametrize("way", ["held-read", "held-map-read"])
def test_a_descriptor_that_is_older_than_the_folder_reads_no_more(guard: Guard, tmp_path: Path, way: str) -> None:
    reader = _another(guard.program, tmp_path)
    with subprocess.Popen(
        [guard.program, way, guard.file, "r"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        _await_open(process)
        assert process.stdin
        guard.apply(folders=(DataFolder(path=str(guard.tree), readers=(Program(path=str(reader)),)),))
        process.stdin.write(b"x")
        process.stdin.close()
        assert process.wait(DEADLINE_S) == errno.EPERM


def test_a_refusal_is_told_with_the_operation_the_file_and_who_it_was(guard: Guard) -> None:
    ino = guard.file.stat().st_ino
    guard.apply(Guarded(path=str(guard.tree)))
    guard.attempt("unlink")

    record = guard.agent.wait_for("access", lambda one: one.fields["op"] == layout.OP_UNLINK)
    assert record.flags & layout.F_REFUSED
    assert record.fields["file_ino"] == ino
    assert record.fields["path"].split(b"\0")[0].endswith(b"/tree/file")
    assert record.fields["head_comm"].rstrip(b"\0") == b"filetry"


def test_a_file_that_lies_too_deep_to_tell_where_is_refused_by_declaration(guard: Guard) -> None:
    deep = guard.out / "/".join("d" * (layout.WALK_MAX + layout.WALK_FAST))
    subprocess.run(["mkdir", "-p", deep], check=True)
    (deep / "file").write_bytes(CONTENT)
    guard.apply(Guarded(path=str(guard.tree)))
    try:
        assert guard.attempt("write", deep / "file") == errno.EPERM
    finally:
        _no_rules(guard.agent)
        subprocess.run(["rm", "-r", guard.out / "d"], check=True)  # deeper than Python goes

    record = guard.agent.wait_for("access", lambda one: one.fields["op"] == layout.OP_WRITE)
    assert record.flags & (layout.F_REFUSED | layout.F_DECLARED) == layout.F_REFUSED | layout.F_DECLARED
    assert not record.flags & layout.F_UNKNOWN  # mamplus_host.analyzer tells it by that from unknown content


def test_monitor_mode_tells_and_refuses_nothing(guard: Guard) -> None:
    tables, config = guard.agent.kernel.tables, guard.agent.config
    guard.apply(Guarded(path=str(guard.tree)))
    tables.set_posture(msgspec.structs.replace(config, agent=ConfiguredAgent(mode="monitor")))
    try:
        assert guard.attempt("write") == 0
        assert guard.agent.wait_for("access").flags & layout.F_MONITOR
    finally:
        tables.set_posture(config)


def test_the_agents_own_state_is_guarded_while_it_lives(guard: Guard) -> None:
    state = guard.agent.config.state
    state.mkdir(parents=True, exist_ok=True)
    (state / "key").write_bytes(b"secret")
    guard.guards.apply(FileRules())
    guard.agent.kernel.beat(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    stranger = f"sleep 1; exec {guard.program} write {state / 'key'}"  # by then nobody's child but init's

    subprocess.run(["setsid", "--fork", "sh", "-c", stranger], check=True)
    record = guard.agent.wait_for("access")
    assert record.flags & layout.F_REFUSED
    assert (state / "key").write_bytes(b"new") == 3, "the agent itself writes"


def test_a_removed_rule_guards_nothing_any_more(guard: Guard) -> None:
    guard.guards.apply(FileRules(guarded=(Guarded(path=str(guard.tree)), Guarded(path=str(guard.beside)))))
    guard.guards.apply(FileRules(guarded=(Guarded(path=str(guard.beside)),)))
    guard.guards.leave()

    assert guard.attempt("write") == 0
    assert guard.attempt("write", guard.beside) == errno.EPERM


def test_every_operation_of_the_policy_has_a_hook(guard: Guard) -> None:
    places = set(guard.agent.kernel.hooks().values())

    assert {"lsm/file_open", "lsm/inode_setattr", "lsm/inode_rename"} <= places
    assert {"lsm/sb_mount", "lsm/move_mount", "lsm/sb_umount", "lsm/sb_pivotroot"} <= places
    assert len(OPERATIONS) == 9


def _await_open(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdout
    assert process.stdout.readline() == b"open\n"


def _another(program: Path, directory: Path) -> Path:
    """Return a copy of `program` with other content."""
    copy = directory / f"named-{secrets.token_hex(4)}"
    shutil.copy(program, copy)
    with copy.open("ab") as file:
        file.write(secrets.token_bytes(8))
    return copy


def _make_known(agent: Agent, program: Path) -> None:
    with program.open("rb") as file:
        agent.kernel.tables.remember(file_of(file.fileno()), sha256(program))
