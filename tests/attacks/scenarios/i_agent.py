# SPDX-License-Identifier: Apache-2.0
"""The agent itself, its responder, and what they have in the kernel. The attacker is root, in the scope."""

import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mamplus_host.kernel._native import lib

from mamplus_host.kernel import layout
from mamplus_host.kernel.bpf import Fd
from tests.attacks import calls
from tests.attacks.attack import Expected, Missing, attack, everywhere
from tests.attacks.ground import Ground
from tests.attacks.outcome import Outcome, Seen

FAMILY = "the agent itself, attacked by root"
AGENTS = "agents in user space: what is killed or stopped enforces nothing"
NOTED = everywhere(Outcome.NOTICED) | {"lsm": Outcome.REFUSED}
TICK_S = 25.0  # five looks
PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17
Play = Callable[[Ground, Path, Path], Seen]


def on_agent(
    name: str, expected: dict[str, Expected], *, bypasses: str = AGENTS, limit: str = "", settle_s: float = TICK_S
) -> Callable[[Play], Play]:
    return attack(name, FAMILY, expected, subject="agent", bypasses=bypasses, limit=limit, settle_s=settle_s)


def act(on: Ground, deed: Callable[[], Any]) -> Seen:
    """As somebody in the scope of that agent."""

    def whole() -> None:
        deed()

    return on.act(whole, cgroup=on.whole.scope)


@on_agent("SIGKILL", NOTED, limit="what is pinned enforces on; the next agent tells who did it")
def killed(on: Ground, _pins: Path, _work: Path) -> Seen:
    """Kills the agent."""
    seen = act(on, lambda: os.kill(on.whole.pid, signal.SIGKILL))
    if not seen.errno:
        assert on.whole.process is not None
        on.whole.process.wait(30)
        on.whole.repair()
    return seen


@on_agent("SIGSTOP", NOTED, limit="the responder wakes the agent, and the agent the responder")
def stopped(on: Ground, _pins: Path, _work: Path) -> Seen:
    """Stops the agent."""
    return act(on, lambda: os.kill(on.whole.pid, signal.SIGSTOP))


@on_agent(
    "SIGKILL to the responder",
    NOTED,
    limit="the agent starts another; until then what is unknown gets the declared answer",
)
def responder_killed(on: Ground, _pins: Path, _work: Path) -> Seen:
    """Kills the process that hashes unknown programs."""
    return act(on, lambda: os.kill(on.whole.responder_pid, signal.SIGKILL))


@on_agent("SIGSTOP to the responder", NOTED)
def responder_stopped(on: Ground, _pins: Path, _work: Path) -> Seen:
    """Stops it."""
    return act(on, lambda: os.kill(on.whole.responder_pid, signal.SIGSTOP))


@on_agent("freezer", NOTED, limit="noticed when it is thawed, at the latest after a reboot; what is pinned enforces on")
def frozen(on: Ground, _pins: Path, _work: Path) -> Seen:
    """Freezes the cgroup of the agent for longer than it is ever silent."""
    seen = act(on, lambda: (on.whole.own / "cgroup.freeze").write_text("1"))
    if not seen.errno:
        time.sleep(16)
        (on.whole.own / "cgroup.freeze").write_text("0")
    return seen


@on_agent("ptrace the agent", NOTED)
def traced(on: Ground, _pins: Path, _work: Path) -> Seen:
    """Attaches a debugger to the agent, and keeps it attached for a while."""

    def deed() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        calls.checked(libc.ptrace(PTRACE_SEIZE, on.whole.pid, None, None))
        time.sleep(8)

    return act(on, deed)


@on_agent("/proc/PID/mem", everywhere(Outcome.NOT_COVERED) | {"lsm": Outcome.REFUSED}, settle_s=7.0,
          limit="root writes the memory of every process; only an LSM refuses it, and nothing tells of it")  # fmt: skip
def memory(on: Ground, _pins: Path, _work: Path) -> Seen:
    """Reads a page of the agent's memory and writes the same bytes back."""

    def deed() -> None:
        line = next(one for one in Path(f"/proc/{on.whole.pid}/maps").read_text().splitlines() if " rw-p " in one)
        start = int(line.split("-")[0], 16)
        with open(f"/proc/{on.whole.pid}/mem", "r+b", buffering=0) as file:
            file.seek(start)
            page = file.read(8)
            file.seek(start)
            file.write(page)

    return act(on, deed)


@on_agent("pidfd_getfd", everywhere(Outcome.NOT_COVERED) | {"lsm": Outcome.REFUSED}, settle_s=7.0,
          limit="as above: a debugger's right, and root has it")  # fmt: skip
def stolen_descriptor(on: Ground, _pins: Path, _work: Path) -> Seen:
    """Takes a copy of one of the agent's descriptors."""

    def deed() -> None:
        process = os.pidfd_open(on.whole.pid)
        calls.call("pidfd_getfd", process, 1, 0)

    return act(on, deed)


@on_agent("pin unlinked", NOTED, bypasses="BPF agents whose hooks end with their pins")
def unpinned(on: Ground, pins: Path, _work: Path) -> Seen:
    """Unlinks the pin of a hook."""
    return act(on, (pins / "link_mamplus_exec").unlink)


