# SPDX-License-Identifier: Apache-2.0
"""A place to attack: a cgroup, a disk and a memory file system of our own, and an agent that guards them.

One agent serves many attacks; each attack gets a directory of its own and fresh files. Everything is
taken away at the end, also when an attack went wrong.
"""

import contextlib
import functools
import os
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mamplus_host.ble.entry import Kind
from mamplus_host.config import Config, cgroup_dir, parse
from mamplus_host.errors import KernelRefused
from mamplus_host.filerules import FileRules, Guarded
from mamplus_host.kernel import layout, pins, responder
from mamplus_host.kernel.objects import Kernel
from mamplus_host.kernel.tables import file_of
from mamplus_host.policy import INTERPRETERS, Policy
from mamplus_host.verdicts import Verdict
from tests.attacks.attack import Missing
from tests.attacks.guarded import Files
from tests.attacks.outcome import REFUSALS, Seen, Told, Unexplained
from tests.attacks.payloads import Payloads, build, kinds
from tests.attacks.whole_agent import WholeAgent, whole_agent
from tests.kernel.acts import own_cgroup
from tests.kernel.conftest import Agent, Record, sha256

DEADLINE_S = 30.0  # of one attack; an emulated machine is slow
DISK_BYTES = 48 << 20
LSM_HOOKS = {"bprm", "mmap", "open"}
LSM_OBJECTS = "lsm_"  # how the files of those programs begin


@dataclass
class Ground:
    """An agent on one tier, and what is played against it."""

    tier: str
    cgroup: Path
    work: Path  # on the machine's own file system
    disk: Path  # ext4
    memory: Path  # tmpfs
    programs: Path  # compiled from programs/
    payloads: Payloads
    agent: Agent
    stack: contextlib.ExitStack
    files: Files | None = None  # for attacks on files, with the whole agent

    @functools.cached_property
    def whole(self) -> WholeAgent:
        """An agent as a process, beside the one whose kernel part this runner holds; started when it is needed."""
        sections = _sections(self.tier, [self.disk, self.memory])
        self.files = Files.make(self.disk, self.programs / "filetry", self.stack)
        rules = Policy(files=FileRules(guarded=(Guarded(path=str(self.files.guarded)),)))
        return self.stack.enter_context(whole_agent(self.work, self.cgroup, rules, sections))

    def whole_file_attempt(self, way: str, file: Path, out: Path, others: Sequence[str]) -> Seen:
        """Have filetry change a file, in the scope of the whole agent."""
        assert self.files is not None
        code = self.files.attempt(way, file, out, others, self.whole.scope)
        return Seen(exit=code, errno=code)

    @property
    def hooks(self) -> Mapping[str, str]:
        return self.agent.kernel.hooks()

    # --- acting ------------------------------------------------------------------------------

    def act(self, deed: Callable[[], Any], *, cgroup: Path | None = None) -> Seen:
        """Do something in a process of the scope: an OSError is what it saw, an exec is waited for."""
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _do(deed, cgroup or self.cgroup, write_end)
        os.close(write_end)
        code = await_end(pid)
        with open(read_end, "rb") as report:
            return Seen(exit=code, errno=int(report.read() or b"0"))

    @contextlib.contextmanager
    def meanwhile(self, deed: Callable[[], Any]) -> Iterator[int]:
        """Do something in another process of the scope; it is killed at the end."""
        pid = os.fork()
        if pid == 0:
            _do(deed, self.cgroup, os.open("/dev/null", os.O_WRONLY))
        try:
            yield pid
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def execute(self, program: Path | str | bytes, *arguments: Path | str | bytes, **environment: str) -> Seen:
        """Start a program in the scope and wait for its end."""
        variables = {**os.environ, **environment}
        vector = [os.fsencode(one) for one in (program, *arguments)]
        return self.act(lambda: _become(program, vector, variables))

    def until_met(self, program: Path, marker: Path, *, tries: int) -> Seen:
        """Start what may be the listed program or a good one until the marker is there; return what met it at worst."""
        worst = Seen(exit=0)
        for _ in range(tries):
            seen = self.execute(program, marker)
            if marker.exists():
                return seen
            if seen.exit == -signal.SIGKILL or seen.errno in REFUSALS:
                worst = seen
        return worst

    def tool(self, name: str, *arguments: Path | str | bytes) -> Seen:
        """Run one of our attacking programs. It may print the errno of what failed, and ends with 1 then."""
        return self.run(self.programs / name, *arguments)

    def run(self, *command: Path | str | bytes, stdin: bytes = b"") -> Seen:
        """Run any program in the scope; a number that it prints alone on its last line is an errno."""
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as given:
            given.write(stdin)
            given.seek(0)

            def deed() -> None:
                os.dup2(given.fileno(), 0)
                os.dup2(output.fileno(), 1)
                _become(command[0], [os.fsencode(one) for one in command], dict(os.environ))

            seen = self.act(deed)
            output.seek(0)
            last = output.read().splitlines()[-1:] or [b""]
        return Seen(exit=seen.exit, errno=seen.errno or (int(last[0]) if last[0].isdigit() else 0))

    def make_known(self, program: Path, *arguments: str | Path) -> None:
        """Run an innocent program until the kernel believes its content."""
        self.agent.make_known(program, *arguments)

    def mount(self, kind: str, where: Path, options: str = "") -> contextlib.AbstractContextManager[Path]:
        """A file system without a device, mounted there."""
        return mounted("mptest", where, kind, options)

    def mount_image(self, kind: str, image: Path, where: Path) -> contextlib.AbstractContextManager[Path]:
        return mounted(str(image), where, kind, "loop")

    @contextlib.contextmanager
    def overlay(self, directory: Path) -> Iterator[Path]:
        """An overlay made of directories `lower`, `upper` and `work`; its own is beside them."""
        parts = {name: directory / name for name in ("lower", "upper", "work")}
        for path in parts.values():
            path.mkdir(parents=True)
        options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
        with mounted("mptest", directory / "merged", "overlay", options) as merged:
            yield merged

    # --- what the agent tells ------------------------------------------------------------------

    def forget_the_past(self) -> int:
        """Begin an attack: return the time, CLOCK_BOOTTIME in ns. What is recorded from now on is about it."""
        self.agent.drain()
        self.agent.seen.clear()
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def told_since(self, started_ns: int) -> list[Told]:
        self.agent.drain()
        about = [record for record in self.agent.seen if is_about_a_program(record)]
        return [_told(record, started_ns) for record in about]


