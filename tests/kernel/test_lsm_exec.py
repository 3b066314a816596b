# SPDX-License-Identifier: Apache-2.0
"""With BPF LSM: programs, libraries, scripts and listed files are refused with an error, before anything happens."""

import errno
import mmap
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mamplus_host.config import Config
from mamplus_host.kernel import layout, responder
from mamplus_host.kernel.bpf import Map
from mamplus_host.kernel.features import YES, probe
from mamplus_host.kernel.tables import file_of
from mamplus_host.verdicts import Verdict

from .conftest import Agent, end, sha256

pytestmark = pytest.mark.kernel
GRANTED = 7  # of wants.c, and of mark.c when it was let run
NOT_STARTED = 126  # of enter.c: execve failed
HOWS = ("mmap", "mprotect", "memfd", "threads", "woken")
SHELLS = ("sh", "dash", "bash", "python3*")
LOADER = Path("/lib64/ld-linux-x86-64.so.2")


@pytest.fixture(autouse=True, scope="module")
def lsm() -> None:
    answer = probe().optional["lsm_exec"]
    if answer != YES:
        pytest.skip(f"BPF LSM: {answer}")


@pytest.fixture
def agent(reused_agent: Agent) -> Agent:
    return reused_agent


def wants(agent: Agent, how: str, file: Path) -> int:
    return agent.run(agent.programs / "wants", how, file)


def script(directory: Path, text: str, name: str = "script") -> Path:
    path = directory / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_listed_program_fails_to_start_and_its_caller_lives(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path
) -> None:
    listed, mark = fresh(), tmp_path / "mark"
    agent.block(listed)

    for _unknown_then_known in range(2):
        with agent.start(listed, mark) as process:
            assert process.wait() == NOT_STARTED

    assert not mark.exists()
    record = agent.wait_for("exec", lambda record: record.tgid == process.pid)
    assert (record.verdict, record.flags & layout.F_REFUSED) == (Verdict.BLOCK, layout.F_REFUSED)
    assert record.fields["path"].partition(b"\0")[0] == os.fsencode(listed)
    assert agent.count("exec") == 2  # told once a start


def test_an_unknown_program_is_told_once_and_known_before_it_starts(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path
) -> None:
    program = fresh()

    assert agent.run(program, tmp_path / "mark") == GRANTED

    agent.wait_for("exit")
    starts = [
        r for r in agent.seen if r.kind == "exec" and r.fields["path"].partition(b"\0")[0] == os.fsencode(program)
    ]
    assert [start.fields["sha256"].hex() for start in starts] == [sha256(program)]
    assert agent.count("held") == 0


@pytest.mark.parametrize("how", HOWS)
def test_listed_code_is_not_mapped_known_or_not(agent: Agent, fresh: Callable[..., Path], how: str) -> None:
    library = fresh()
    agent.block(library)
    library.chmod(0o644)

    for _ in range(2):
        assert wants(agent, how, library) == errno.EPERM

    record = agent.wait_for("access")
    assert record.fields["op"] in (layout.OP_MAP_EXEC, layout.OP_OPEN)
    assert (record.verdict, record.fields["sha256"].hex()) == (Verdict.BLOCK, sha256(library))


@pytest.mark.parametrize("how", HOWS)
def test_unlisted_code_is_mapped(agent: Agent, fresh: Callable[..., Path], how: str) -> None:
    library = fresh()

    for _ in range(2):
        assert wants(agent, how, library) == GRANTED

    assert agent.count("access") == 0


def test_a_listed_file_cannot_be_opened_under_any_name(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path
) -> None:
    listed = fresh()
    agent.block(listed)
    assert wants(agent, "mmap", listed) == errno.EPERM  # now it is known
    linked, moved = tmp_path / "linked", tmp_path / "moved"
    linked.hardlink_to(listed)
    listed.rename(moved)
    assert wants(agent, "mmap", moved) == errno.EPERM  # a link and a new name change its ctime: it is hashed again

    assert wants(agent, "open", linked) == errno.EPERM
    assert wants(agent, "open", moved) == errno.EPERM
    assert wants(agent, "open", agent.programs / "mark") == GRANTED


def known_and_listed(agent: Agent, fresh: Callable[..., Path]) -> Path:
    listed = fresh()
    agent.block(listed)
    assert wants(agent, "mmap", listed) == errno.EPERM
    return listed