@on_agent("every pin unlinked", NOTED, bypasses="BPF agents whose hooks end with their pins")
def all_unpinned(on: Ground, pins: Path, _work: Path) -> Seen:
    """Unlinks everything that is pinned."""

    def deed() -> None:
        for path in pins.iterdir():
            path.unlink()

    return act(on, deed)


@on_agent("link detached", NOTED, bypasses="BPF agents that do not look at their hooks again")
def detached(on: Ground, pins: Path, _work: Path) -> Seen:
    """Detaches a cgroup hook with bpf(2), through its pin."""

    def deed() -> None:
        with Fd.open(pins / "link_mamplus_connect4") as link:
            raised(lib.mamplus_link_detach(link.number))

    return act(on, deed)


def raised(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))


@on_agent("map changed", NOTED, bypasses="BPF agents that believe their own maps")
def map_changed(on: Ground, pins: Path, _work: Path) -> Seen:
    """Sets monitor mode in the kernel: the map that says what is done with what is listed."""
    return act(on, lambda: write_map(pins / "posture", layout.POSTURE.size, bytes([1])))


def write_map(pin: Path, size: int, value: bytes) -> None:
    with Fd.open(pin) as one:
        raised(lib.mamplus_map_update(one.number, bytes(4), value.ljust(size, b"\0")))


@on_agent("OOM score", NOTED, limit="put back within a tick")
def oom(on: Ground, _pins: Path, _work: Path) -> Seen:
    """Offers the agent to the OOM killer first."""
    return act(on, lambda: Path(f"/proc/{on.whole.pid}/oom_score_adj").write_text("1000"))


@on_agent("moved to another cgroup", everywhere(Outcome.NOTICED), limit="put back within a tick")
def moved(on: Ground, _pins: Path, _work: Path) -> Seen:
    """Moves the agent into a cgroup of the attacker's."""
    return act(on, lambda: (on.whole.scope / "cgroup.procs").write_text(str(on.whole.pid)))


@on_agent("moved, then killed", everywhere(Outcome.NOTICED), settle_s=60.0,
          limit="cgroup.kill asks no hook; what is pinned enforces on, and the next agent tells")  # fmt: skip
def moved_and_killed(on: Ground, _pins: Path, _work: Path) -> Seen:
    """Moves the agent into a cgroup of the attacker's, and has the kernel kill all that is in there (cgroup.kill)."""
    trap = on.whole.scope / "trap"
    trap.mkdir(exist_ok=True)

    def deed() -> None:
        with (trap / "cgroup.kill").open("w", buffering=1) as kill:  # opened before the agent is there
            (trap / "cgroup.procs").write_text(str(on.whole.pid))
            kill.write("1\n")

    seen = act(on, deed)
    if not seen.errno:
        assert on.whole.process is not None
        on.whole.process.wait(30)
        on.whole.repair()
    return seen


@on_agent("tracing switched off", NOTED, limit="put back within a tick",
          bypasses="BPF agents: every program that is attached to a function goes, and no bpf(2) tells")  # fmt: skip
def no_tracing(on: Ground, _pins: Path, _work: Path) -> Seen:
    """Sets kernel.ftrace_enabled to 0, in a machine of its own: what BPF LSM programs are called by."""
    setting = Path("/proc/sys/kernel/ftrace_enabled")
    if not calls.is_whole_machine_ours() or not setting.exists():
        raise Missing("a machine of its own that has kernel.ftrace_enabled: the setting is that of all")
    return act(on, lambda: setting.write_text("0"))


@on_agent("no descriptors", everywhere(Outcome.NOT_COVERED) | {"lsm": Outcome.REFUSED}, settle_s=7.0,
          limit="what is open stays open, so enforcement stands; the agent answers no requests")  # fmt: skip
def no_descriptors(on: Ground, _pins: Path, _work: Path) -> Seen:
    """Lowers the agent's limit of open files to what it has (prlimit)."""
    before = resource.prlimit(on.whole.pid, resource.RLIMIT_NOFILE)
    seen = act(on, lambda: resource.prlimit(on.whole.pid, resource.RLIMIT_NOFILE, (before[0] - 1, before[1])))
    if not seen.errno:
        resource.prlimit(on.whole.pid, resource.RLIMIT_NOFILE, before)
    return seen


@on_agent("iptables flushed", everywhere(Outcome.NOTICED), bypasses="host firewalls", limit="put back within a tick",
          settle_s=600.0)  # fmt: skip  # it is told when they are back: two helpers, on an emulated machine
def flushed(on: Ground, _pins: Path, _work: Path) -> Seen:
    """Flushes the agent's chain of iptables."""
    said = on.whole.rules()
    if said != "kept":
        raise Missing(f"the agent's rules of iptables: {said}")
    inside = ["nsenter", f"--net=/run/netns/{on.whole.config.scope.netns[0]}", "iptables-legacy", "-F", "MAMPLUS-OUT"]
    return act(on, lambda: subprocess.run(inside, check=True).returncode)


@on_agent("bpffs unmounted", NOTED, bypasses="BPF agents whose hooks end with their mount")
def unmounted(on: Ground, pins: Path, _work: Path) -> Seen:
    """Unmounts the file system that the pins lie on."""
    return act(on, lambda: calls.unmount(pins.parents[1]))
