# SPDX-License-Identifier: Apache-2.0
"""While an unknown program waits for its hash: whoever lets it go on, or sees to it that nobody answers."""

import ctypes
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mamplus_host.kernel import layout, responder
from mamplus_host.kernel.bpf import Map
from mamplus_host.kernel.tables import Tables, file_of
from tests.attacks.attack import OPENED, STOPPED, Missing, attack, everywhere
from tests.attacks.attacker import DEADLINE_S
from tests.attacks.ground import Ground
from tests.attacks.outcome import Outcome, Seen

FAMILY = "a program that waits for its hash"
PR_SET_CHILD_SUBREAPER = 36
NO_DEVICE = (1 << 32) - 1  # no file system has it
AT_ONCE = 1024
NOT_HERE = 77  # exit code of stands_for
ANSWERED = everywhere((Outcome.REFUSED, Outcome.KILLED)) | {"signal": Outcome.KILLED}  # or by its content
DAEMONS = "daemons in user space that answer for the kernel"


@attack("launcher that ends", FAMILY, STOPPED)
def orphaned(on: Ground, payload: Path, marker: Path) -> Seen:
    """The process that started it ends at once."""

    def deed() -> int:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        middle = os.fork()
        if middle == 0:
            if os.fork() == 0:
                os.setsid()
                os.execv(payload, ["x", str(marker)])
            os._exit(0)
        os.waitpid(middle, 0)
        code = os.waitstatus_to_exitcode(os.wait()[1])
        return code if code >= 0 else 128 - code

    return on.act(deed)


@attack(
    "SIGCONT",
    FAMILY,
    ANSWERED | {"signal without resumed": (Outcome.KILLED, Outcome.NOTICED)},
    limit="a kernel under lockdown ends it from the sender's side (from 6.13 on; before it does not): its first"
    " instructions may win that race",
    is_alike=True,
)
def woken(on: Ground, payload: Path, marker: Path) -> Seen:
    """Sends it SIGCONT without end."""
    with frozen_responder(on, "waker"):
        return on.tool("waker", payload, marker)


@attack("PTRACE_ATTACH", FAMILY, ANSWERED, is_alike=True)
def attached(on: Ground, payload: Path, marker: Path) -> Seen:
    """Attaches to it as a debugger and lets it go on."""
    with frozen_responder(on, "tracer"):
        return on.tool("tracer", payload, marker)


@attack(
    "PTRACE_SEIZE",
    FAMILY,
    everywhere(Outcome.REFUSED) | {"signal without resumed": Outcome.NOT_COVERED, "signal": Outcome.KILLED},
    is_alike=True,
    limit="no signal is sent, so on tier signal of a kernel under lockdown nothing tells of it; it must come within the"
    " millisecond of hashing",
)
def seized(on: Ground, payload: Path, marker: Path) -> Seen:
    """Seizes it as a debugger, which sends no signal, and lets it go on."""
    with frozen_responder(on, "seizer"):
        return on.tool("seizer", payload, marker)


