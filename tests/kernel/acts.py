# SPDX-License-Identifier: Apache-2.0
"""What the executor's tests act on: cgroups, network namespaces, file systems and pins of their own.

Every maker cleans up after itself, also when the test failed, and every name is unique.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mamplus_host.clock import SystemClock
from mamplus_host.config import CGROUP2_MOUNTS, Config, Paths, Scope
from mamplus_host.kernel.births import Births
from mamplus_host.kernel.tables import file_of
from story.stage import wait_for

SOON_S = 60.0  # for what takes no time on a machine at rest
MOUNT = next(Path(one) for one in CGROUP2_MOUNTS if Path(one, "cgroup.controllers").exists())
COUNTER = """
    import mmap, sys
    with open(sys.argv[1], "r+b") as file:
        page = mmap.mmap(file.fileno(), 8)
    number = 0
    while True:
        number += 1
        page[:] = number.to_bytes(8, "little")
"""


class Clock(SystemClock):
    """A second goes by whenever somebody looks."""

    wall = 1_000_000.0

    def wall_s(self) -> float:
        self.wall += 1
        return self.wall


@contextmanager
def own_cgroup() -> Iterator[Path]:
    """A cgroup below the root; whatever is left in it at the end is thawed and killed."""
    path = MOUNT / f"mamplus-test-{secrets.token_hex(4)}"
    path.mkdir()
    try:
        yield path
    finally:
        for directory in sorted([path, *path.rglob("*/")], key=lambda one: len(one.parts), reverse=True):
            (directory / "cgroup.freeze").write_text("0")
            empty(directory)
            directory.rmdir()


def empty(cgroup: Path) -> None:
    """Kill what runs in a cgroup, and wait until it is gone."""
    (cgroup / "cgroup.kill").write_text("1")

    def is_empty() -> bool:
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        return "populated 0" in (cgroup / "cgroup.events").read_text()

    wait_for(f"{cgroup} to be empty", is_empty, timeout_s=SOON_S, every_s=0.001)


def config_for(state: Path, scope: Path, **more: object) -> Config:
    """A configuration that acts on `scope` and keeps its state below `state`."""
    return Config(scope=Scope(cgroup=str(scope)), paths=Paths(state=str(state), run=str(state)), **more)  # type: ignore[arg-type]


class Program:
    """A Python program that runs in a cgroup until it is ended."""

    def __init__(self, source: str, *args: str, cgroup: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", textwrap.dedent(source), *args],
            preexec_fn=lambda: _enter(cgroup),
            stdout=subprocess.PIPE,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self) -> bytes:
        """Wait for the next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(10)


def _enter(cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))


@contextmanager
def running(source: str, *args: str, cgroup: Path) -> Iterator[Program]:
    program = Program(source, *args, cgroup=cgroup)
    try:
        yield program
    finally:
        for directory in (cgroup, *cgroup.rglob("*/")):
            (directory / "cgroup.freeze").write_text("0")
        program.end()


class Counter:
    """A program that counts in a page that we can read: it moves, or it stands still."""

    def __init__(self, page: Path, cgroup: Path) -> None:
        self._page = page
        page.write_bytes(bytes(8))
        self.program = Program(COUNTER, str(page), cgroup=cgroup)
        self.await_moving()

    @property
    def pid(self) -> int:
        return self.program.pid

    def value(self) -> int:
        return int.from_bytes(self._page.read_bytes(), "little")

    def await_moving(self) -> None:
        """Wait until it counts on; fails when it does not within SOON_S."""
        before = self.value()
        wait_for("the counter to move", lambda: self.value() != before, timeout_s=SOON_S, every_s=0.001)

    def stands_still(self) -> bool:
        """Look for long enough that a running counter would have moved thousands of times."""
        before, until = self.value(), time.monotonic() + 0.05
        while time.monotonic() < until:
            time.sleep(0.005)
        return self.value() == before


@contextmanager
def counting(directory: Path, cgroup: Path) -> Iterator[Counter]:
    counter = Counter(directory / f"page-{secrets.token_hex(4)}", cgroup)
    try:
        yield counter
    finally:
        counter.program.end()


@contextmanager
def own_tmpfs() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mamplus-test-"))
    subprocess.run(["mount", "-t", "tmpfs", "mamplus-test", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
        path.rmdir()


@contextmanager
def own_directory() -> Iterator[Path]:
    """A directory on the file system of the temporary directory: ext4 where the tests run."""
    path = Path(tempfile.mkdtemp(prefix="mamplus-test-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def own_netns() -> Iterator[str]:
    name = f"mptest-{secrets.token_hex(4)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@contextmanager
def own_bpffs() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mamplus-test-"))
    subprocess.run(["mount", "-t", "bpf", "bpf", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
        path.rmdir()


def pin_filter(pin: Path, source: str, directory: Path) -> Path:
    """Compile a socket filter and pin it; `source` is the body of `int filter(struct __sk_buff *skb)`."""
    text = directory / f"{pin.name}.bpf.c"
    text.write_text(
        "#include <linux/bpf.h>\n"
        f'__attribute__((section("socket"), used)) int filter(struct __sk_buff *skb) {{ {source} }}\n'
        'char LICENSE[] __attribute__((section("license"), used)) = "GPL";\n'
    )
    built = text.with_suffix(".o")
    include = f"-I/usr/include/{os.uname().machine}-linux-gnu"
    subprocess.run(["clang", "-target", "bpf", "-O2", include, "-c", str(text), "-o", str(built)], check=True)
    subprocess.run(["bpftool", "prog", "load", str(built), str(pin), "type", "socket"], check=True)
    return pin


def count_mount(pins: Path, file: Path) -> None:
    """Do what the kernel's hooks do when another file system gets the device number that `file` is on."""
    with file.open("rb") as one:
        Births(pins).add(file_of(one.fileno()).dev)
