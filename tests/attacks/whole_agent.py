# SPDX-License-Identifier: Apache-2.0
"""A whole agent, as a process: what attacks on itself and on guarded files are played against.

Its cgroup, its scope and its bpffs are its own, so that they may be frozen, emptied and unmounted.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mamplus_host.config import Config, parse
from mamplus_host.control import client
from mamplus_host.errors import AgentUnreachable, MamplusError
from mamplus_host.kernel import guard, pins, responder
from mamplus_host.policy import policy
from mamplus_host.policy.policy import Policy
from tests.attacks.disks import mounted
from tests.attacks.outcome import Told

START_S = 180.0  # an emulated machine
GONE_S = 20.0
STATE_BYTES = 32 << 20
# The agent itself; it ends when a byte comes: where it is guarded nobody but itself may end it.
AGENT = """
import os, signal, sys, threading
from mamplus_host import service

def end_when_told():
    if os.read(0, 1):
        os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=end_when_told, daemon=True).start()
sys.exit(service.main())
"""
SERVICE = [sys.executable, "-c", AGENT, "--config"]
UNLIMITED = {"cgroup.freeze": "0", "memory.max": "max", "pids.max": "max"}


@dataclass
class WholeAgent:
    """An agent that runs; `own` is its cgroup, `scope` what it enforces on."""

    config: Config
    file: Path
    own: Path
    scope: Path
    environment: dict[str, str]
    process: "subprocess.Popen[bytes] | None" = None
    past: set[str] = field(default_factory=set)  # alerts of attacks before this one

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def responder_pid(self) -> int:
        return responder.running(self.config, self.pins)

    @property
    def log(self) -> Path:
        """What it says on stderr."""
        return self.file.with_suffix(".log")

    @property
    def filler(self) -> Path:
        """What fills the file system of its state, when somebody makes it."""
        return self.config.state / "filler"

    @property
    def pins(self) -> Path:
        """The directory of its pins."""
        return pins.directories(self.config)[0]

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*SERVICE, self.file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("ab"),
            env=self.environment, preexec_fn=lambda: (self.own / "cgroup.procs").write_text("0"),
        )  # fmt: skip
        assert self.process.stdout is not None
        ready = self.process.stdout.readline().startswith(b"ready")
        assert ready, f"the agent did not start: {self.log.read_text()[-1000:]}"

    def repair(self) -> None:
        """Whatever was done: let it go on, or start the next one."""
        self._lift_limits()
        with contextlib.suppress(OSError):  # where it is guarded there is none
            self.filler.unlink()
        if self.process is None or self.process.poll() is not None:
            self.start()
        elif not self.config.bpffs.parent.is_mount():
            self.stop()
            mount_bpffs(self.config.bpffs.parent)
            self.start()
        assert self.process is not None
        with contextlib.suppress(OSError):
            self.process.send_signal(signal.SIGCONT)

    def _lift_limits(self) -> None:
        """Write what differs alone: where the agent is guarded, our own hands are told like an attacker's."""
        for name, text in UNLIMITED.items():
            with contextlib.suppress(OSError):
                if (self.own / name).read_text().strip() != text:
                    (self.own / name).write_text(text)

    def alerts(self) -> list[dict[str, Any]]:
        """Return its alerts, oldest first; none while it does not answer."""
        try:
            return list(reversed(client.call(self.config.control_socket, "alerts")))
        except AgentUnreachable:
            return []

    def rules(self) -> str:
        """Return "kept" when its rules of iptables stand, or what is in the way for as long as a start may take."""
        end = time.monotonic() + START_S
        while (said := str(client.call(self.config.control_socket, "status")["netfilter"]["rules"])) != "kept":
            if time.monotonic() > end:
                break
            time.sleep(0.5)
        return said

    def forget_the_past(self) -> None:
        self.past = {_key(one) for one in self.alerts()}

    def told_since(self, started_ns: int) -> list[Told]:
        """Return what it has told since; the time is that of reading it."""
        after_ms = round((time.clock_gettime_ns(time.CLOCK_BOOTTIME) - started_ns) / 1e6, 1)
        new = [one for one in self.alerts() if _key(one) not in self.past]
        return [Told(what=one["rule"], is_refusal=_is_refusal(one), after_ms=after_ms) for one in new]

    def stop(self) -> None:
        """Have it end itself; where nothing guards it, end it if it does not."""
        if self.process is None:
            return
        self._lift_limits()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.send_signal(signal.SIGCONT)
            self.process.stdin.write(b"x")
            self.process.stdin.flush()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GONE_S)
        with contextlib.suppress(OSError):  # guarded: it ends with the virtual machine
            self.process.kill()
            self.process.wait(GONE_S)
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()


