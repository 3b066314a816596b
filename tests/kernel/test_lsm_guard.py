# SPDX-License-Identifier: Apache-2.0
"""Where the kernel has BPF LSM, root reaches neither the agent nor what it has in the kernel."""

import ctypes
import os
import platform
import resource
import secrets
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest
from mamplus_host.kernel._native import ffi, lib

from mamplus_host.config import CGROUP2_MOUNTS, Config, parse
from mamplus_host.errors import KernelRefused
from mamplus_host.kernel import guard, layout, pins, responder
from mamplus_host.kernel.bpf import Fd, Map
from mamplus_host.kernel.features import YES, lsm
from mamplus_host.kernel.objects import Kernel

from .conftest import Started, decode

pytestmark = pytest.mark.kernel
LIBC = ctypes.CDLL(None, use_errno=True)
BPF = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), 321)
PROG_TEST_RUN = 10
MAP_GET_NEXT_ID, MAP_GET_FD_BY_ID, PROG_GET_FD_BY_ID, LINK_GET_FD_BY_ID = 12, 14, 13, 30
ARRAY = 2  # BPF_MAP_TYPE_ARRAY
PTRACE_ATTACH, PTRACE_SEIZE, MNT_DETACH = 16, 0x4206, 2

AGENT = """
import sys, time
from pathlib import Path
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.encode import encode
from mamplus_host.ble.format import Generation
from mamplus_host.config import parse
from mamplus_host.kernel.objects import Kernel
from mamplus_host.verdicts import Verdict
bpffs, run, cgroup = sys.argv[1:]
config = parse({"scope": {"cgroup": cgroup}, "agent": {"self_protection": True},
                "paths": {"bpffs": bpffs, "run": run, "state": run}})
kernel = Kernel.attach(config, Path(cgroup))
kernel.stand_file_hooks()
entries = [Entry(id=2, kind=Kind.IP, value="127.66.0.1", verdict=Verdict.BLOCK)]
kernel.tables.load(Generation(encode(entries, generation=7, created_s=1)), time.time())
print("guarded" if kernel.guard else "no guard", flush=True)
for line in sys.stdin:
    word, *rest = line.split()
    if word == "window":
        until = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(float(rest[0]) * 1e9) if float(rest[0]) else 0
        kernel.guard.open_window(until)
    elif word == "drain":
        while batch := kernel.ring.drain():
            for kind, count, data in batch.runs:
                print(kind, count, data.hex())
        print("-")
    elif word == "end":
        break
    print("done", flush=True)
"""


