# SPDX-License-Identifier: Apache-2.0
"""Without BTF bcc loads the exec probes, and what they do is what libbpf's do: the same tests.

An empty file lies over the kernel's BTF meanwhile, in a mount namespace of our own. Where no package
has the headers of the running kernel, they are made from the BTF before.
"""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mamplus_host.ble.entry import Kind
from mamplus_host.config import Config, cgroup_dir
from mamplus_host.errors import NotPossible
from mamplus_host.kernel import pins
from mamplus_host.kernel.headers import running_headers
from mamplus_host.kernel.objects import Kernel
from mamplus_host.verdicts import Verdict

from . import headers_from_btf
from .conftest import Agent
from .test_exec import (
    test_a_known_program_never_waits,
    test_a_listed_program_copied_to_a_new_name_runs_no_instruction,
    test_a_listed_program_that_is_known_is_killed_at_once,
    test_a_written_file_is_another_file,
    test_an_unknown_program_waits_for_its_hash_and_then_runs,
)

__all__ = [
    "test_a_known_program_never_waits",
    "test_a_listed_program_copied_to_a_new_name_runs_no_instruction",
    "test_a_listed_program_that_is_known_is_killed_at_once",
    "test_a_written_file_is_another_file",
    "test_an_unknown_program_waits_for_its_hash_and_then_runs",
]
pytestmark = pytest.mark.kernel
LIBC, CLONE_NEWNS = ctypes.CDLL(None, use_errno=True), 0x20000


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A header tree for bcc, "" where it finds this kernel's own."""
    try:
        with running_headers():
            return ""
    except NotPossible:
        return str(headers_from_btf.make(tmp_path_factory.mktemp("headers")))


@pytest.fixture(scope="module", autouse=True)
def without_btf(headers: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Hide the BTF, once the headers were made from it; yields them."""
    empty, before = tmp_path_factory.mktemp("btf") / "empty", Path.cwd()
    empty.touch()
    ours = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    _checked(LIBC.unshare(CLONE_NEWNS))
    try:
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "--bind", empty, pins.BTF], check=True)
        yield headers
    finally:
        _checked(LIBC.setns(ours, CLONE_NEWNS))
        os.close(ours)
        os.chdir(before)  # it was the root of the namespace


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), "mount namespace")


@pytest.fixture(autouse=True)
def headers_named(without_btf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if without_btf:
        monkeypatch.setenv("BCC_KERNEL_SOURCE", without_btf)


def test_the_loader_of_other_kernels_is_refused_here() -> None:
    command = [str(pins.LOADER), "--try", *map(str, pins.OBJECTS)]

    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    assert [line.split()[:2] for line in told if line.startswith("exec ")] == [["exec", "no"]]


def test_status_names_raw_tracepoints_and_what_needs_btf_is_left_out(agent: Agent) -> None:
    hooks = agent.kernel.hooks()

    assert {name: hooks[name] for name in ("exec", "fork", "exit")} == {
        "exec": "raw_tp/sched_process_exec", "fork": "raw_tp/sched_process_fork", "exit": "raw_tp/sched_process_exit",
    }  # fmt: skip
    assert "signal" not in hooks
    assert {"connect4", "connect6", "sendmsg4", "sendmsg6", "dns"} < set(hooks)


def test_a_start_is_told_with_all_that_its_task_says(agent: Agent, fresh: Callable[..., Path], tmp_path: Path) -> None:
    program = fresh()

    with agent.start(program, tmp_path / "mark") as process:
        process.wait()

    record = agent.wait_for("exec", lambda record: record.tgid == process.pid)
    about = program.stat()
    told = [record.fields[name] for name in ("head_ppid", "head_uid", "file_ino", "file_size", "file_mode")]
    assert told == [os.getpid(), os.getuid(), about.st_ino, about.st_size, about.st_mode]
    assert record.fields["file_ctime_s"] * 10**9 + record.fields["file_ctime_ns"] == about.st_ctime_ns


def test_a_refused_connect_is_told_with_what_helpers_know(agent: Agent) -> None:
    agent.publish((Kind.IP, "127.9.9.9", Verdict.BLOCK))

    with agent.start(agent.programs / "talk", "tcp", "127.9.9.9", "9") as process:
        process.wait()

    record = agent.wait_for("connect")
    assert (record.tgid, record.fields["head_uid"], record.fields["head_ppid"]) == (process.pid, os.getuid(), 0)
    assert record.fields["head_comm"].startswith(b"talk\0")


def test_the_next_agent_adopts_what_bcc_loaded(
    attach: Callable[..., Agent], fresh: Callable[..., Path], tmp_path: Path
) -> None:
    first = attach()
    listed = fresh()
    first.block(listed)

    second = attach()

    assert second.kernel.adopted
    assert first.run(listed, tmp_path / "mark") == -signal.SIGKILL


def test_without_headers_the_agent_says_which_to_install(
    configure: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path))
    config = configure()

    with pytest.raises(NotPossible, match=f"linux-headers-{os.uname().release}"):
        Kernel.attach(config, cgroup_dir(config))
    assert not pins.directories(config)