@pytest.mark.parametrize("how", ["open", "write", "overwrite"])
def test_a_known_listed_file_is_not_opened_to_be_written_either(
    agent: Agent, fresh: Callable[..., Path], how: str
) -> None:
    listed = known_and_listed(agent, fresh)

    for _the_first_must_not_make_way_for_the_second in range(2):
        assert wants(agent, how, listed) == errno.EPERM
        assert wants(agent, "open", listed) == errno.EPERM


@pytest.mark.parametrize("change", [os.rename, os.link], ids=["rename", "link"])
def test_a_listed_file_that_only_got_another_name_is_still_not_opened(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path, change: Callable[[Path, Path], None]
) -> None:
    listed, name = known_and_listed(agent, fresh), tmp_path / "another-name"
    change(listed, name)  # its ctime is another one

    assert wants(agent, "open", name) == errno.EPERM


def test_a_file_that_was_listed_and_has_other_content_by_now_is_opened(
    agent: Agent, fresh: Callable[..., Path]
) -> None:
    listed = known_and_listed(agent, fresh)
    os.truncate(listed, listed.stat().st_size - 1)  # no open for writing tells of it

    assert wants(agent, "open", listed) == GRANTED


def test_a_new_file_under_the_number_of_a_listed_one_is_made(
    agent: Agent, fresh: Callable[..., Path], tmpfs: Path
) -> None:
    listed = fresh(directory=tmpfs)
    agent.block(listed)
    assert wants(agent, "mmap", listed) == errno.EPERM
    number = listed.stat().st_ino
    listed.unlink()

    made = tmpfs / "made"
    script = f"set -C; i=0; while [ $i -lt 200 ]; do : >{made}.$i || exit 1; i=$((i + 1)); done"
    assert agent.run("/bin/sh", "-c", script) == 0, f"inode {number} among them or not"


@pytest.mark.parametrize("is_executable", [True, False], ids=["with-x", "without-x"])
def test_a_listed_program_is_not_run_through_its_loader(
    agent: Agent, fresh: Callable[..., Path], is_executable: bool
) -> None:
    listed = fresh("burst")
    listed.chmod(0o755 if is_executable else 0o644)
    agent.block(listed)

    assert agent.run(LOADER, listed, "1") not in (0, GRANTED)
    assert agent.run(LOADER, fresh("burst"), "1") == 0


def test_a_listed_library_is_not_preloaded(agent: Agent, tmp_path: Path) -> None:
    source, library, mark = tmp_path / "l.c", tmp_path / "l.so", tmp_path / "mark"
    source.write_text(f'#include <fcntl.h>\n__attribute__((constructor)) void f(void) {{ creat("{mark}", 0600); }}\n')
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    agent.block(library)

    for variable in ("LD_PRELOAD", "LD_AUDIT"):
        command = [agent.programs / "enter", agent.cgroup, "/usr/bin/env", f"{variable}={library}", "/bin/true"]
        subprocess.run(list(map(str, command)), check=False, capture_output=True, timeout=60)
        assert not mark.exists()

    assert agent.wait_for("access").verdict is Verdict.BLOCK


@pytest.mark.parametrize("interpreter", ["/bin/sh", "/usr/bin/python3"])
def test_a_listed_script_is_not_run_whoever_reads_it(agent: Agent, tmp_path: Path, interpreter: str) -> None:
    agent.kernel.interpreters.use(SHELLS)
    mark = tmp_path / "mark"
    text = f": > {mark}\n" if interpreter == "/bin/sh" else f"open({str(mark)!r}, 'w')\n"
    listed = script(tmp_path, f"#!{interpreter}\n{text}")
    other = script(tmp_path, f"#!{interpreter}\n{text}# another\n", "other")
    agent.block(listed)
    copied = tmp_path / "interpreter"
    shutil.copy(os.path.realpath(interpreter), copied)

    nested = script(tmp_path, f"#!{listed}\n", "nested")
    for command in ([listed], [interpreter, listed], [copied, listed], [nested]):
        assert agent.run(*command) not in (0, -signal.SIGKILL)
        assert not mark.exists(), command

    assert agent.run(interpreter, other) == 0
    assert mark.exists()


def test_what_is_no_interpreter_reads_unknown_files_at_once(agent: Agent, tmp_path: Path) -> None:
    agent.kernel.interpreters.use(SHELLS)
    assert wants(agent, "open", agent.programs / "mark") == GRANTED  # with new patterns its own program waits again
    file = script(tmp_path, "data\n")
    waited = agent.kernel.tables.counters()["held"]

    assert wants(agent, "open", file) == GRANTED

    assert agent.kernel.tables.counters()["held"] == waited


