# SPDX-License-Identifier: Apache-2.0
"""Places of our own to act on: a cgroup, a bpffs directory, a network namespace; and an agent in them."""

import hashlib
import os
import secrets
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mamplus_host.ble.encode import encode
from mamplus_host.ble.entry import Entry, Kind, canonical
from mamplus_host.ble.format import Generation
from mamplus_host.config import CGROUP2_MOUNTS, Config, Limits, cgroup_dir, parse
from mamplus_host.executor.vault.vault import Vault
from mamplus_host.kernel import layout, pins, responder
from mamplus_host.kernel.objects import Kernel
from mamplus_host.kernel.tables import LoadReport, file_of
from mamplus_host.verdicts import Verdict

from . import acts, compiled
from .compiled import BUILD
from .reused import as_new

SLOWNESS = 6 if "MAMPLUS_VM" in os.environ else 1  # of an emulated machine, at most
DEADLINE_S = 20.0 * SLOWNESS
REFUSED = (
    -signal.SIGKILL,
    126,
)  # exit codes of what was not let run: ended before its first instruction, or (BPF LSM) not started

_LAYOUTS = {
    layout.KIND_EXEC: ("exec", layout.EXEC, layout.EXEC_FIELDS),
    layout.KIND_HELD: ("held", layout.EXEC, layout.EXEC_FIELDS),
    layout.KIND_FILE: ("access", layout.ACCESS, layout.ACCESS_FIELDS),
    layout.KIND_FORK: ("fork", layout.FORK, layout.FORK_FIELDS),
    layout.KIND_EXIT: ("exit", layout.EXIT, layout.EXIT_FIELDS),
    layout.KIND_CONNECT: ("connect", layout.CONNECT, layout.CONNECT_FIELDS),
    layout.KIND_SENDMSG: ("sendmsg", layout.CONNECT, layout.CONNECT_FIELDS),
    layout.KIND_PACKET: ("packet", layout.PACKET, layout.PACKET_FIELDS),
    layout.KIND_DNS: ("dns", layout.DNS, layout.DNS_FIELDS),
    layout.KIND_TAMPER: ("tamper", layout.TAMPER, layout.TAMPER_FIELDS),
}


@dataclass(frozen=True)
class Record:
    """One record of the ring: `kind` by name, fields by the names of the C structs."""

    kind: str
    fields: dict[str, Any]

    @property
    def flags(self) -> int:
        return int(self.fields["head_flags"])

    @property
    def verdict(self) -> Verdict:
        return Verdict(self.fields["head_verdict"])

    @property
    def tgid(self) -> int:
        return int(self.fields["head_tgid"])


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def end(pid: int) -> None:
    """Kill a process with SIGKILL, and wait until it is gone."""
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    gone = select.poll()
    gone.register(pidfd, select.POLLIN)
    assert gone.poll(DEADLINE_S * 1000)
    os.close(pidfd)


def decode(runs: list[tuple[int, int, bytes]]) -> list[Record]:
    found = []
    for kind, count, data in runs:
        name, record, fields = _LAYOUTS[kind]
        made = [Record(name, dict(zip(fields, values, strict=True))) for values in record.iter_unpack(data)]
        assert len(made) == count
        found += made
    return found


class Started(subprocess.Popen[bytes]):
    """A program that is not waited for without end: it may be held for ever."""

    def wait(self, timeout: float | None = DEADLINE_S) -> int:
        return super().wait(timeout)

    def __exit__(self, *exc: Any) -> None:
        self.kill()
        super().__exit__(*exc)


