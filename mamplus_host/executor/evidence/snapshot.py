# SPDX-License-Identifier: Apache-2.0
"""A closer look than `picture`: the processes around one, what they map, hold open and talk to, and samples of files.

Journey: actions/evidence -> [snapshot] -> /proc, file system.

Everything is bounded by count, bytes and time, and what a bound left out is named in `cut`. The environment of
processes is not read: passwords live there. What is read here leaves the device sealed only. A named path may have
been chosen by a suspect, and we are root: no link is followed to it, and nothing of the kernel's own is sampled.
"""

import base64
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from mamplus_host.collector.sockets import inet_sockets
from mamplus_host.executor.evidence.picture import ancestry, file_facts
from mamplus_host.executor.processes.tasks import descendants, task
from mamplus_host.executor.storage import names

# /proc/kcore counts as a regular file. /dev/shm is no device's: whoever wants to leave no trace keeps files there.
_KERNELS = ("/proc/", "/sys/", "/dev/")
_NOT_KERNELS = "/dev/shm/"
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much of everything."""

    processes: int = 64
    maps: int = 512  # lines a process
    files: int = 256  # open files a process
    sockets: int = 64  # a process
    samples: int = 8  # files
    sample_bytes: int = 1 << 20  # from the start of each
    text_bytes: int = 8 << 20  # of all that is not a sample
    seconds: float = 5.0


DEFAULT = Limits()


class _Budget:
    """What is left of the limits."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.left, self.end = limits, limits.text_bytes, time.monotonic() + limits.seconds
        self.cut: list[str] = []

    def allows(self, what: str) -> bool:
        """Whether there is time and room for more; `what` is left out if not."""
        why = "time" if time.monotonic() > self.end else "bytes" if self.left <= 0 else ""
        if why:
            self.cut.append(f"{what}: no {why} left")
        return not why

    def take(self, found: dict[str, Any]) -> dict[str, Any]:
        self.left -= len(msgspec.json.encode(found))
        return found


def take(tgid: int, paths: tuple[str, ...], limits: Limits = DEFAULT) -> dict[str, Any]:
    """Return the picture of process `tgid` (0: none) with its family, and of the files at `paths`."""
    budget = _Budget(limits)
    family = [tgid, *descendants(tgid)] if tgid and task(tgid) else []
    if len(family) > limits.processes:
        budget.cut.append(f"{len(family) - limits.processes} processes below {tgid}")
    processes = [
        budget.take(_process(one, budget)) for one in family[: limits.processes] if budget.allows(f"process {one}")
    ]
    programs = [(f"/proc/{one}/exe", str(said["exe"])) for one, said in zip(family, processes, strict=False)]
    return {
        "ancestry": budget.take({"of": ancestry(tgid) if tgid else []})["of"],
        "processes": processes,
        "files": _samples([*((path, path) for path in paths), *programs], budget),
        "cut": budget.cut,
    }


def _process(tgid: int, budget: _Budget) -> dict[str, Any]:
    limits, proc = budget.limits, Path(f"/proc/{tgid}")
    known = task(tgid)
    return {
        "pid": tgid, "ppid": known.ppid if known else 0, "start_ns": known.start_ns if known else 0,
        "comm": known.comm.encode(errors="surrogateescape").decode(errors="replace") if known else "",
        "exe": _link(proc / "exe"), "cwd": _link(proc / "cwd"), "root": _link(proc / "root"),
        "cmdline": _head(proc / "cmdline", 4096).replace("\0", " ").strip(), "status": _head(proc / "status", 4096),
        "maps": list(_lines(proc / "maps", limits.maps)), "open": list(islice(_open_files(proc), limits.files)),
        "sockets": [msgspec.structs.asdict(one) for one in inet_sockets(tgid, limit=limits.sockets)],
    }  # fmt: skip


def _open_files(proc: Path) -> Iterator[str]:
    with suppress(OSError):
        for name in os.listdir(proc / "fd"):
            if target := _link(proc / "fd" / name):
                yield f"{name} {target}"


def _samples(found: list[tuple[str, str]], budget: _Budget) -> list[dict[str, Any]]:
    """Return facts and the beginning of each file, the same file once; /proc/PID/exe reads also what was unlinked."""
    samples: list[dict[str, Any]] = []
    seen: set[tuple[int, int]] = set()
    for path, name in found:
        try:
            descriptor = _open_named(path) if path == name else _open_program(path)
        except OSError:
            if os.path.lexists(path):
                budget.cut.append(f"the file {name!r}: it is no regular file of a disk, or a link leads to it")
            continue
        try:
            who = os.fstat(descriptor)
            if (who.st_dev, who.st_ino) in seen:
                continue
            seen.add((who.st_dev, who.st_ino))
            if len(samples) >= budget.limits.samples:
                budget.cut.append(f"the file {name!r}")
            elif budget.allows(f"the file {name!r}"):
                with suppress(OSError):
                    samples.append(_sample(descriptor, name, who, budget))
        finally:
            os.close(descriptor)
    return samples


def _open_named(path: str) -> int:
    """Return a descriptor of a regular file that is not the kernel's own; OSError when none is there."""
    plain = "/" + os.path.normpath(path).lstrip("/")
    if plain.startswith(_KERNELS) and not plain.startswith(_NOT_KERNELS):
        raise FileNotFoundError(f"{path!r} is the kernel's")
    descriptor = names.open_regular(plain)
    if os.fstat(descriptor).st_dev in (os.stat("/proc").st_dev, os.stat("/sys").st_dev):  # mounted once more
        os.close(descriptor)
        raise FileNotFoundError(f"{path!r} is the kernel's")
    return descriptor


def _open_program(path: str) -> int:
    """Return a descriptor of what /proc/PID/exe means: the kernel's word on what runs, whatever lies at its name."""
    descriptor = os.open(path, _READ)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(f"{path!r} is no regular file")
    return descriptor


def _sample(descriptor: int, name: str, who: os.stat_result, budget: _Budget) -> dict[str, Any]:
    most = budget.limits.sample_bytes
    data = os.pread(descriptor, most, 0)
    if who.st_size > most:
        budget.cut.append(f"{who.st_size - most} bytes of {name!r}")
    facts = file_facts(f"/proc/self/fd/{descriptor}")  # of what was opened, though another be at its name by now
    return {**facts, "path": name, "links": who.st_nlink, "sample": base64.b64encode(data).decode()}


def _lines(path: Path, most: int) -> Iterator[str]:
    with suppress(OSError), path.open("rb") as file:
        for line in islice(file, most):
            yield line.decode("utf-8", "backslashreplace").rstrip("\n")


def _head(path: Path, most: int) -> str:
    try:
        with path.open("rb") as file:
            return file.read(most).decode("utf-8", "backslashreplace")
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return os.fsencode(os.readlink(path)).decode("utf-8", "backslashreplace")
    except OSError:
        return ""