def test_a_file_that_was_opened_for_writing_is_another_file(agent: Agent, fresh: Callable[..., Path]) -> None:
    library = fresh()
    assert wants(agent, "mmap", library) == GRANTED
    with library.open("rb") as file:
        identity = file_of(file.fileno())
    assert agent.kernel.tables.known(identity) == sha256(library)

    with library.open("r+b"):
        assert agent.kernel.tables.known(identity) == ""


def test_a_write_through_a_mapping_on_tmpfs_does_not_slip_through(
    agent: Agent, fresh: Callable[..., Path], tmpfs: Path, tmp_path: Path
) -> None:
    listed = fresh()
    agent.block(listed)
    program = tmpfs / "program"
    shutil.copy(listed, program)
    with program.open("r+b") as file:  # one byte is another: it is not listed now
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    assert agent.run(program, tmp_path / "first") == GRANTED
    assert agent.run(program, tmp_path / "first") == GRANTED
    with program.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[-1] ^= 1  # neither size nor times tell

    assert sha256(program) == sha256(listed)
    assert agent.run(program, tmp_path / "mark") == NOT_STARTED
    assert not (tmp_path / "mark").exists()


def test_a_known_program_on_tmpfs_does_not_wait(
    agent: Agent, fresh: Callable[..., Path], tmpfs: Path, tmp_path: Path
) -> None:
    program = fresh(directory=tmpfs)
    assert agent.run(program, tmp_path / "mark") == GRANTED
    waited = agent.kernel.tables.counters()["held"]

    assert agent.run(program, tmp_path / "mark") == GRANTED

    assert agent.kernel.tables.counters()["held"] == waited


@pytest.mark.parametrize("layer", ["lower", "merged"])
def test_code_and_scripts_on_an_overlay_are_judged_too(
    agent: Agent, fresh: Callable[..., Path], overlay: Path, layer: str
) -> None:
    agent.kernel.interpreters.use(SHELLS)
    listed, plain = fresh(directory=overlay / layer), fresh(directory=overlay / layer)
    text = script(overlay / layer, "exit 9\n")
    agent.block(listed)

    for how in ("mmap", "mprotect"):
        assert wants(agent, how, overlay / "merged" / listed.name) == errno.EPERM
        assert wants(agent, how, overlay / "merged" / plain.name) == GRANTED
    assert agent.run("/bin/sh", overlay / "merged" / text.name) == 9


def test_monitor_mode_refuses_nothing_and_says_what_it_would_have_refused(
    attach: Callable[..., Agent], fresh: Callable[..., Path]
) -> None:
    agent = attach(agent={"mode": "monitor"})
    listed = fresh()
    agent.block(listed)
    with listed.open("rb") as file:
        agent.kernel.tables.remember(file_of(file.fileno()), sha256(listed))

    assert wants(agent, "mmap", listed) == GRANTED

    assert agent.wait_for("access").flags == layout.F_MONITOR


@pytest.mark.parametrize(("answer", "code"), [("refuse", errno.EPERM), ("allow", GRANTED)])
def test_without_a_responder_unknown_code_gets_the_declared_answer(
    attach: Callable[..., Agent], fresh: Callable[..., Path], answer: str, code: int
) -> None:
    agent = attach(exec={"on_responder_down": answer})
    assert wants(agent, "mmap", fresh()) == GRANTED  # its own libraries are known from here on
    end(responder.ensure_running(agent.config).pid)

    assert wants(agent, "mmap", fresh()) == code

    assert agent.kernel.tables.counters()["declared"]


def test_a_responder_that_dies_leaves_nobody_waiting(agent: Agent, fresh: Callable[..., Path]) -> None:
    library = fresh()
    assert wants(agent, "mmap", fresh()) == GRANTED
    waited = agent.kernel.tables.counters()["held"]
    pid = responder.ensure_running(agent.config).pid
    os.kill(pid, signal.SIGSTOP)
    with agent.start(agent.programs / "wants", "mmap", library) as process:
        while agent.kernel.tables.counters()["held"] == waited:
            os.sched_yield()
        end(pid)
        responder.ensure_running(agent.config)
        assert process.wait() == GRANTED


