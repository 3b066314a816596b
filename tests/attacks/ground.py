# SPDX-License-Identifier: Apache-2.0
"""A place to attack: a cgroup, a disk and a memory file system of our own, and an agent that guards them.

One agent serves many attacks; each attack gets a directory of its own and fresh files. Everything is
taken away at the end, also when an attack went wrong.
"""

import contextlib
import functools
import os
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mamplus_host.ble.entry import Kind
from mamplus_host.config import Config, cgroup_dir, parse
from mamplus_host.kernel import layout, pins, responder
from mamplus_host.kernel.objects import Kernel
from mamplus_host.kernel.tables import file_of
from mamplus_host.policy.files import FileRules, Guarded
from mamplus_host.policy.policy import INTERPRETERS, Policy
from mamplus_host.verdicts import Verdict
from tests.attacks.attack import Missing
from tests.attacks.attacker import Attacker, Deed, become
from tests.attacks.disks import mounted, own_disk, own_memory
from tests.attacks.guarded import Files
from tests.attacks.outcome import Seen, Told
from tests.attacks.payloads import Payloads, kinds, put
from tests.attacks.whole_agent import WholeAgent, whole_agent
from tests.kernel.acts import own_cgroup
from tests.kernel.conftest import Agent, Record, sha256

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
    _counted: Counter[str] = field(default_factory=Counter)  # when the attack began

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

    def act(self, deed: Deed, *, cgroup: Path | None = None) -> Seen:
        """Do something in a process of the scope: an OSError is what it saw, an exec is waited for."""
        with contextlib.closing(Attacker.begin(deed, cgroup or self.cgroup)) as attacker:
            return attacker.wait()

    @contextlib.contextmanager
    def meanwhile(self, deed: Deed) -> Iterator[int]:
        """Do something in another process of the scope; it is killed at the end."""
        with contextlib.closing(Attacker.begin(deed, self.cgroup)) as attacker:
            try:
                yield attacker.pid
            finally:
                attacker.kill()

    def execute(self, program: Path | str | bytes, *arguments: Path | str | bytes, **environment: str) -> Seen:
        """Start a program in the scope and wait for its end."""
        variables = {**os.environ, **environment}
        vector = [os.fsencode(one) for one in (program, *arguments)]
        return self.act(lambda: become(program, vector, variables))

    def until_met(self, program: Path, marker: Path, *, tries: int) -> Seen:
        """Start what may be the listed program or a good one until the marker is there; return what met it at worst."""
        return self.tool("again", str(tries), program, marker)

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
                become(command[0], [os.fsencode(one) for one in command], dict(os.environ))

            seen = self.act(deed)
            output.seek(0)
            last = output.read().splitlines()[-1:] or [b""]
        return Seen(exit=seen.exit, errno=seen.errno or (int(last[0]) if last[0].isdigit() else 0))

    def make_known(self, program: Path, *arguments: str | Path) -> None:
        """Run an innocent program until the kernel believes its content."""
        self.agent.make_known(program, *arguments)

    def know_tools(self) -> None:
        """Make our tools known again, after an attack that had the kernel forget."""
        _know(self.agent.kernel, self.programs)

    def mount(self, kind: str, where: Path, options: str = "") -> contextlib.AbstractContextManager[Path]:
        """A file system without a device, mounted there."""
        return mounted("mptest", where, kind, options)

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
        self._counted = self.counters()
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def told_since(self, started_ns: int) -> list[Told]:
        self.agent.drain()
        about = [record for record in self.agent.seen if is_about_a_program(record)]
        return [_told(record, started_ns) for record in about] or self._counted_since(started_ns)

    def counters(self) -> Counter[str]:
        """Return the counters: of refusals, also by fanotify, and of those that found no room for a record."""
        kernel, watch = self.agent.kernel.tables.counters(), self.agent.kernel.watching.counters()
        return Counter(refused=kernel["refused"] + watch["refused"], lost=kernel["lost"] + watch["no_room"])

    def _counted_since(self, started_ns: int) -> list[Told]:
        """A refusal that found no room for a record, or no descriptor, is told by the two counters."""
        if (self.counters() - self._counted).keys() < {"refused", "lost"}:
            return []
        after_ms = round((time.clock_gettime_ns(time.CLOCK_BOOTTIME) - started_ns) / 1e6, 1)
        return [Told(what="counted", is_refusal=True, after_ms=after_ms)]


def is_about_a_program(record: Record) -> bool:
    """Whether a record is a refusal, or names something that is listed; the runner's own hands on the agent are not."""
    if record.kind == "tamper":
        return bool(record.flags & layout.F_REFUSED)
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
        work = Path(tempfile.mkdtemp(prefix="mamplus-attacks-"))
        stack.callback(shutil.rmtree, work, ignore_errors=True)  # where an agent did not end it is guarded
        work.chmod(0o755)
        disk, memory = stack.enter_context(own_disk(work)), stack.enter_context(own_memory(work))
        programs = put(work / "programs")
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
            _know(kernel, programs)
            if tier == "fanotify":
                _mark(kernel, config)
            if tier == "lsm":
                _require_lsm(kernel)
            yield Agent(config, cgroup, programs, kernel)
        finally:
            kernel.close()
            responder.stop(config)
            Kernel.detach(config)


def _know(kernel: Kernel, programs: Path) -> None:
    """Our own tools do not wait."""
    for path in programs.iterdir():
        with path.open("rb") as file:
            kernel.tables.remember(file_of(file.fileno()), sha256(path))


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
def arena(ground: Ground) -> Iterator[Path]:
    """A directory for one attack, on the disk."""
    path = ground.disk / f"a-{secrets.token_hex(4)}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
