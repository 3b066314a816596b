# SPDX-License-Identifier: Apache-2.0
"""The whole machine goes on: everything is in the scope, / is marked, and who answers is held up or dead.

    python -m tests.vm.no_deadlock [--starts N] [PHASE ...]      in the virtual machine, as root

tests/vm/test_no_deadlock.py runs it.

In each phase programs that nobody has hashed start, and for each of them a line is logged through a stand-in for
syslogd, which opens its log anew for every line and answers when it is written: so who starts waits for who logs,
and both for the responder. Prints a line for each phase; exit 1 when one was too slow. A hang ends this process by
SIGALRM, for a task that waits for a permission can be killed.
"""

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
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
START_S = 1.0  # on the average; an emulated machine takes a third of it when nobody holds anything up
HANG_S = 400
CGROUPS = Path("/sys/fs/cgroup")
LOG_SOCKET = "\0mamplus-vm-log"
CONFIG = """
[agent]
examine_after_s = 86400.0
[scope]
cgroup = "/"
[paths]
state = "{place}/state"
run = "{place}/run"
bpffs = "/sys/fs/bpf/mamplus-vm"
[exec]
fanotify = ["/"]
deadline_ms = 1000
on_responder_down = "allow"
on_deadline = "allow"
"""
LOGGER = """
import socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
    sock.bind(sys.argv[1].replace("@", "\\0"))
    print("ready", flush=True)
    while True:
        line, sender = sock.recvfrom(4096)
        open("/etc/passwd").close()
        with open(sys.argv[2], "ab") as log:
            log.write(line + b"\\n")
        sock.sendto(b"ok", sender)
"""


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
    config.write_text(CONFIG.format(place=place))
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


def log(sock: socket.socket, line: str) -> float:
    """Log one line, and return how long it took until it was written, in seconds."""
    begun = time.monotonic()
    sock.sendto(line.encode(), LOG_SOCKET)
    sock.recv(16)
    return time.monotonic() - begun


def start_many(starts: int, place: Path, sock: socket.socket) -> tuple[float, set[int]]:
    """Start programs of new content, logging each; return the slowest line in seconds, and the exit codes."""
    slowest_s, codes = 0.0, set()
    for _ in range(starts // AT_ONCE):
        started = []
        for _ in range(AT_ONCE):
            program = place / f"program-{secrets.token_hex(4)}"
            shutil.copy("/bin/true", program)
            with program.open("ab") as file:
                file.write(secrets.token_bytes(8))
            started.append(subprocess.Popen([program]))
            slowest_s = max(slowest_s, log(sock, f"started {program}"))
        codes |= {process.wait() for process in started}
    return slowest_s, codes


def play(name: str, starts: int, agent: Agent, place: Path, sock: socket.socket) -> bool:
    signal.alarm(HANG_S)
    begun = time.monotonic()
    with PHASES[name](agent):
        slowest_s, codes = start_many(starts, place, sock)
        took_s = time.monotonic() - begun
    signal.alarm(0)
    is_good = took_s < START_S * starts and codes == {0}
    print(
        f"{'ok' if is_good else 'FAILED'}: {name}: {starts} starts in {took_s:.1f} s, slowest line {slowest_s:.2f} s,"
        f" exit codes {sorted(codes)}",
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
    place = Path(tempfile.mkdtemp(prefix="mamplus-vm-", dir="/tmp"))
    logger = subprocess.Popen(
        [sys.executable, "-S", "-c", LOGGER, LOG_SOCKET.replace("\0", "@"), place / "log"], stdout=subprocess.PIPE
    )
    assert logger.stdout is not None
    logger.stdout.readline()
    agent = start_agent(place)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0mamplus-vm-starter")
        results = [play(name, arguments.starts, agent, place, sock) for name in arguments.phases or PHASES]
    logger.kill()
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
