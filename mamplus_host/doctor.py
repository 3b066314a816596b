# SPDX-License-Identifier: Apache-2.0
"""Tries each control for real and says what came of it: "loaded" is not "enforcing".

Everything happens in a cgroup, a bpffs directory and a folder made for the trial, with a list of
its own, so that a running agent and the rest of the machine notice nothing. Addresses are of
the loopback range: should a refusal fail, nothing leaves the machine.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from mamplus_host.ble.encode import encode
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import Generation
from mamplus_host.clock import SystemClock
from mamplus_host.collector.files import FileWatch
from mamplus_host.config import CGROUP2_MOUNTS, Agent, Config, Limits, Paths, Scope
from mamplus_host.errors import MamplusError
from mamplus_host.executor import netfilter
from mamplus_host.executor.process import Processes
from mamplus_host.executor.vault import Vault
from mamplus_host.kernel import responder
from mamplus_host.kernel.objects import Kernel
from mamplus_host.verdicts import Verdict

CANARY4, CANARY6, CANARY_NAME = "127.53.53.53", "::ffff:127.53.53.54", "canary.mamplus.invalid"
_CALL = """
import socket, sys
how, family, host, port = sys.argv[1], int(sys.argv[2]), sys.argv[3], 53
sock = socket.socket(family, socket.SOCK_STREAM if how == "connect" else socket.SOCK_DGRAM)
sock.settimeout(2)
try:
    if how == "connect":
        sock.connect((host, port))
    else:
        sock.sendto(bytes.fromhex(sys.argv[4]), (host, port))
except PermissionError:
    sys.exit(77)
except OSError as error:
    sys.exit(str(error))
"""
REFUSED_EXIT = 77
# Sends a packet to an address that nobody lists, then to the listed one; says what became of each.
_SAY = """
import socket, sys
for host in ("127.53.53.1", sys.argv[1]):
    inbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    inbox.bind((host, 5353))
    inbox.settimeout(0.5)
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"canary", (host, 5353))
        inbox.recv(16)
        print("open")
    except (PermissionError, TimeoutError):
        print("dropped")
"""


class Trial(msgspec.Struct, frozen=True):
    """What one control did when it was tried."""

    control: str
    state: str  # enforcing, degraded (a lower tier, which `tier` names), not possible
    tier: str
    detail: str
    took_ms: float


class _Failed(Exception):
    """The control did not do what it is there for."""


class _Bench:
    """The place of the trial."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        mount = next((Path(m) for m in CGROUP2_MOUNTS if (Path(m) / "cgroup.controllers").exists()), None)
        if mount is None:
            raise MamplusError("no cgroup v2 hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup")
        self.mount = mount
        tag = f"mamplus-doctor-{secrets.token_hex(4)}"
        self.home = Path(tempfile.mkdtemp(prefix=f"{tag}-"))
        stack.callback(shutil.rmtree, self.home, ignore_errors=True)
        self.cgroup = mount / tag
        self.cgroup.mkdir()
        stack.callback(_remove_cgroup, self.cgroup)
        for name in ("state", "run"):
            (self.home / name).mkdir()
        self.config = Config(
            scope=Scope(cgroup=str(self.cgroup)),
            paths=Paths(state=str(self.home / "state"), run=str(self.home / "run"), bpffs=f"/sys/fs/bpf/{tag}"),
            agent=Agent(mode="enforce"),
        )
        self.kernel: Kernel | None = None

    def attach(self, stack: contextlib.ExitStack) -> str:
        """Load the probes and a list that names the canaries; raises MamplusError."""
        stack.callback(Kernel.detach, self.config)
        self.kernel = Kernel.attach(self.config, self.cgroup)
        self.kernel.tables.set_posture(self.config)
        self.listed = self.program("listed")
        lines = [
            (Kind.SHA256, hashlib.sha256(self.listed.read_bytes()).hexdigest()),
            (Kind.IP, CANARY4),
            (Kind.IP, CANARY6.removeprefix("::ffff:")),
            (Kind.DOMAIN, CANARY_NAME),
        ]
        entries = [Entry(id=n, kind=k, value=v, verdict=Verdict.BLOCK) for n, (k, v) in enumerate(lines, 1)]
        with Generation(encode(entries, generation=1, created_s=0)) as generation:
            self.kernel.tables.load(generation, time.time())
        stack.callback(responder.stop, self.config)
        responder.ensure_running(self.config)
        return "loaded and attached"

    def program(self, name: str) -> Path:
        """Make a program that nobody has seen: it creates the file it is given."""
        path = self.home / name
        shutil.copy("/usr/bin/touch", path)
        with path.open("ab") as file:
            file.write(secrets.token_bytes(16))
        return path

    def run(self, *words: object) -> int:
        """Run a program in the trial's cgroup and return its exit code, negative for a signal."""

        def enter() -> None:
            (self.cgroup / "cgroup.procs").write_text("0")

        argv = [str(word) for word in words]
        return subprocess.run(
            argv, preexec_fn=enter, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
        ).returncode


def examine() -> Iterator[Trial]:
    """Yield one trial after the other, as they end. Needs root; touches nothing outside of its own place."""
    with contextlib.ExitStack() as stack:
        bench = _Bench(stack)
        attached = _try("probes", "tp_btf, cgroup hooks", lambda: bench.attach(stack))
        yield attached
        if attached.state != "not possible":
            for control, tier, trial in _TRIALS:
                yield _try(control, tier, partial(trial, bench))
        for control, tier, trial in _TRIALS_WITHOUT_PROBES:
            yield _try(control, tier, partial(trial, bench))


