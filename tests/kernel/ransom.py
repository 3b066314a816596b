# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for programs that encrypt what they find: real tools, on files of our own, in a cgroup of our own.

Shared by the test and the benchmark. Each acts on one directory and knows nothing of the agent.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mamplus_host.control import client
from tests.kernel import acts

FILES = 2000
WAIT_S = 90.0
_SERVICE = [sys.executable, "-m", "mamplus_host.service", "--config"]

IN_PLACE = """
import os, sys
key = os.urandom(1 << 16)
for name in sorted(os.listdir(sys.argv[1])):
    path = os.path.join(sys.argv[1], name)
    if os.path.isfile(path):
        with open(path, "r+b") as file:
            data = file.read()
            file.seek(0)
            file.write(bytes(a ^ b for a, b in zip(data, key)))
"""
RENAMED = """
import os, sys
for name in sorted(os.listdir(sys.argv[1])):
    path = os.path.join(sys.argv[1], name)
    if os.path.isfile(path):
        with open(path, "rb") as file, open(path + ".locked", "wb") as locked:
            locked.write(os.urandom(len(file.read())))
        os.unlink(path)
"""
_OPENSSL = 'openssl enc -aes-256-ctr -pbkdf2 -iter 1 -pass pass:x -in "$f" -out "$f.enc" 2>/dev/null'
_GPG = 'gpg --batch --yes --quiet --pinentry-mode loopback --passphrase x --s2k-count 1024 -c -o "$f.gpg" "$f"'
_7Z = "7z a -bso0 -bsp0 -px -mx=1"
# By name: the program that is started with the directory as its last word.
TOOLS: dict[str, list[str]] = {
    "python in place": [sys.executable, "-S", "-c", IN_PLACE],
    "python, rename and unlink": [sys.executable, "-S", "-c", RENAMED],
    "openssl, over it": ["sh", "-c", f'for f in "$0"/*; do {_OPENSSL} && mv "$f.enc" "$f"; done'],
    "openssl, unlink": ["sh", "-c", f'for f in "$0"/*; do {_OPENSSL} && rm "$f"; done'],
    "gpg, unlink": ["sh", "-c", f'for f in "$0"/*; do {_GPG} && rm "$f"; done'],
    "7z, one archive a file": ["sh", "-c", f'for f in "$0"/*; do {_7Z} -sdel "$f.7z" "$f"; done'],
}
# Reads all, then removes all at once: a few microseconds a file, faster than anybody can be woken.
AT_ONCE: dict[str, list[str]] = {"7z, one archive": ["sh", "-c", f'{_7Z} -sdel "$0/all.7z" "$0"']}


@dataclass
class Rig:
    """An agent that runs, a protected directory of FILES files, and a cgroup to attack them from."""

    directory: Path  # protected
    scope: Path
    socket: Path
    process: "subprocess.Popen[bytes]"
    contents: dict[str, bytes] = field(default_factory=dict)

    def fill(self, count: int) -> None:
        """Make files that look like a person's: text with a beginning of its own."""
        for number in range(count):
            name = f"{number:04}.txt"
            self.contents[name] = b"%%DOC-1.0 number %d\n" % number + b"what was agreed upon with customers\n" * (
                30 + number % 90
            )
            (self.directory / name).write_bytes(self.contents[name])

    def call(self, command: str, **arguments: Any) -> Any:
        return client.call(self.socket, command, timeout_s=WAIT_S, **arguments)

    def inodes(self) -> dict[str, int]:
        """Return the inode of each file: one that was put back has another one."""
        found = {}
        for name in self.contents:
            with suppress(FileNotFoundError):
                found[name] = os.stat(self.directory / name).st_ino
        return found

    def damaged(self) -> list[str]:
        """Return the files that are not as they were."""
        return [name for name, content in self.contents.items() if _read(self.directory / name) != content]

    def mass_alerts(self) -> list[dict[str, Any]]:
        return [one for one in self.call("alerts", limit=10_000) if one["rule"] == "mass-rewrite"]

    def holds_somebody(self) -> bool:
        """Say whether a family stands still: an alert may be of the one before."""
        events = [(hold / "cgroup.events").read_text() for hold in self.scope.rglob("mamplus-hold-*")]
        return any("frozen 1" in one and "populated 1" in one for one in events)

    @contextmanager
    def attacked_by(self, tool: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A tool that goes through the directory; at the end everything of it is gone, its own files too."""
        home = self.directory.parent / "gnupg"
        home.mkdir(mode=0o700, exist_ok=True)
        process = subprocess.Popen(
            [*(TOOLS | AT_ONCE)[tool], str(self.directory)], cwd="/", env={**os.environ, "GNUPGHOME": str(home)},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=lambda: (self.scope / "cgroup.procs").write_text("0"),
        )  # fmt: skip
        try:
            yield process
        finally:
            for hold in sorted(self.scope.rglob("*/"), reverse=True):
                (hold / "cgroup.kill").write_text("1")
            (self.scope / "cgroup.kill").write_text("1")
            process.wait(WAIT_S)
            for path in self.directory.iterdir():
                if path.name not in self.contents:
                    path.unlink()

    def wait(self, what: str, is_so: Any) -> None:
        end = time.monotonic() + WAIT_S
        while not is_so():
            assert time.monotonic() < end, f"{what}: not within {WAIT_S:g} s"
            assert self.process.poll() is None, "the agent has ended"
            time.sleep(0.05)


@contextmanager
def rig(place: Path, state: Path, *, count: int = FILES, more: str = "") -> Iterator[Rig]:
    """An agent of our own that protects `count` files in a directory below `place`."""
    with acts.own_cgroup() as scope, acts.own_netns() as netns, acts.own_bpffs() as bpffs:
        file, directory = state / "agent.toml", place / "documents"
        directory.mkdir()
        file.write_text(
            f'[scope]\ncgroup = "{scope}"\nnetns = ["{netns}"]\n'
            f'[paths]\nstate = "{state / "state"}"\nrun = "{state / "run"}"\nbpffs = "{bpffs / "mamplus"}"\n'
            f"[agent]\nself_protection = false\nexamine_after_s = 3600.0\n"
            f"[vault]\nmass_window_s = 600.0\n{more}"  # tools take seconds for a file where the machine is busy
        )
        process = subprocess.Popen([*_SERVICE, file], stdout=subprocess.PIPE, preexec_fn=lambda: os.nice(-10))
        made = Rig(directory, scope, state / "run" / "control.sock", process)
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"ready")
            made.fill(count)
            made.call("protect", path=str(directory))
            yield made
        finally:
            process.terminate()
            process.wait(WAIT_S)
            _end_responder(state)
            shutil.rmtree(directory)


def _end_responder(state: Path) -> None:
    """The responder outlives the agent on purpose; ours must not outlive the test."""
    from mamplus_host.config import load
    from mamplus_host.kernel import responder
    from mamplus_host.kernel.objects import Kernel

    config = load(state / "agent.toml")
    responder.stop(config)
    Kernel.detach(config)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
