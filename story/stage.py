# SPDX-License-Identifier: Apache-2.0
"""The place where the story is played: its own cgroups, network namespace and tmpfs, and nothing else.

Whatever is made is put on one ExitStack first, so that it is taken away on exit, on Ctrl-C
and on failure alike.
"""

import contextlib
import ctypes
import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mamplus_host.config import CGROUP2_MOUNTS
from mamplus_host.control import client

BIN = Path(sys.executable).parent
CLONE_NEWNET = 0x40000000


class StoryFailed(Exception):
    """A step did not happen as told."""


def wait_for(what: str, claim: Callable[[], Any], *, timeout_s: float = 20.0, every_s: float = 0.01) -> Any:
    """Return the first true answer of `claim`; StoryFailed names `what` after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(OSError):
            if answer := claim():
                return answer
        if time.monotonic() > end:
            raise StoryFailed(f"waited {timeout_s:.0f} s for: {what}")
        time.sleep(every_s)


def command(*words: object, ok: bool = True) -> str:
    """Run one of our two programs and return what it printed; StoryFailed when it fails and `ok`."""
    argv = [str(BIN / str(words[0])), *map(str, words[1:])]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)
    if ok and done.returncode != 0:
        raise StoryFailed(f"{' '.join(map(str, words))}: exit {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def sh(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True, stdin=subprocess.DEVNULL)


def _end(process: "subprocess.Popen[Any]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
    if process.poll() is None:
        process.kill()
        process.wait(5)


class Stage:
    """Directories, namespaces and processes of one play."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.tag = secrets.token_hex(3)
        self.root = Path(tempfile.gettempdir()) / f"mamplus-story-{self.tag}"
        self.root.mkdir(mode=0o700)
        stack.callback(shutil.rmtree, self.root, ignore_errors=True)
        self.disk = self.root / "disk"  # programs and protected files live on a tmpfs of ours
        self.disk.mkdir()
        sh("mount", "-t", "tmpfs", "-o", "size=256m,mode=0755", "mamplus-story", self.disk)
        stack.callback(subprocess.run, ["umount", "-l", str(self.disk)], check=False, capture_output=True)
        self.netns = self.make_netns("")  # of the programs, and of the first device
        self.log = (self.root / "log.txt").open("ab")
        stack.callback(self.log.close)

    def make_netns(self, suffix: str) -> str:
        """Make a network namespace with the story's addresses on its loopback; returns its name."""
        name = f"mpstory-{self.tag}{suffix}"
        sh("ip", "netns", "add", name)
        self.stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False, capture_output=True)
        sh("ip", "-n", name, "link", "set", "lo", "up")
        for address in ("203.0.113.7/32", "203.0.113.8/32", "198.51.100.9/32", "192.0.2.1/32"):
            sh("ip", "-n", name, "addr", "add", address, "dev", "lo")
        for address in ("2001:db8::7/128", "2001:db8::8/128"):
            sh("ip", "-n", name, "-6", "addr", "add", address, "dev", "lo", "nodad")
        return name

    def cgroup(self, name: str) -> Path:
        """Make a cgroup v2 below the hierarchy's root; it is killed and removed at the end."""
        mount = next(Path(m) for m in CGROUP2_MOUNTS if (Path(m) / "cgroup.controllers").exists())
        path = mount / name
        path.mkdir()
        self.stack.callback(_remove_cgroup, path)
        return path

    def spawn(self, *words: object, cgroup: Path | None = None, **kwargs: Any) -> "subprocess.Popen[Any]":
        """Start a program, in the story's namespace and in `cgroup` when one is given; it is ended at the end."""
        argv = [str(word) for word in words]
        enter = (lambda: self._enter(cgroup)) if cgroup else None
        process = subprocess.Popen(argv, preexec_fn=enter, stdin=subprocess.DEVNULL, **{"stderr": self.log, **kwargs})
        self.stack.callback(_end, process)
        return process

    def _enter(self, cgroup: Path) -> None:
        self._enter_netns()
        (cgroup / "cgroup.procs").write_text("0")

    def _enter_netns(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{self.netns}") as file:
            if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")

    @contextlib.contextmanager
    def in_netns(self) -> Iterator[None]:
        """Let this thread make sockets in the story's namespace."""
        with open("/proc/self/ns/net") as home:
            self._enter_netns()
            try:
                yield
            finally:
                ctypes.CDLL(None).setns(home.fileno(), CLONE_NEWNET)


def _remove_cgroup(path: Path) -> None:
    with contextlib.suppress(OSError):
        (path / "cgroup.kill").write_text("1")
    for _ in range(200):
        with contextlib.suppress(OSError):
            for below in sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True):
                below.rmdir()
            path.rmdir()
        if not path.exists():
            return
        time.sleep(0.01)