def _do(deed: Callable[[], Any], cgroup: Path, report: int) -> None:
    """In the child: never returns."""
    code = 99
    try:
        (cgroup / "cgroup.procs").write_text("0")
        result = deed()
        code = result if isinstance(result, int) else 0
    except (OSError, KernelRefused) as error:
        os.write(report, str(error.errno or 0).encode())
        code = 1
    finally:
        os._exit(code)


def _become(program: Path | str | bytes, vector: list[bytes], variables: dict[str, str]) -> None:
    """execve(2); what the program complains of is not shown."""
    os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
    os.execve(program, vector, variables)


def await_end(pid: int) -> int:
    """Wait for a child: its exit code, negative for a signal. It is killed at the deadline."""
    pidfd = os.pidfd_open(pid)
    try:
        if not select.select([pidfd], [], [], DEADLINE_S)[0]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise Unexplained(f"the attack did not end within {DEADLINE_S} s")
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_about_a_program(record: Record) -> bool:
    """Whether a record is a refusal, or names something that is listed. What the runner does to the agent is not."""
    if record.kind == "tamper":
        return False
    return bool(record.flags & layout.F_REFUSED) or record.verdict in (Verdict.BLOCK, Verdict.SUSPECT)


def _told(record: Record, started_ns: int) -> Told:
    return Told(
        what=record.kind,
        is_refusal=bool(record.flags & layout.F_REFUSED),
        after_ms=round((record.fields["head_boot_ns"] - started_ns) / 1e6, 1),
    )


# --- making one ----------------------------------------------------------------------------------


@contextlib.contextmanager
def ground(tier: str) -> Iterator[Ground]:
    """An agent of `tier` on a ground of its own; attack.Missing where the kernel does not have the tier."""
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mamplus-attacks-")))
        work.chmod(0o755)
        disk, memory = stack.enter_context(_disk(work)), stack.enter_context(_memory(work))
        programs = build(work / "programs")
        payloads = Payloads.make(work / "payloads", programs)
        cgroup = stack.enter_context(own_cgroup())
        agent = stack.enter_context(_agent(tier, work, cgroup, programs, [disk, memory]))
        agent.publish(*((Kind.SHA256, sha256(payloads.listed(kind)), Verdict.BLOCK) for kind in kinds(programs)))
        inner = stack.enter_context(contextlib.ExitStack())
        yield Ground(tier, cgroup, work, disk, memory, programs, payloads, agent, inner)