@dataclass
class Agent:
    """An attached kernel, and programs run in its scope."""

    config: Config
    cgroup: Path
    programs: Path
    kernel: Kernel
    seen: list[Record] = field(default_factory=list)

    def start(self, *command: str | Path) -> "Started":
        return Started([self.programs / "enter", self.cgroup, *command], stdout=subprocess.PIPE)

    def run(self, *command: str | Path) -> int:
        """Run a program in the scope; return its exit code, negative for a signal."""
        with self.start(*command) as process:
            return process.wait()

    def publish(
        self,
        *lines: tuple[Kind, str, Verdict],
        generation: int = 1,
        valid_until: int = 0,
        guarded_names: tuple[str, ...] = (),
    ) -> LoadReport:
        """Load a generation of these lines."""
        entries = [
            Entry(id=number, kind=kind, value=canonical(kind, value), verdict=verdict, valid_until=valid_until)
            for number, (kind, value, verdict) in enumerate(lines, 1)
        ]
        with Generation(encode(entries, generation=generation, created_s=1)) as made:
            return self.kernel.tables.load(made, time.time(), guarded_names=guarded_names)

    def block(self, *programs: Path, generation: int = 1) -> None:
        """Load a generation that blocks the content of `programs`."""
        self.publish(*((Kind.SHA256, sha256(path), Verdict.BLOCK) for path in programs), generation=generation)

    def know_tools(self) -> None:
        """Make the tests' own programs known: they do not wait."""
        for name in BUILD:
            with (self.programs / name).open("rb") as file:
                self.kernel.tables.remember(file_of(file.fileno()), sha256(self.programs / name))

    def make_known(self, program: Path, *arguments: str | Path) -> None:
        """Run `program` until the kernel remembers its content: not before its ctime is a few clock ticks old."""
        end = time.monotonic() + DEADLINE_S
        while True:
            with self.start(program, *arguments) as process:
                process.wait()
            if not self.wait_for("exec", lambda record: record.tgid == process.pid).flags & layout.F_UNKNOWN:
                return
            assert time.monotonic() < end, "it never became known"

    def drain(self) -> None:
        while batch := self.kernel.ring.drain():
            made = {run[0]: iter(decode([run])) for run in batch.runs}
            self.seen += [next(made[kind]) for kind in batch.order]

    def wait_for(self, kind: str, matches: Callable[[Record], bool] = lambda _record: True) -> Record:
        """Return the first record of `kind` that matches, of those seen already or still to come."""
        end = time.monotonic() + DEADLINE_S
        while True:
            self.drain()
            for record in self.seen:
                if record.kind == kind and matches(record):
                    return record
            left = end - time.monotonic()
            assert left > 0, f"no {kind} record among {[r.kind for r in self.seen]}"
            self.kernel.ring.wait(left)

    def count(self, kind: str) -> int:
        self.drain()
        return sum(record.kind == kind for record in self.seen)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small C programs, compiled."""
    return compiled.put(tmp_path_factory.mktemp("programs"))


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of our own; what is left in it is killed at the end."""
    mount = next(Path(m) for m in CGROUP2_MOUNTS if (Path(m) / "cgroup.controllers").exists())
    path = mount / f"mamplus-test-{secrets.token_hex(4)}"
    path.mkdir()
    yield path
    (path / "cgroup.kill").write_text("1")
    end = time.monotonic() + DEADLINE_S
    while "populated 1" in (path / "cgroup.events").read_text() and time.monotonic() < end:
        os.sched_yield()
    path.rmdir()


@pytest.fixture
def configure(cgroup: Path, tmp_path: Path) -> Iterator[Callable[..., Config]]:
    """Makes configurations for our cgroup and a bpffs directory of our own; removes what was pinned there."""
    base = {
        "scope": {"cgroup": str(cgroup)},
        "paths": {
            "bpffs": f"/sys/fs/bpf/mptest-{secrets.token_hex(4)}",
            "run": str(tmp_path / "run"),
            "state": str(tmp_path / "state"),
        },
    }
    made = parse(base)
    unguarded = {"self_protection": False}  # tests end agents as nobody else may
    yield lambda **sections: parse(base | sections | {"agent": unguarded | sections.get("agent", {})})
    responder.stop(made)
    Kernel.detach(made)