def _key(alert: dict[str, Any]) -> str:
    return f"{alert['id']} {alert['repeats']}"


def _is_refusal(alert: dict[str, Any]) -> bool:
    """Whether it tells of what was prevented: guarded files are told when they were, and in monitor mode."""
    return alert["rule"] == "guarded-file" or "refused" in alert["summary"]


@contextlib.contextmanager
def whole_agent(work: Path, cgroups: Path, rules: Policy, sections: dict[str, Any]) -> Iterator[WholeAgent]:
    """Start an agent that follows `rules`, with cgroups made beside `cgroups`; everything is taken away at the end."""
    tag = secrets.token_hex(4)
    own, scope = (cgroups.with_name(f"mamplus-{name}-{tag}") for name in ("own", "scope"))
    bpffs, netns = work / "bpffs", f"mptest-{tag}"  # its iptables rules go into a namespace of its own
    config = parse(
        sections | {
            "scope": {"cgroup": str(scope), "netns": [netns]},
            "paths": {"bpffs": str(bpffs / "pins"), "run": str(work / "agent-run"), "state": str(work / "agent-state")},
        }
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        for path in (own, scope):
            path.mkdir()
            stack.callback(_remove, path)
        subprocess.run(["ip", "netns", "add", netns], check=True)
        stack.callback(sh, "ip", "netns", "del", netns)
        bpffs.mkdir()
        mount_bpffs(bpffs)
        stack.callback(sh, "umount", "-l", bpffs)
        stack.enter_context(mounted("mptest", config.state, "tmpfs", f"size={STATE_BYTES},mode=700"))
        file = work / "agent.toml"
        file.write_text(_toml(config, sections))
        policy.path_of(config.state).parent.mkdir(parents=True, exist_ok=True)
        policy.path_of(config.state).write_bytes(policy.encode(rules))
        made = WholeAgent(config, file, own, scope, dict(os.environ))
        stack.callback(_take_out, made)
        made.start()
        yield made


def sh(*command: str | Path) -> None:
    subprocess.run(command, check=False, capture_output=True)


def mount_bpffs(path: Path) -> None:
    subprocess.run(["mount", "-t", "bpf", "mptest", path], check=True)


def _take_out(agent: WholeAgent) -> None:
    agent.stop()
    with contextlib.suppress(OSError, MamplusError):  # guarded, and it did not end
        guard.claim(agent.config)
        responder.stop(agent.config)
        pins.remove_all(agent.config)


def _remove(cgroup: Path) -> None:
    with contextlib.suppress(OSError):  # guarded
        _empty(cgroup)


def _empty(cgroup: Path) -> None:
    (cgroup / "cgroup.freeze").write_text("0")
    (cgroup / "cgroup.kill").write_text("1")
    end = time.monotonic() + GONE_S
    while "populated 1" in (cgroup / "cgroup.events").read_text() and time.monotonic() < end:
        time.sleep(0.005)
    for below in cgroup.iterdir():
        if below.is_dir():
            below.rmdir()
    cgroup.rmdir()


def _toml(config: Config, sections: dict[str, Any]) -> str:
    """Return the configuration as its file: the sections are flat, with strings and lists of strings."""
    whole: dict[str, dict[str, Any]] = {
        **sections,
        "scope": {"cgroup": config.scope.cgroup, "netns": list(config.scope.netns)},
        "paths": {"state": config.paths.state, "run": config.paths.run, "bpffs": config.paths.bpffs},
    }
    lines = []
    for name, section in whole.items():
        lines += [f"[{name}]", *(f"{key} = {_value(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    return f'"{value}"'