def _sections(tier: str, marked: list[Path]) -> dict[str, Any]:
    return {"exec": {"fanotify": [str(path) for path in marked]}} if tier == "fanotify" else {}


@contextlib.contextmanager
def _agent(tier: str, work: Path, cgroup: Path, programs: Path, marked: list[Path]) -> Iterator[Agent]:
    sections = _sections(tier, marked) | {
        "agent": {"self_protection": tier == "lsm"},
        "scope": {"cgroup": str(cgroup)},
        "paths": {
            "bpffs": f"/sys/fs/bpf/mptest-{secrets.token_hex(4)}",
            "run": str(work / "run"),
            "state": str(work / "state"),
        },
    }
    config = parse(sections)
    with _objects_of(tier):
        kernel = Kernel.attach(config, cgroup_dir(config))
        try:
            for path in programs.iterdir():  # our own tools do not wait
                with path.open("rb") as file:
                    kernel.tables.remember(file_of(file.fileno()), sha256(path))
            if tier == "fanotify":
                _mark(kernel, config)
            if tier == "lsm":
                _require_lsm(kernel)
            yield Agent(config, cgroup, programs, kernel)
        finally:
            kernel.close()
            responder.stop(config)
            Kernel.detach(config)


def _require_lsm(kernel: Kernel) -> None:
    """Raise Missing where the kernel took no LSM program; tell it which programs run what they read."""
    if not kernel.hooks().keys() >= LSM_HOOKS:
        raise Missing("BPF LSM: the kernel refuses such programs, or was booted without lsm=...,bpf")
    kernel.interpreters.use(INTERPRETERS)


def _mark(kernel: Kernel, config: Config) -> None:
    """Have the responder mark our file systems."""
    pidfd = os.pidfd_open(responder.ensure_running(config).pid)
    try:
        wrong = kernel.watching.ask(config, pidfd)
    finally:
        os.close(pidfd)
    if wrong:
        raise Missing(f"fanotify permission events: {wrong}")


@contextlib.contextmanager
def _objects_of(tier: str) -> Iterator[None]:
    """Leave the LSM's programs out where another tier is tried."""
    every = pins.OPTIONAL_OBJECTS
    if tier != "lsm":
        kept: tuple[Path, ...] = tuple(path for path in every if not path.name.startswith(LSM_OBJECTS))
        pins.OPTIONAL_OBJECTS = kept  # type: ignore[assignment,unused-ignore]
    try:
        yield
    finally:
        pins.OPTIONAL_OBJECTS = every


@contextlib.contextmanager
def filled_image(directory: Path, kind: str, maker: list[str], size: int = 4 << 20) -> Iterator[Path]:
    """A file system in an image of its own, made by `maker`; Missing where there is no such tool or file system."""
    image = directory / "image"
    image.touch()
    os.truncate(image, size)
    if not shutil.which(maker[0]):
        raise Missing(maker[0])
    subprocess.run([*maker, image], check=True, stdout=subprocess.DEVNULL)
    with mounted(str(image), directory / "mounted", kind, "loop") as path:
        yield path


@contextlib.contextmanager
def mounted(what: str, where: Path, kind: str, options: str = "") -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    extra = ["-o", options] if options else []
    done = subprocess.run(["mount", "-t", kind, *extra, what, where], check=False, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"mount -t {kind}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


@contextlib.contextmanager
def _disk(work: Path) -> Iterator[Path]:
    """A disk of our own, so that it may be marked, filled and looked at block by block."""
    subprocess.run(["modprobe", "-q", "loop"], check=False, capture_output=True)  # built in, on some kernels
    image = work / "disk.img"
    image.touch()
    os.truncate(image, DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", image], check=True)
    with mounted(str(image), work / "disk", "ext4", "loop") as path:
        path.chmod(0o755)
        yield path


@contextlib.contextmanager
def _memory(work: Path) -> Iterator[Path]:
    with mounted("mptest", work / "memory", "tmpfs", "size=32m,mode=755") as path:
        yield path


@contextlib.contextmanager
def arena(ground: Ground) -> Iterator[Path]:
    """A directory for one attack, on the disk."""
    path = ground.disk / f"a-{secrets.token_hex(4)}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