@dataclass
class Guarded:
    """An agent whose self-protection stands, in a cgroup of its own; the test is a stranger to it."""

    config: Config
    cgroup: Path
    own: Path
    process: Started | None = None
    seen: list[dict[str, int]] = field(default_factory=list)

    def start(self) -> str:
        command = [sys.executable, "-c", AGENT, self.config.paths.bpffs, self.config.paths.run, str(self.cgroup)]
        self.process = Started(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            preexec_fn=lambda: (self.own / "cgroup.procs").write_text("0"),
        )  # fmt: skip
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def directory(self) -> Path:
        return pins.directories(self.config)[0]

    @property
    def responder(self) -> int:
        return responder.running(self.config, self.directory)

    def tell(self, line: str) -> list[str]:
        """Have the agent do something; return what it printed."""
        to, of = self.pipes()
        to.write(f"{line}\n".encode())
        to.flush()
        found = []
        while (answer := of.readline().decode().strip()) not in ("done", ""):
            found.append(answer)
        return found

    def told(self) -> list[dict[str, int]]:
        """Return the tamperings that the kernel has told so far."""
        for line in self.tell("drain"):
            if line != "-":
                kind, count, data = line.split()
                if int(kind) == layout.KIND_TAMPER:
                    self.seen += [one.fields for one in decode([(int(kind), int(count), bytes.fromhex(data))])]
        return self.seen

    def pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        return self.process.stdin, self.process.stdout

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def end(self) -> None:
        if self.is_alive:
            self.tell("window 60")
            assert self.process is not None
            self.process.kill()
            self.process.wait()
        for pipe in self.pipes():
            pipe.close()


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One agent for all: a virtual machine takes its time to attach it."""
    if lsm() != YES:
        pytest.skip("this kernel takes no BPF LSM program")
    mount = next(Path(one) for one in CGROUP2_MOUNTS if Path(one, "cgroup.controllers").exists())
    tag, run = secrets.token_hex(4), tmp_path_factory.mktemp("guarded")
    config = parse(
        {
            "scope": {"cgroup": str(mount / f"mamplus-test-{tag}")},
            "paths": {"bpffs": f"/sys/fs/bpf/mptest-{tag}", "run": str(run), "state": str(run)},
        }
    )
    made = Guarded(config, Path(config.scope.cgroup), mount / f"mamplus-own-{tag}")
    made.cgroup.mkdir()
    made.own.mkdir()
    try:
        assert made.start() == "guarded"
        yield made
    finally:
        made.end()
        responder.stop(config)
        Kernel.detach(config)  # as the next agent
        (made.own / "cgroup.kill").write_text("1")
        while "populated 1" in (made.own / "cgroup.events").read_text():
            os.sched_yield()
        made.own.rmdir()
        made.cgroup.rmdir()


@pytest.fixture
def guarded(standing: Guarded) -> Guarded:
    """The agent as it stands; the one after it, where a test ended it. What was told before is forgotten."""
    if not standing.is_alive:
        assert standing.start() == "guarded"
    standing.tell("window 0")
    standing.told()
    standing.seen.clear()
    return standing


def bpf(command: int, *fields: int) -> int:
    """Call bpf(2) with 32-bit fields; return its result, or -errno."""
    attr = struct.pack(f"={len(fields)}I", *fields).ljust(128, b"\0")
    buffer = ctypes.create_string_buffer(attr, len(attr))
    result = LIBC.syscall(BPF, command, buffer, len(attr))
    return result if result >= 0 else -ctypes.get_errno()


def make_table(label: str) -> Map:
    """Make a map that the kernel calls so, as an agent makes the tables of its list."""
    return Map.create(ARRAY, 4, 64, 1, 0, "a table", label=label)


def ids(get_next: int) -> list[int]:
    found, last = list[int](), 0
    while True:
        attr = ctypes.create_string_buffer(struct.pack("=II", last, 0).ljust(128, b"\0"), 128)
        if LIBC.syscall(BPF, get_next, attr, 128) < 0:
            return found
        last = struct.unpack_from("=I", attr.raw, 4)[0]
        found.append(last)


def refused(act: Callable[[], object]) -> bool:
    """Whether an act ends with EPERM or EACCES."""
    try:
        return act() in (-1, -13)
    except PermissionError:
        return True
    except KernelRefused as error:
        return error.errno == 1


def ops(agent: Guarded) -> set[tuple[int, bool]]:
    return {(one["op"], bool(one["head_flags"] & layout.F_REFUSED)) for one in agent.told()}


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, 40])
def test_no_signal_that_ends_or_stops_reaches_agent_or_responder(guarded: Guarded, sig: int) -> None:
    for pid in (guarded.pid, guarded.responder):
        with pytest.raises(PermissionError):
            os.kill(pid, sig)
        os.kill(pid, 0)
        os.kill(pid, signal.SIGCONT)

    told = [one for one in guarded.told() if one["op"] == layout.TAMPER_SIGNAL]
    assert {one["target_tgid"] for one in told} == {guarded.pid, guarded.responder}
    assert {(one["argument"], one["head_tgid"]) for one in told} == {(int(sig), os.getpid())}


def test_nobody_traces_reads_or_takes_descriptors(guarded: Guarded) -> None:
    pid = guarded.pid
    pidfd = os.pidfd_open(pid)
    buffer = ctypes.create_string_buffer(8)
    iov = struct.pack("=QQ", ctypes.addressof(buffer), 8)
    try:
        assert LIBC.ptrace(PTRACE_ATTACH, pid, None, None) == -1
        assert LIBC.ptrace(PTRACE_SEIZE, pid, None, None) == -1
        assert refused(lambda: os.open(f"/proc/{pid}/mem", os.O_RDWR))
        assert LIBC.process_vm_readv(pid, iov, 1, iov, 1, 0) == -1
        assert LIBC.syscall(438, pidfd, 0, 0) == -1  # pidfd_getfd
    finally:
        os.close(pidfd)

    assert ops(guarded) == {(layout.TAMPER_PTRACE, True)}


def test_no_map_of_ours_can_be_opened_by_pin_or_by_number(guarded: Guarded) -> None:
    for name in (*pins.MAPS, *pins.GUARD_MAPS, *pins.OPTIONAL_MAPS):
        assert refused(lambda name=name: Fd.open(guarded.directory / name)), name  # type: ignore[misc]
    kept = [number for number in ids(MAP_GET_NEXT_ID) if bpf(MAP_GET_FD_BY_ID, number) == -1]

    assert len(kept) >= len(pins.MAPS) + len(pins.GUARD_MAPS) + layout.T_MAX  # the tables of the list, too
    assert refused(lambda: Fd.open(pins.program_pin(guarded.directory, "mamplus_answer")))
    assert ops(guarded) == {(layout.TAMPER_MAP, True), (layout.TAMPER_PROGRAM, True)}


def test_no_program_of_ours_is_opened_by_others_but_those_of_iptables(guarded: Guarded) -> None:
    pinned = {pin.name.removeprefix("prog_"): pin for pin in guarded.directory.glob("prog_*")}

    opened = {name for name, pin in pinned.items() if not refused(lambda pin=pin: Fd.open(pin).close())}  # type: ignore[misc]

    assert opened == set(pins.PACKET.values())
    assert ops(guarded) == {(layout.TAMPER_PROGRAM, True)}


def test_nobody_takes_every_hook_away_with_a_sysctl(guarded: Guarded) -> None:
    setting = Path("/proc/sys/kernel/ftrace_enabled")

    assert refused(lambda: setting.write_text("0"))

    assert setting.read_text() == "1\n"
    assert ops(guarded) == {(layout.TAMPER_TRACING, True)}


def test_tables_of_the_list_are_known_from_those_of_another_agent(guarded: Guarded) -> None:
    label = pins.table_label(guarded.directory)
    others = pins.table_label(guarded.directory.with_name(f"{'0' * 16}-1"))

    make_table(others).close()
    assert refused(lambda: make_table(label))


@pytest.mark.parametrize("hook", ["mamplus_connect4", pins.LAST_FILE_HOOK])
def test_no_hook_of_ours_is_detached_updated_or_opened_by_number(guarded: Guarded, hook: str) -> None:
    with Fd.open(pins.link_pin(guarded.directory, hook)) as link:
        about = ffi.new("struct mamplus_link *")
        assert lib.mamplus_link_about(link.number, about) == 0
        assert lib.mamplus_link_detach(link.number) == -1
        assert bpf(LINK_GET_FD_BY_ID, about.id) == -1

    assert ops(guarded) == {(layout.TAMPER_LINK, True)}


def test_no_pin_is_removed_renamed_or_unmounted(guarded: Guarded) -> None:
    pin = guarded.directory / "active"
    assert refused(pin.unlink)
    assert refused(lambda: pin.rename(pin.with_name("elsewhere")))
    assert refused(lambda: guarded.directory.rename(guarded.directory.with_name("elsewhere")))
    assert refused(guarded.directory.rmdir)
    assert refused((guarded.config.bpffs / "packet_out").unlink)
    assert LIBC.umount2(b"/sys/fs/bpf", MNT_DETACH) == -1
    assert pin.exists()

    assert ops(guarded) == {(layout.TAMPER_PIN, True), (layout.TAMPER_UMOUNT, True)}


def test_nobody_freezes_kills_or_starves_the_agents_cgroup(guarded: Guarded) -> None:
    for name, value in (("cgroup.freeze", "1"), ("cgroup.kill", "1"), ("memory.max", "1")):
        file = guarded.own / name
        if file.exists():
            assert refused(lambda file=file, value=value: file.write_text(value)), name  # type: ignore[misc]
    other = guarded.cgroup / "cgroup.freeze"
    other.write_text("0")

    assert ops(guarded) == {(layout.TAMPER_CGROUP, True)}


def test_nobody_changes_limits_priority_or_oom_score(guarded: Guarded) -> None:
    pid = guarded.pid
    assert refused(lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, 0)))
    assert refused(lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
    assert refused(lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)))
    assert refused(lambda: Path(f"/proc/{pid}/oom_score_adj").write_text("1000"))
    assert refused(lambda: Path(f"/proc/{pid}/task/{pid}/oom_score_adj").write_text("1000"))
    Path("/proc/self/oom_score_adj").write_text("0")

    assert ops(guarded) == {(layout.TAMPER_LIMITS, True)}


def test_in_a_window_root_may_and_after_it_not_any_more(guarded: Guarded) -> None:
    guarded.tell("window 30")
    Fd.open(guarded.directory / "posture").close()
    guarded.tell("window 0")
    assert refused(lambda: Fd.open(guarded.directory / "posture"))

    guarded.tell("window 30")
    os.kill(guarded.pid, signal.SIGKILL)
    assert guarded.process is not None
    assert guarded.process.wait() == -signal.SIGKILL


def test_an_agent_that_ended_is_replaced_by_its_own_program_and_by_no_other(guarded: Guarded) -> None:
    before = guarded.responder
    guarded.tell("end")
    assert guarded.process is not None
    guarded.process.wait()
    stranger = subprocess.run(
        ["bpftool", "map", "dump", "pinned", guarded.directory / "own"], check=False, capture_output=True
    )
    assert stranger.returncode != 0
    assert refused((guarded.directory / "active").unlink)
    assert refused(lambda: os.kill(before, signal.SIGKILL))
    file = Path(guarded.config.paths.run) / "agent.toml"
    paths = guarded.config.paths
    file.write_text(
        f'[scope]\ncgroup = "{guarded.cgroup}"\n'
        f'[paths]\nstate = "{paths.state}"\nrun = "{paths.run}"\nbpffs = "{paths.bpffs}"\n'
    )
    mamplus = str(Path(sys.executable).with_name("mamplus"))
    detach = subprocess.run([mamplus, "detach", "--config", str(file)], check=False, capture_output=True, text=True)
    assert (detach.returncode, "mamplus maintenance CODE" in " ".join(detach.stderr.split())) == (1, True)

    assert guarded.start() == "guarded"

    told = guarded.told()
    assert [one["head_tgid"] for one in told if one["op"] == layout.TAMPER_CLAIM] == [guarded.pid]
    assert guard.stands(guarded.config)
