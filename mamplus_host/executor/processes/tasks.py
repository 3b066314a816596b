# SPDX-License-Identifier: Apache-2.0
"""What /proc says about a process: its start, its parent, its cgroup, its descendants.

Journey: [tasks] is asked by process (whom may I act on?) and evidence (who was that?).

Everything read here can be gone or another process a moment later; the caller keeps a
pidfd, or compares `start_ns`, where that matters.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_MAX_TASKS = 65_536  # of a walk over all processes
_ROOM = 16_384  # bytes of one read


class Task(msgspec.Struct, frozen=True):
    """One process as /proc/PID/stat shows it."""

    tgid: int
    ppid: int
    start_ns: int  # CLOCK_BOOTTIME, rounded down to a clock tick (10 ms)
    comm: str  # the task picks this


def task(tgid: int) -> Task | None:
    """Return the process, None when there is none."""
    try:
        raw = _read(f"/proc/{tgid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    before, _, after = raw.rpartition(b")")  # the name in parentheses may hold anything, also ")"
    fields = after.split()
    comm = before.partition(b"(")[2].decode(errors="surrogateescape")
    return Task(tgid, int(fields[1]), int(fields[19]) * _TICK_NS, comm)


def cgroup_of(tgid: int) -> str | None:
    """Return the cgroup v2 path of a process below the mount ("/apps/a"); None when it has ended or has none."""
    try:
        text = _read(f"/proc/{tgid}/cgroup").decode(errors="surrogateescape")
    except (FileNotFoundError, ProcessLookupError):
        return None
    lines = [line for line in text.split("\n") if line.startswith("0::/")]
    return lines[0][3:] if lines else None


def _read(path: str) -> bytes:
    """Return a small file of /proc, which the kernel shows whole to a read that has room for it.

    A third of what pathlib costs, and these are read for every action.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.read(descriptor, _ROOM)
        while len(found) % _ROOM == 0 and (more := os.read(descriptor, _ROOM)):
            found += more
        return found
    finally:
        os.close(descriptor)


def descendants(tgid: int) -> list[int]:
    """Return the process ids below `tgid`, parents before children.

    Read from one walk over /proc, so a child that is born meanwhile may be missing.
    """
    children: dict[int, list[int]] = {}
    for name in [name for name in os.listdir("/proc") if name.isdigit()][:_MAX_TASKS]:
        found = task(int(name))
        if found is not None:
            children.setdefault(found.ppid, []).append(found.tgid)
    order, seen = [tgid], {tgid}
    for parent in order:
        fresh = [child for child in children.get(parent, []) if child not in seen]
        seen.update(fresh)
        order += fresh
    return order[1:]


def family_above(tgid: int, parent: Callable[[int], int], *, most: int = 16) -> list[int]:
    """Return the ancestors of a process, nearest first, without init; `parent` knows that of one that has ended."""
    found: list[int] = []
    while len(found) < most:
        alive = task(tgid)
        tgid = alive.ppid if alive is not None else parent(tgid)
        if tgid <= 1 or tgid in found:
            break
        found.append(tgid)
    return found


@cache
def boot_id() -> str:
    """Return the kernel's name for this boot: process ids and CLOCK_BOOTTIME mean nothing in another."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