def test_past_the_deadline_the_declared_answer_is_given(
    agent: Agent, configure: Callable[..., Config], fresh: Callable[..., Path]
) -> None:
    assert wants(agent, "mmap", fresh()) == GRANTED  # its own libraries are known from here on
    agent.kernel.tables.set_posture(configure(exec={"deadline_ms": 1}))
    library = fresh()
    os.truncate(library, 1 << 28)

    assert wants(agent, "mmap", library) == errno.EPERM

    assert agent.wait_for("access", lambda r: r.flags & layout.F_DECLARED != 0).flags & layout.F_REFUSED


@contextmanager
def written_all_the_time(file: Path) -> Iterator[None]:
    """One byte of it after the other becomes another one, faster than it can be hashed."""
    writer = subprocess.Popen([sys.executable, "-S", "-c", _WRITER, file], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.read(1)
    yield
    writer.kill()
    writer.wait()
    writer.stdout.close()


_WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
at = 0
while True:
    os.pwrite(fd, bytes([at % 251]), at % 4096)
    at += 1
    if at == 100:
        os.write(1, b".")
"""


@pytest.mark.parametrize(("answer", "code"), [("refuse", errno.EPERM), ("allow", GRANTED)])
@pytest.mark.parametrize("how", ["open", "mmap"])
def test_a_file_that_is_written_all_the_time_has_the_declared_answer_after_the_deadline(
    attach: Callable[..., Agent], tmp_path: Path, how: str, answer: str, code: int
) -> None:
    agent = attach(exec={"deadline_ms": 1000, "on_deadline": answer})
    agent.kernel.interpreters.use(("wants",))
    assert wants(agent, "open", fresh_data(tmp_path, 1)) == GRANTED  # it and its libraries are known from here on
    log = fresh_data(tmp_path, 8 << 20)

    with written_all_the_time(log):
        assert wants(agent, how, log) == code

    assert agent.kernel.tables.counters()["declared"]


def fresh_data(directory: Path, size: int) -> Path:
    path = directory / f"data-{secrets.token_hex(4)}"
    path.write_bytes(secrets.token_bytes(size))
    return path


def test_a_wait_that_came_to_an_end_is_not_taken_for_the_next_one(agent: Agent, tmp_path: Path) -> None:
    agent.kernel.interpreters.use(SHELLS)
    first, again = script(tmp_path, "first\n", "first"), f"read a <{tmp_path}/first; sleep 1; read a <{tmp_path}/first"
    waits = Map.pinned(agent.kernel.directory / "waits", 4, layout.WAIT.size)

    assert agent.run("/bin/sh", "-c", again) == 0
    assert first.exists()

    assert list(waits.keys()) == []


@pytest.mark.parametrize("how", ["detached", "detached-below"])
def test_an_unknown_script_in_a_mount_that_hangs_in_no_tree_is_found(agent: Agent, tmp_path: Path, how: str) -> None:
    agent.kernel.interpreters.use(("wants",))
    assert wants(agent, "open", fresh_data(tmp_path, 1)) == GRANTED
    (tmp_path / "below").mkdir()
    plain, listed = fresh_data(tmp_path, 100), fresh_data(tmp_path, 100)
    agent.block(listed)

    assert wants(agent, how, plain) == GRANTED
    assert wants(agent, how, listed) == errno.EPERM
    assert agent.wait_for("access").verdict is Verdict.BLOCK


@pytest.mark.parametrize("names", [15, 20], ids=["four-thousand-bytes", "more-than-any-path"])
def test_an_unknown_program_is_found_however_long_its_path(
    agent: Agent, fresh: Callable[..., Path], tmp_path: Path, names: int
) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    for _ in range(names):
        os.mkdir("d" * 250, dir_fd=directory)
        directory = os.open("d" * 250, os.O_RDONLY, dir_fd=directory)
    program = fresh()
    os.rename(program, program.name, dst_dir_fd=directory)

    before = Path.cwd()
    os.fchdir(directory)
    try:
        assert agent.run(f"./{program.name}", tmp_path / "mark") == GRANTED
    finally:
        os.chdir(before)


def test_nothing_outside_of_the_scope_is_asked_about(agent: Agent, fresh: Callable[..., Path]) -> None:
    listed = fresh()
    agent.block(listed)

    assert subprocess.run([agent.programs / "wants", "mmap", listed], check=False).returncode == GRANTED
    assert agent.kernel.tables.counters()["held"] == 0
