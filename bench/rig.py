# SPDX-License-Identifier: Apache-2.0
"""What the cost benchmarks share: a cgroup, the C producer, and the conditions that are compared."""

import json
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from bench.report import progress
from mamplus_host.config import Config, cgroup_dir

HERE = Path(__file__).parent
END_TIMEOUT_S = 60
DISK_BYTES = 64 << 20
Condition = Callable[[], AbstractContextManager[Any]]


class Rig:
    """A cgroup and a directory of our own; `counters` are those of the last time our probes were attached."""

    def __init__(self, directory: Path, cgroup: Path) -> None:
        self.directory, self.cgroup = directory, cgroup
        self.bpffs = f"/sys/fs/bpf/mamplus-bench-{secrets.token_hex(6)}"
        self.counters: dict[str, Any] = {}
        self.producer, self.program = directory / "producer", directory / "program"
        _compile(self.producer, (HERE / "producer.c").read_text(), "-O2")
        _compile(self.program, "int main(void) { return 0; }", "-O2", "-static")

    def cost_us(self, *work: object) -> float:
        """Let the producer do `work` inside the cgroup; return microseconds for each."""
        command = [str(self.producer), str(self.cgroup), *map(str, work)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the producer failed: {done.stderr.strip()}")
        return float(done.stdout) / 1000

    @contextmanager
    def attached(self, *options: object) -> Iterator[None]:
        """Our probes on the cgroup, consumed as the agent does; `options` are bench.consumer's."""
        arguments = ["--cgroup", self.cgroup, "--directory", self.directory, "--bpffs", self.bpffs, *options]
        with _child("bench.consumer", *map(str, arguments)) as child:
            assert child.stdout is not None
            if child.stdout.readline() != b"ready\n":
                raise SystemExit(f"the probes could not be attached: {_said(child)}")
            yield
            output, _ = child.communicate(timeout=END_TIMEOUT_S)
            self.counters = json.loads(output)

    @contextmanager
    def observed_by_bcc(self) -> Iterator[None]:
        """The peer: the same events through bcc."""
        with _child("mamplus_host.kernel.bcc_shell", "--cgroup", str(self.cgroup)) as child:
            assert child.stdout is not None
            if child.stdout.read(4) != bytes(4):
                raise SystemExit(f"the bcc shell did not start: {_said(child)}")
            cat = subprocess.Popen(["cat"], stdin=child.stdout, stdout=subprocess.DEVNULL)
            child.stdout.close()
            yield
            assert child.stdin is not None
            child.stdin.close()
            cat.wait(timeout=END_TIMEOUT_S)

    @contextmanager
    def permitted_by(self, language: str, place: Path, what: str = "exec") -> Iterator[None]:
        """The peer: a fanotify daemon in "c" or "python", asked about each "exec" or "open" on a file system."""
        command: tuple[object, ...] = (sys.executable, HERE / "permission_peer.py")
        if language == "c":
            _compile(self.directory / "peer", (HERE / "permission_peer.c").read_text(), "-O2")
            command = (self.directory / "peer",)
        with subprocess.Popen([*map(str, command), str(place), what], stdout=subprocess.PIPE) as daemon:
            try:
                assert daemon.stdout is not None
                if daemon.stdout.readline() != b"ready\n":
                    raise SystemExit(f"the fanotify daemon in {language} did not start")
                yield
            finally:
                daemon.terminate()

    def alternate(
        self, conditions: dict[str, Condition], measure: Callable[[], float], *, rounds: int, what: str
    ) -> dict[str, list[float]]:
        """Measure once under each condition in every round, each round beginning with another one."""
        values: dict[str, list[float]] = {name: [] for name in conditions}
        names = list(conditions)
        for number in progress(range(rounds), what, rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                with conditions[name]():
                    measure()  # warm: the first start under a condition pays for its caches
                    values[name].append(measure())
        return values


def clean_up_when_ended() -> None:
    """Let SIGTERM unwind as an exception does, so that nothing of ours stays attached."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@contextmanager
def own_cgroup() -> Iterator[Path]:
    """Yield a cgroup of our own; what is in it is ended afterwards, also after SIGTERM."""
    clean_up_when_ended()
    cgroup = cgroup_dir(Config()) / f"mamplus-bench-{secrets.token_hex(6)}"
    cgroup.mkdir()
    try:
        yield cgroup
    finally:
        _remove(cgroup)


@contextmanager
def rig() -> Iterator[Rig]:
    """Yield a Rig; its cgroup and files are gone afterwards, also after SIGTERM."""
    with own_cgroup() as cgroup, tempfile.TemporaryDirectory(prefix="mamplus-bench-") as directory:
        yield Rig(Path(directory), cgroup)


def _remove(cgroup: Path) -> None:
    """End what still runs in a cgroup, and remove it; OSError when that does not end."""
    (cgroup / "cgroup.kill").write_text("1")
    end_s = time.monotonic() + END_TIMEOUT_S
    while "populated 1" in (cgroup / "cgroup.events").read_text() and time.monotonic() < end_s:
        time.sleep(0.01)
    cgroup.rmdir()


@contextmanager
def own_disk(directory: Path) -> Iterator[Path]:
    """Yield a directory on an ext4 of its own, in an image below `directory`: what is marked is nobody else's."""
    image, place = directory / "image", directory / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def pristine() -> AbstractContextManager[None]:
    return nullcontext()


@contextmanager
def _child(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", module, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=HERE.parent) as child:
        try:
            yield child
        finally:
            if child.poll() is None and sys.exc_info()[0]:
                child.terminate()


def _said(child: subprocess.Popen[bytes]) -> str:
    return child.communicate(timeout=END_TIMEOUT_S)[1].decode(errors="replace").strip()


def _compile(target: Path, source: str, *flags: str) -> None:
    subprocess.run(["gcc", *flags, "-x", "c", "-", "-o", str(target)], input=source, text=True, check=True)