@attack(
    "traced start",
    FAMILY,
    ANSWERED,
    bypasses="answers by signal: a tracer may swallow them",
    is_alike=True,
)
def traced(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts it under ptrace(2) and suppresses every signal that comes."""
    return on.tool("traced", payload, marker)


@contextmanager
def frozen_responder(on: Ground, *tools: str) -> Iterator[None]:
    """As if hashing took for ever: its heartbeat stays fresh for seconds. The `tools` are known, and do not wait."""
    for tool in tools:
        on.tool(tool, on.programs / "quiet", "x")
    pid = responder.ensure_running(on.agent.config).pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        os.kill(pid, signal.SIGCONT)
        end = time.monotonic() + DEADLINE_S
        while on.agent.kernel.heartbeats()["responder_ns"] < now_ns and time.monotonic() < end:
            time.sleep(0.01)  # the next attack is to meet one that answers


@attack("crowd", FAMILY, STOPPED, settle_s=0.0, bypasses=f"{DAEMONS} and let go on what they have no room for")
def crowd(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts more unknown programs at once than may wait, and the listed one among them."""
    others = [on.payloads.quiet(payload.with_name(f"other{number}")) for number in range(8)]
    program, each = str(on.programs / "crowd"), str(layout.HELD_MAX // 4 // len(others))

    def deed() -> None:
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        for other in others:
            if os.fork() == 0:
                os.execv(program, [program, each, str(other), "x"])
        os.execv(payload, ["x", str(marker)])

    return on.act(deed)


@attack("starved responder", FAMILY, STOPPED, bypasses=DAEMONS)
def starved(on: Ground, payload: Path, marker: Path) -> Seen:
    """Has the responder hash two endless files first."""
    endless = [on.payloads.quiet(on.work / f"endless{number}") for number in range(2)]
    for path in endless:
        os.truncate(path, 1 << 42)
    with on.meanwhile(lambda: os.execv(endless[0], ["x"])), on.meanwhile(lambda: os.execv(endless[1], ["x"])):
        time.sleep(0.2)
        return on.execute(payload, marker)


@attack("forgotten hashes", FAMILY, ANSWERED, is_alike=True, bypasses="caches of verdicts that many others push out")
def forgotten(on: Ground, payload: Path, marker: Path) -> Seen:
    """Starts so many other programs that the kernel forgets the listed one's hash, and goes on while that waits for it
    anew (here: the runner fills the kernel's memory, and takes the entry away)."""
    on.execute(payload, marker.with_name("nothing"))
    marker.with_name("nothing").unlink(missing_ok=True)
    with forgetting(on, payload):
        on.forget_the_past()
        return on.execute(payload, marker)


@contextmanager
def forgetting(on: Ground, program: Path) -> Iterator[None]:
    """Have the kernel remember files that are nowhere, more and more of them, and forget what it knows of `program`.

    That is taken away: entries that nobody asks for never push out one that was asked for.
    """
    known = Map.pinned(on.agent.kernel.directory / "known", layout.FILE_KEY.size, layout.KNOWN.size)
    nobody = layout.KNOWN.pack(0, 0, 0, 0, bytes(layout.SHA256_LEN))
    is_full, is_over = threading.Event(), threading.Event()

    def fill() -> None:
        for first in itertools.count(step=AT_ONCE):
            if is_over.is_set():
                return
            numbers = range(first, first + AT_ONCE)
            known.set_many([(layout.FILE_KEY.pack(NO_DEVICE, number), nobody) for number in numbers])
            if first > layout.KNOWN_MAX:
                is_full.set()

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        assert is_full.wait(DEADLINE_S), "the kernel's memory of hashes cannot be filled"
        with program.open("rb") as file:
            one = file_of(file.fileno())
        on.agent.kernel.tables.forget(one.dev, one.ino)
        yield
    finally:
        is_over.set()
        thread.join()
        on.know_tools()


@attack(
    "forged hash",
    FAMILY,
    OPENED,
    is_alike=True,
    bypasses="BPF agents that believe their own maps",
    limit="root writes to BPF maps, and an entry that is looked at once is no longer there; only an LSM refuses it",
)
def forged(on: Ground, payload: Path, marker: Path) -> Seen:
    """Root writes into the kernel's map that the listed file has the hash of a good one."""

    def deed() -> None:
        tables = Tables(on.agent.kernel.directory)
        with payload.open("rb") as file:
            tables.remember(file_of(file.fileno()), "00" * 32)

    seen = on.act(deed)
    return seen if seen.errno else on.execute(payload, marker)


@attack("function replaced", FAMILY, everywhere(Outcome.NOT_COVERED) | {"lsm": Outcome.REFUSED}, is_alike=True,
        bypasses="BPF agents that nobody keeps from their own programs",
        limit="root attaches BPF programs, to ours as well; only an LSM refuses it")  # fmt: skip
def replaced_function(on: Ground, payload: Path, marker: Path) -> Seen:
    """Root has a BPF program of its own stand for the function of ours that looks into the list (freplace), and starts
    it."""
    pin = on.agent.kernel.directory / "prog_mamplus_exec"
    seen = on.tool("stands_for", pin, "ble_probe", payload, marker)
    if seen.exit == NOT_HERE:
        raise Missing("programs of root that replace functions (freplace)")
    return seen


@attack("full file system", FAMILY, STOPPED)
def full_disk(on: Ground, payload: Path, marker: Path) -> Seen:
    """Fills the file system that the program lies on; the answer needs no room there."""
    filler = payload.with_name("filler")
    with filler.open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        except OSError:
            pass
    return on.execute(payload, marker)


def _start_when_gone(on: Ground, pid: int, payload: Path, marker: Path) -> Seen:
    end = time.monotonic() + DEADLINE_S
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end, "the responder did not end"
        time.sleep(0.002)
    return on.execute(payload, marker)


@attack(
    "no responder",
    FAMILY,
    ANSWERED,
    bypasses=DAEMONS,
    limit="by default nothing unknown starts while nobody can hash it (`[exec] on_responder_down`)",
    is_alike=True,
)
def no_responder(on: Ground, payload: Path, marker: Path) -> Seen:
    """Root kills the responder, then starts it."""
    pid = responder.ensure_running(on.agent.config).pid
    try:
        seen = on.act(lambda: os.kill(pid, signal.SIGKILL))
        return seen if seen.errno else _start_when_gone(on, pid, payload, marker)
    finally:
        responder.ensure_running(on.agent.config)