@pytest.fixture
def below_lsm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts as they are held without BPF LSM, on a kernel with it, too."""
    others = tuple(path for path in pins.OPTIONAL_OBJECTS if path.name != "lsm_exec.bpf.o")
    monkeypatch.setattr(pins, "OPTIONAL_OBJECTS", others)


@pytest.fixture
def attach(configure: Callable[..., Config], cgroup: Path, programs: Path) -> Iterator[Callable[..., Agent]]:
    """Attaches an agent; its keyword arguments are sections of the configuration."""
    attached: list[Agent] = []

    def attach_one(**sections: dict[str, Any]) -> Agent:
        config = configure(**sections)
        attached.append(Agent(config, cgroup, programs, Kernel.attach(config, cgroup_dir(config))))
        attached[-1].know_tools()
        return attached[-1]

    yield attach_one
    for agent in attached:
        agent.kernel.close()


@pytest.fixture
def agent(attach: Callable[..., Agent]) -> Agent:
    """An agent as configured by default: it enforces."""
    return attach()


@pytest.fixture(scope="module")
def reused_config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """For probes that the tests of a file share: to attach them takes longer than most tests."""
    home = tmp_path_factory.mktemp("agent")
    with acts.own_cgroup() as cgroup:
        paths = {"bpffs": f"/sys/fs/bpf/mptest-{secrets.token_hex(4)}", "run": str(home), "state": str(home / "state")}
        made = parse({"scope": {"cgroup": str(cgroup)}, "paths": paths, "agent": {"self_protection": False}})
        yield made
        responder.stop(made)
        Kernel.detach(made)


@pytest.fixture
def reuse(reused_config: Config, programs: Path, tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """As `attach`, with the probes of the test before it, as if they were new; its state is its own."""
    used: list[Kernel] = []

    def reuse_them(**sections: dict[str, Any]) -> Agent:
        base = msgspec.to_builtins(reused_config)
        base["paths"] |= {"state": str(tmp_path / "state")}
        config = parse({name: section | sections.get(name, {}) for name, section in base.items()})
        used.append(Kernel.attach(config, cgroup_dir(config)))
        as_new(used[-1])
        made = Agent(config, cgroup_dir(config), programs, used[-1])
        made.know_tools()
        return made

    yield reuse_them
    acts.empty(cgroup_dir(reused_config))
    for kernel in used:
        kernel.close()


@pytest.fixture
def reused_agent(reuse: Callable[..., Agent]) -> Agent:
    """As `agent`, with the probes of the test before it."""
    return reuse()


@pytest.fixture(params=["tmpfs", "ext4"])
def place(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Where protected files lie."""
    with acts.own_tmpfs() if request.param == "tmpfs" else acts.own_directory() as path:
        yield path


@pytest.fixture
def clock() -> acts.Clock:
    return acts.Clock()


@pytest.fixture
def vault(tmp_path: Path, clock: acts.Clock) -> Iterator[Vault]:
    one = Vault(tmp_path / "vault", limits=Limits(), clock=clock)
    yield one
    one.close()


@pytest.fixture
def tmpfs() -> Iterator[Path]:
    """Where a write through a mapping leaves no trace."""
    with acts.own_tmpfs() as path:
        yield path


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """Where stat(2) and the kernel's inode tell different devices: lower, upper and merged, in a directory."""
    parts = {name: tmp_path / name for name in ("lower", "upper", "work", "merged")}
    for path in parts.values():
        path.mkdir()
    options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "mptest", parts["merged"]], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", parts["merged"]], check=True)


@pytest.fixture
def fresh(tmp_path: Path, programs: Path) -> Callable[..., Path]:
    """Copies a program to a new file whose content nobody has seen: random bytes behind the ELF's end."""

    def copy(name: str = "mark", directory: Path = tmp_path) -> Path:
        path = directory / f"{name}-{secrets.token_hex(4)}"
        shutil.copy(programs / name, path)
        with path.open("ab") as file:
            file.write(secrets.token_bytes(16))
        return path

    return copy
