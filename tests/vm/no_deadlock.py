# SPDX-License-Identifier: Apache-2.0
"""The whole machine goes on: everything is in the scope, / is marked, and who answers is held up or dead.

    python -m tests.vm.no_deadlock [--starts N] [PHASE ...]      in the virtual machine, as root

tests/vm/test_no_deadlock.py runs it.

In each phase programs that nobody has hashed start, and for each of them a line is logged through a stand-in for
syslogd, which opens its log anew for every line and answers when it is written: so who starts waits for who logs,
and both for the responder. The load is one small static program (programs/held_up.c), so what takes time here is
what is asked. Prints a line for each phase; exit 1 when one was too slow. A hang ends this process by SIGALRM, for a
task that waits for a permission can be killed.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.vm.machine import SHARE

STARTS = 200
AT_ONCE = 10
DEADLINE_S = 1.0  # [exec] deadline_ms
# What one open may wait at most: its deadline, two looks of the keeper, and a slow machine. Two opens make a line, some
# more a start, AT_ONCE of which run at one time.
LINE_S = 8.0
START_S = 20.0
PHASE_S = 120.0
HANG_S = 300
PROGRAMS = Path(__file__).parent / "programs"
GCC = ("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static")
CGROUPS = Path("/sys/fs/cgroup")
LOG = "mamplus-vm-log"
CONFIG = """
[agent]
examine_after_s = 86400.0
self_protection = false
[scope]
cgroup = "/"
[paths]
state = "{place}/state"
run = "{place}/run"
bpffs = "/sys/fs/bpf/mamplus-vm"
[exec]
fanotify = ["/"]
deadline_ms = {deadline_ms:.0f}
on_responder_down = "allow"
on_deadline = "allow"
"""


def build(directory: Path) -> None:
    """Compile the load to `directory`, unless it is there already."""
    if not (directory / "held_up").exists():
        subprocess.run([*GCC, "-o", directory / "held_up", PROGRAMS / "held_up.c"], check=True)
        bare = ("-nostdlib", "-fno-stack-protector")
        subprocess.run([*GCC, *bare, "-o", directory / "tiny", PROGRAMS / "tiny.c"], check=True)


@dataclass
class Agent:
    process: subprocess.Popen[bytes]
    cgroup: Path

    @property
    def responder(self) -> int:
        found = [int(pid) for pid in (self.cgroup / "cgroup.procs").read_text().split() if is_responder(int(pid))]
        return found[0]


def is_responder(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text().strip() == "mamplus-respond"  # 15 bytes of the name


def start_agent(place: Path) -> Agent:
    """Run an agent in a cgroup of its own; its responder stays in that, too."""
    (CGROUPS / "cgroup.subtree_control").write_text("+cpu")
    cgroup = CGROUPS / "mamplus-agent"
    cgroup.mkdir()
    config = place / "agent.toml"
    config.write_text(CONFIG.format(place=place, deadline_ms=DEADLINE_S * 1000))
    process = subprocess.Popen(
        [sys.executable, "-m", "mamplus_host.service", "--config", config], stdout=subprocess.PIPE,
        preexec_fn=lambda: (cgroup / "cgroup.procs").write_text("0"),
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    if not line.startswith("ready"):
        raise SystemExit(f"the agent did not start: {line!r}")
    return Agent(process, cgroup)


# --- ways to hold it up ------------------------------------------------------------------------------


@contextlib.contextmanager
def nothing(_agent: Agent) -> Iterator[None]:
    yield


def stopping(*whom: Callable[[Agent], int]) -> Callable[[Agent], AbstractContextManager[None]]:
    @contextlib.contextmanager
    def stopped(agent: Agent) -> Iterator[None]:
        pids = [pid(agent) for pid in whom]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    return stopped


@contextlib.contextmanager
def frozen(agent: Agent) -> Iterator[None]:
    (agent.cgroup / "cgroup.freeze").write_text("1")
    yield
    (agent.cgroup / "cgroup.freeze").write_text("0")


@contextlib.contextmanager
def starved(agent: Agent) -> Iterator[None]:
    (agent.cgroup / "cpu.max").write_text("1000 1000000")
    yield
    (agent.cgroup / "cpu.max").write_text("max")


@contextlib.contextmanager
def killed(agent: Agent) -> Iterator[None]:
    responder = agent.responder
    agent.process.kill()
    agent.process.wait()
    os.kill(responder, signal.SIGKILL)
    yield


def agent_pid(agent: Agent) -> int:
    return agent.process.pid


def responder_pid(agent: Agent) -> int:
    return agent.responder


PHASES: dict[str, Callable[[Agent], AbstractContextManager[None]]] = {
    "nothing held up": nothing,
    "agent stopped": stopping(agent_pid),
    "responder stopped": stopping(responder_pid),
    "both stopped": stopping(agent_pid, responder_pid),
    "both frozen": frozen,
    "both starved": starved,
    "both killed": killed,
}

# --- the load ------------------------------------------------------------------------------------------


def play(name: str, starts: int, agent: Agent, place: Path, programs: Path) -> bool:
    directory = place / name.replace(" ", "-")
    directory.mkdir()
    command: list[str | Path] = [
        programs / "held_up",
        "load",
        LOG,
        programs / "tiny",
        directory,
        str(starts),
        str(AT_ONCE),
    ]
    signal.alarm(HANG_S)
    begun = time.monotonic()
    with PHASES[name](agent):
        printed = subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout.split()
        took_s = time.monotonic() - begun
    signal.alarm(0)
    line_ms, start_ms, started = (int(number) for number in printed) if len(printed) == 3 else (0, 0, 0)
    is_good = started == starts and line_ms < LINE_S * 1000 and start_ms < START_S * 1000 and took_s < PHASE_S
    print(
        f"{'ok' if is_good else 'FAILED'}: {name}: {started} of {starts} started in {took_s:.1f} s; slowest line"
        f" {line_ms} ms, slowest start {start_ms} ms",
        flush=True,
    )
    return is_good


def main() -> int:
    if not SHARE.is_dir():
        print("this marks / of the machine that it runs on; run it by python -m tests.vm", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(prog="python -m tests.vm.no_deadlock", description=__doc__)
    parser.add_argument("--starts", type=int, default=STARTS)
    parser.add_argument("phases", nargs="*", metavar="PHASE", help=", ".join(PHASES))
    arguments = parser.parse_args()
    build(SHARE)
    place = Path(tempfile.mkdtemp(prefix="mamplus-vm-", dir="/var/tmp"))  # on /, which /tmp of this machine is not
    logger = subprocess.Popen([SHARE / "held_up", "log", LOG, place / "log"], stdout=subprocess.PIPE)
    assert logger.stdout is not None
    logger.stdout.readline()
    begun = time.monotonic()
    agent = start_agent(place)
    print(f"the agent is ready after {time.monotonic() - begun:.0f} s", flush=True)
    results = [play(name, arguments.starts, agent, place, SHARE) for name in arguments.phases or PHASES]
    logger.kill()
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