def _try(control: str, tier: str, trial: Callable[[], str]) -> Trial:
    begun = time.monotonic()
    try:
        state, detail = "enforcing", trial()
    except (_Failed, MamplusError, OSError, subprocess.SubprocessError) as error:
        state, detail = "not possible", str(error)
    if state == "enforcing" and tier.startswith("last:"):
        state = "degraded"
    return Trial(control, state, tier.removeprefix("last: "), detail, round((time.monotonic() - begun) * 1000, 1))


def _listed_program(bench: _Bench) -> str:
    marker = bench.home / "ran"
    for name in ("copy-1", "copy-2"):
        shutil.copy(bench.listed, bench.home / name)
        code = bench.run(bench.home / name, marker)
        if code != -signal.SIGKILL or marker.exists():
            raise _Failed(f"a listed program ran (exit {code})")
    return "killed before its first instruction, under two names"


def _unknown_program(bench: _Bench) -> str:
    marker = bench.home / "ran-unlisted"
    code = bench.run(bench.program("unlisted"), marker)
    if code != 0 or not marker.exists():
        raise _Failed(f"an unlisted program did not run (exit {code})")
    return "waited for its hash, then ran"


def _call(bench: _Bench, how: str, host: str, payload: bytes = b"") -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return bench.run("/usr/bin/python3", "-c", _CALL, how, int(family), host, payload.hex())


def _addresses(bench: _Bench) -> str:
    for how in ("connect", "sendto"):
        for host in (CANARY4, f"::ffff:{CANARY4}", CANARY6):
            if (code := _call(bench, how, host, b"canary")) != REFUSED_EXIT:
                raise _Failed(f"{how} to {host} was not refused (exit {code})")
    return "connect and sendto: EPERM, IPv4 and v4-mapped IPv6"


def _names(bench: _Bench) -> str:
    query = bytes.fromhex("123401000001000000000000")
    for label in f"www.{CANARY_NAME}".split("."):
        query += bytes([len(label)]) + label.encode()
    if (code := _call(bench, "sendto", "127.53.53.1", query + bytes.fromhex("0000010001"))) != REFUSED_EXIT:
        raise _Failed(f"a query for a listed name left (exit {code})")
    return "a query for a sub-domain of a listed name: EPERM"


def _packets(bench: _Bench) -> str:
    name = f"mpdoctor-{secrets.token_hex(3)}"
    scope = Scope(cgroup=bench.config.scope.cgroup, netns=(name,))
    config = msgspec.structs.replace(bench.config, scope=scope)
    assert bench.kernel is not None
    subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True, capture_output=True)
        netfilter.apply(config, bench.kernel.packet_program_path("in"), bench.kernel.packet_program_path("out"))
        try:
            say = ["ip", "netns", "exec", name, "/usr/bin/python3", "-c", _SAY, CANARY4]
            said = subprocess.run(say, capture_output=True, text=True, timeout=20, check=True).stdout.split()
        finally:
            netfilter.remove(config)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    if said != ["open", "dropped"]:
        raise _Failed(f"packets to an open and to a listed address were {said}, want ['open', 'dropped']")
    return "a packet to a listed address was dropped, another went through, in a namespace of its own"


def _freezer(bench: _Bench) -> str:
    process = subprocess.Popen(["/bin/sleep", "60"], stdin=subprocess.DEVNULL)
    try:
        (bench.cgroup / "cgroup.procs").write_text(str(process.pid))
        processes = Processes(bench.cgroup, bench.mount, frozenset({os.getpid()}))
        hold = processes.where(process.pid, SystemClock().boot_ns(), "doctor")
        processes.freeze(hold)
        processes.thaw(hold)
    finally:
        process.kill()
        process.wait()
    return "a process was frozen and thawed"


def _restoration(bench: _Bench) -> str:
    file = bench.home / "protected" / "file"
    file.parent.mkdir()
    file.write_text("as it was")
    vault = Vault(bench.home / "state" / "vault", limits=Limits(), clock=SystemClock())
    vault.protect(file)
    watch = FileWatch.open(vault.paths())
    try:
        subprocess.run(["/bin/sh", "-c", f"echo damaged > {file}"], check=True)
        end = time.monotonic() + 2
        while not (changes := watch.read()):
            if time.monotonic() > end:
                raise _Failed(f"{watch.tier} did not tell of a write")
            time.sleep(0.01)
        vault.restore(file)
        if file.read_text() != "as it was":
            raise _Failed("the file is not as it was")
        writer = "names the writer" if changes[0].tgid else "cannot name the writer"
        return f"noticed by {watch.tier}, which {writer}; put back"
    finally:
        watch.close()
        vault.close()


def _remove_cgroup(path: Path) -> None:
    with contextlib.suppress(OSError):
        (path / "cgroup.kill").write_text("1")
    for _ in range(100):
        with contextlib.suppress(OSError):
            path.rmdir()
        if not path.exists():
            return
        time.sleep(0.02)


_TRIALS: tuple[tuple[str, str, Callable[[_Bench], str]], ...] = (
    ("exec: listed program", "last: SIGKILL at sched_process_exec", _listed_program),
    ("exec: unknown program", "last: stopped at sched_process_exec, hashed by the responder", _unknown_program),
    ("connect, send", "cgroup connect4/6, sendmsg4/6", _addresses),
    ("DNS", "cgroup_skb egress", _names),
    ("packets of open sockets", "iptables, xt_bpf", _packets),
)
_TRIALS_WITHOUT_PROBES: tuple[tuple[str, str, Callable[[_Bench], str]], ...] = (
    ("hold a suspect", "cgroup v2 freezer", _freezer),
    ("protected files", "last: noticed and restored", _restoration),
)
