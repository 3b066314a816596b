# SPDX-License-Identifier: Apache-2.0
"""What the table benchmark measures our tables against: ipset, nft, and the kernel's own maps.

Each subject loads a list of `count` addresses once, and returns what it took. ipset and nft act in a
network namespace that is made for it and gone afterwards.
"""

import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import tables_lists as lists

HERE = Path(__file__).parent
PROBES = HERE.parent / "kernel_probes"
CHANGES = 1000
LIMIT_S, LIMIT_BYTES = 120, 6 << 30  # a peer that would take more than this is left out, and said so


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

    def __init__(self, directory: Path, pins: Path) -> None:
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
        done = subprocess.run(command, input=given, capture_output=True, check=False)
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


def ipset(directory: Path, count: int) -> Taken:
    whole, more = directory / "ipset.all", directory / "ipset.more"
    lists.write_ipset(whole, count, "bench")
    lists.write_ipset(more, min(CHANGES, count), "bench", create=False, offset=2)
    with netns() as name:
        inside = ["ip", "netns", "exec", name]
        load_ms, peak = timed([*inside, "ipset", "restore", "-file", str(whole)])
        about = subprocess.check_output([*inside, "ipset", "list", "-terse"], text=True)
        memory = int(re.findall(r"Size in memory: (\d+)", about)[0])
        patch_ms, _ = timed([*inside, "ipset", "restore", "-exist", "-file", str(more)])
    whole.unlink()
    return Taken(load_ms, memory, patch_ms, peak_bytes=peak)


def nft(directory: Path, count: int, *, interval: bool = False) -> Taken:
    whole, more = directory / "nft.all", directory / "nft.more"
    lists.write_nft(whole, count, "bench", interval=interval)
    lists.write_nft(more, min(CHANGES, count), "bench", interval=interval, offset=2)
    with netns() as name:
        inside = ["ip", "netns", "exec", name]
        before = kernel_bytes()
        load_ms, peak = timed([*inside, "nft", "-f", str(whole)])
        memory = kernel_bytes() - before
        patch_ms, _ = timed([*inside, "nft", "-f", str(more)])
    whole.unlink()
    return Taken(load_ms, memory, patch_ms, peak_bytes=peak)


def nft_interval(directory: Path, count: int) -> Taken:
    return nft(directory, count, interval=True)


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Run a program; return milliseconds from its start to its end, and its largest resident size in bytes."""
    begin_ns = time.perf_counter_ns()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    took_ms = (time.perf_counter_ns() - begin_ns) / 1e6
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:6])} failed: {said.decode(errors='replace')[:400]}")
    return took_ms, usage.ru_maxrss * 1024


def kernel_bytes() -> int:
    """Return what the kernel's allocators have given out, in the whole machine."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    sizes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    return 1024 * (sizes["Slab"] + sizes["VmallocUsed"] + sizes["Percpu"])


def too_large(count: int, last: tuple[int, list[Taken]] | None) -> str:
    """Return why a subject is left out at `count`, judged by its last size; "": it is not."""
    if last is None:
        return ""
    factor, taken = count / last[0], last[1][-1]
    if taken.load_ms * factor > LIMIT_S * 1000:
        return f"it would take {taken.load_ms * factor / 1000:.0f} s, more than {LIMIT_S}"
    if taken.peak_bytes * factor > LIMIT_BYTES:
        return f"its program would need {taken.peak_bytes * factor / 1e9:.0f} GB"
    return ""


def _run(*command: "str | Path") -> None:
    subprocess.run(command, check=True)


Subject = Callable[[int], Taken]