class Enterprise:
    """A real `mamplus-enterprise serve` on SQLite, with an administrator's hands."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.dir = stage, stage.root / "enterprise"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        command("mamplus-enterprise", "init", self.dir, "--dev", "--name", "Story Ltd", "--url", self.url)
        self.process: subprocess.Popen[Any] | None = None

    def start(self) -> None:
        self.process = self.stage.spawn(
            BIN / "mamplus-enterprise", "--dir", self.dir, "serve", "--listen", f"127.0.0.1:{self.port}",
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        if not self.process.stdout.readline().startswith("ready"):
            raise StoryFailed("the enterprise did not come up; its log: " + self.tail())
        self.page = f"http://127.0.0.1:{self.port}/"

    def stop(self) -> None:
        assert self.process is not None
        _end(self.process)

    def tail(self) -> str:
        return (self.stage.root / "log.txt").read_text(errors="replace")[-1500:]

    def run(self, *words: object) -> str:
        return command("mamplus-enterprise", "--dir", self.dir, *words)

    def api(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Call the administrators' API over plain HTTP on loopback, as --dev allows."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {(self.dir / 'admin.token').read_text().strip()}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


class Device:
    """One device: an agent with its own state, pins and cgroup."""

    def __init__(self, stage: Stage, name: str, *, netns: str = "") -> None:
        """`netns`: where its packets are read; default: the namespace of the story's programs."""
        self.stage, self.name = stage, name
        self.cgroup = stage.cgroup(f"mamplus-story-{stage.tag}-{name}")
        home = stage.root / name
        home.mkdir()
        self.config = home / "agent.toml"
        self.bpffs = Path(f"/sys/fs/bpf/mamplus-story-{stage.tag}-{name}")
        self.socket = home / "run" / "control.sock"
        self.config.write_text(
            "[agent]\nself_protection = false\n"  # the story kills its agent
            f'[scope]\ncgroup = "{self.cgroup}"\nnetns = ["{netns or stage.netns}"]\n'
            f'[paths]\nstate = "{home}/state"\nrun = "{home}/run"\nbpffs = "{self.bpffs}"\n'
        )
        self.agent: subprocess.Popen[Any] | None = None
        stage.stack.callback(self.leave)

    def start(self) -> str:
        """Start the agent and return its "ready" line."""
        self.agent = self.stage.spawn(
            BIN / "mamplus", "run", "--config", self.config, stdout=subprocess.PIPE, text=True
        )
        assert self.agent.stdout is not None
        line = str(self.agent.stdout.readline())
        if not line.startswith("ready"):
            raise StoryFailed(f"{self.name} did not come up: " + (self.stage.root / "log.txt").read_text()[-1500:])
        return line.strip()

    def kill(self) -> None:
        """kill -9, as an attacker or the OOM killer would."""
        assert self.agent is not None
        self.agent.kill()
        self.agent.wait(5)

    def leave(self) -> None:
        """Stop the agent and take everything of it off the machine."""
        if self.agent is not None:
            _end(self.agent)
        command("mamplus", "detach", "--config", self.config, ok=False)

    def run(self, *words: object) -> str:
        return command("mamplus", *words, "--config", self.config)

    def ask(self, what: str, **arguments: Any) -> Any:
        return client.call(self.socket, what, **arguments)

    def generation(self) -> int:
        return int(self.ask("status")["ble"]["generation"])

    def alerts(self, **want: Any) -> list[dict[str, Any]]:
        """Return the alerts whose fields are as wanted, oldest first."""
        found = self.ask("alerts", limit=500)
        return [alert for alert in reversed(found) if all(alert.get(key) == value for key, value in want.items())]
