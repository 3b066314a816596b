# SPDX-License-Identifier: Apache-2.0
"""Cgroups as they are acted on: who is in one, frozen, let go, ended as a whole.

Journey: process -> [cgroups] -> kernel.

Whether a cgroup may be acted on is `process`'s to say.
"""

import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path

from mamplus_host.errors import ActionFailed

WAIT_S = 2.0  # for a cgroup to freeze or empty, for a killed process to end


def members(cgroup: Path) -> frozenset[int]:
    """Return the processes in `cgroup` and below it."""
    found: set[int] = set()
    for directory, _below, _files in os.walk(cgroup):
        with suppress(OSError):  # removed meanwhile, or a threaded cgroup
            found.update(int(line) for line in Path(directory, "cgroup.procs").read_text().split())
    return frozenset(found)


def reaches(cgroup: Path, state: bytes) -> bool:
    """Wait until cgroup.events says `state`; False when it does not within WAIT_S."""
    deadline = time.monotonic() + WAIT_S
    with (cgroup / "cgroup.events").open("rb", buffering=0) as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while state not in os.pread(events.fileno(), 256, 0).splitlines():
            left_ms = (deadline - time.monotonic()) * 1000
            if left_ms <= 0:
                return False
            poll.poll(left_ms)
    return True


def kill_all(cgroup: Path) -> None:
    """End all that is in a cgroup; ActionFailed when it is not empty in time."""
    try:
        write(cgroup / "cgroup.kill", "1")
    except (FileNotFoundError, PermissionError):  # before Linux 5.14: 661ee6280931 ("cgroup: introduce cgroup.kill")
        _kill_members(cgroup)
    if not reaches(cgroup, b"populated 0"):
        raise ActionFailed(f"{str(cgroup)!r} was killed, and is not empty after {WAIT_S:g} s")


def _kill_members(cgroup: Path) -> None:
    """End all that is in a cgroup: what is frozen has no more children, and ends all the same."""
    before = (cgroup / "cgroup.freeze").read_text().strip()
    write(cgroup / "cgroup.freeze", "1")
    try:
        reaches(cgroup, b"frozen 1")
        for tgid in members(cgroup):
            with suppress(ProcessLookupError):
                os.kill(tgid, signal.SIGKILL)
    finally:
        write(cgroup / "cgroup.freeze", before)


def remove(cgroup: Path) -> None:
    """Remove an empty cgroup; it may be gone already."""
    with suppress(FileNotFoundError):
        cgroup.rmdir()


def write(path: Path, text: str) -> None:
    """Write to a file of a cgroup; OSError says what the kernel has against it."""
    with path.open("w") as file:
        file.write(text)
