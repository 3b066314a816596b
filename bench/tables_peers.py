# SPDX-License-Identifier: Apache-2.0
"""What the table benchmark measures our tables against: ipset, nft, and the kernel's own maps.

Each subject loads a list of `count` addresses once, and returns what it took. ipset and nft act in a
network namespace that is made for it and gone afterwards.
"""

import os
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import tables_lists as lists

HERE = Path(__file__).parent
PROBES = HERE.parent / "kernel_probes"
CHANGES = 1000


class TooSlow(Exception):
    """A peer was ended, for it took longer than anybody waits."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """A peer that takes more than this is left out, and said so."""

    patience_s: float = 120
    memory_bytes: float = 6e9  # of its program


@dataclass(frozen=True, slots=True)
class Taken:
    """One load, and what followed; 0 where there is nothing to measure."""

    load_ms: float
    memory_bytes: float = 0  # of the kernel, for the table
    patch_ms: float = 0  # CHANGES more addresses
    nothing_ns: float = 0  # a run of the same program without a lookup
    hit_ns: float = 0
    miss_ns: float = 0
    peak_bytes: float = 0  # resident size of the program that loaded


class Hands:
    """The compiled C programs, in `directory`."""

    def __init__(self, directory: Path, pins: Path, bounds: Bounds) -> None:
        self._bounds = bounds
        self._object, self._program, self._pins = directory / "lookup.bpf.o", directory / "lookup", pins
        multiarch = subprocess.check_output(["gcc", "-print-multiarch"], text=True).strip()
        bpf = ["-target", "bpf", "-mcpu=v2", "-g", "-O2", f"-I/usr/include/{multiarch}", f"-I{PROBES}/bpf"]
        _run("clang", *bpf, f"-I{PROBES}/include", f"-I{HERE}", "-c", HERE / "lookup.bpf.c", "-o", self._object)
        libraries = ["-l:libbpf.a", "-lelf", "-lz"]
        _run("gcc", "-O2", "-Wall", f"-I{HERE}", HERE / "lookup.c", "-o", self._program, *libraries)

    def __call__(self, kind: str, count: int, repeat: int, changes: int = 0, given: bytes = b"") -> Taken:
        """Run one subject of `lookup.c`; an entry that is not found, or one found wrongly, ends the benchmark."""
        paths = [str(path) for path in (self._program, self._object, self._pins)]
        command = [*paths, kind, *map(str, (count, repeat, changes))]
        patience_s = self._bounds.patience_s
        try:
            done = subprocess.run(command, input=given, capture_output=True, check=False, timeout=patience_s)
        except subprocess.TimeoutExpired:
            raise TooSlow(f"it was ended after {patience_s:.0f} s") from None
        if done.returncode:
            raise SystemExit(f"lookup {kind} failed: {done.stderr.decode().strip()}")
        said = {key: float(value) for key, value in re.findall(r"(\w+)=([\d.]+)", done.stdout.decode())}
        found = said["hits_found"], said["misses_found"]
        if "networks" not in kind and found != (1, 0):
            raise SystemExit(f"lookup {kind} found {found[0]:.2%} of what is there, and {found[1]:.2%} of what is not")
        return Taken(
            said.get("load", 0) / 1e6, said.get("memory", 0), said.get("patch", 0) / 1e6, said["nothing"], said["hit"],
            said["miss"],
        )  # fmt: skip


@contextmanager
def netns() -> Iterator[str]:
    """Yield the name of a network namespace of our own."""
    name = f"mamplus-bench-{secrets.token_hex(4)}"
    _run("ip", "netns", "add", name)
    try:
        yield name
    finally:
        _run("ip", "netns", "del", name)


def ipset(directory: Path, bounds: Bounds, count: int) -> Taken:
    whole, more = directory / "ipset.all", directory / "ipset.more"
    lists.write_ipset(whole, count, "bench")
    lists.write_ipset(more, min(CHANGES, count), "bench", create=False, offset=2)
    with netns() as name:
        inside = ["ip", "netns", "exec", name]
        load_ms, peak = timed([*inside, "ipset", "restore", "-file", str(whole)], bounds)
        about = subprocess.check_output([*inside, "ipset", "list", "-terse"], text=True)
        memory = int(re.findall(r"Size in memory: (\d+)", about)[0])
        patch_ms = timed_more([*inside, "ipset", "restore", "-exist", "-file", str(more)], bounds)
    whole.unlink()
    return Taken(load_ms, memory, patch_ms, peak_bytes=peak)


def nft(directory: Path, bounds: Bounds, count: int, *, interval: bool = False) -> Taken:
    whole, more = directory / "nft.all", directory / "nft.more"
    lists.write_nft(whole, count, "bench", interval=interval)
    lists.write_nft(more, min(CHANGES, count), "bench", interval=interval, offset=2)
    with netns() as name:
        inside = ["ip", "netns", "exec", name]
        before = kernel_bytes()
        load_ms, peak = timed([*inside, "nft", "-f", str(whole)], bounds)
        memory = kernel_bytes() - before
        patch_ms = timed_more([*inside, "nft", "-f", str(more)], bounds)
    whole.unlink()
    return Taken(load_ms, memory, patch_ms, peak_bytes=peak)


def nft_interval(directory: Path, bounds: Bounds, count: int) -> Taken:
    return nft(directory, bounds, count, interval=True)


def timed(command: Sequence[str], bounds: Bounds) -> tuple[float, float]:
    """Run a program; return milliseconds from its start to its end, and its largest resident size in bytes."""
    begin_ns = time.perf_counter_ns()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    alarm = threading.Timer(bounds.patience_s, process.kill)
    alarm.start()
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    took_ms = (time.perf_counter_ns() - begin_ns) / 1e6
    alarm.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode == -signal.SIGKILL:
        raise TooSlow(f"it was ended after {took_ms / 1000:.0f} s")
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:6])} failed: {said.decode(errors='replace')[:400]}")
    return took_ms, usage.ru_maxrss * 1024


def timed_more(command: Sequence[str], bounds: Bounds) -> float:
    """Return milliseconds, or 0 when it had to be ended: the list that stands was measured all the same."""
    try:
        return timed(command, bounds)[0]
    except TooSlow as error:
        print(f"  {command[4]}, {CHANGES} more: {error}")
        return 0


def kernel_bytes() -> int:
    """Return what the kernel's allocators have given out, in the whole machine."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    sizes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    return 1024 * (sizes["Slab"] + sizes["VmallocUsed"] + sizes["Percpu"])


def too_large(count: int, last: tuple[int, list[Taken]] | None, bounds: Bounds) -> str:
    """Return why a subject is left out at `count`, judged by its last size; "": it is not."""
    if last is None:
        return ""
    factor, taken = count / last[0], last[1][-1]
    if taken.load_ms * factor > bounds.patience_s * 1000:
        return f"it would take {taken.load_ms * factor / 1000:.0f} s, more than {bounds.patience_s:.0f}"
    if taken.peak_bytes * factor > bounds.memory_bytes:
        return f"its program would need {taken.peak_bytes * factor / 1e9:.0f} GB"
    return ""


def _run(*command: "str | Path") -> None:
    subprocess.run(command, check=True)


Subject = Callable[[int], Taken]
