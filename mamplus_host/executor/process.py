# SPDX-License-Identifier: Apache-2.0
"""Stop, let go and end processes, inside the scope cgroup and nowhere else.

Journey: plan -> execute -> [process] -> kernel.

A process is frozen with the cgroup it lives in when that is the app's own, a cgroup below
the scope. When others live there (the scope itself, or a guarded process is inside), it is
moved with its descendants into a child cgroup, `mamplus-hold-...`, that is frozen before
anything enters. Guarded processes, pid 0, pid 1 and everything outside of the scope are
refused with ActionFailed, as is a process id that another program has got meanwhile.

This module keeps no memory: what is held is written down by `held.py` before it is done.
"""

import errno
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.plan import NEVER
from mamplus_host.executor.tasks import cgroup_of, descendants, task

HOLD_PREFIX = "mamplus-hold-"
WAIT_S = 2.0  # for a cgroup to freeze or empty, for a killed process to end
_PASSES = 8  # over a family that may grow while it is moved


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Where a process is held, or will be."""

    cgroup: str  # directory that is frozen
    origin: str = ""  # directory to move back to; "" when the app's own cgroup is frozen in place
    tgid: int
    boot_ns: int  # of the event that named the process


class Processes:
    """The processes below `scope` that may be acted on: all but `guarded`."""

    def __init__(self, scope: Path, mount: Path, guarded: frozenset[int]) -> None:
        """`scope`: directory of the scope cgroup, below the cgroup v2 mount at `mount`."""
        self._scope, self._mount = scope, mount
        self.guarded = guarded | NEVER

    def guarding(self, guarded: frozenset[int]) -> "Processes":
        """Return the same scope with other processes guarded."""
        return Processes(self._scope, self._mount, guarded)

    def where(self, tgid: int, boot_ns: int, hold_id: str) -> Hold:
        """Return where `tgid` would be held; nothing is done yet. Raises ActionFailed when it may not be."""
        with self._claimed(tgid, boot_ns):
            own = self._cgroup(tgid)
            if own == self._scope or self.guarded & members(own):
                return Hold(cgroup=str(own / f"{HOLD_PREFIX}{hold_id}"), origin=str(own), tgid=tgid, boot_ns=boot_ns)
            return Hold(cgroup=str(own), tgid=tgid, boot_ns=boot_ns)

    def freeze(self, hold: Hold) -> bool:
        """Freeze; return whether every task stands still within WAIT_S. May be repeated. Raises ActionFailed.

        A task that waits in the kernel (for a disk, say) stands still before it runs its next instruction.
        """
        cgroup = self._inside(Path(hold.cgroup))
        with _failing(f"cannot freeze process {hold.tgid}"):
            if not hold.origin:
                self._refuse_guarded(cgroup)
                _write(cgroup / "cgroup.freeze", "1")
            else:
                cgroup.mkdir(exist_ok=True)
                _write(cgroup / "cgroup.freeze", "1")
                self._gather(hold, cgroup)
            return _reaches(cgroup, b"frozen 1")

    def thaw(self, hold: Hold) -> None:
        """Let go on; may be repeated. A held family moves back, and the child cgroup is removed."""
        cgroup = self._inside(Path(hold.cgroup))
        if not cgroup.exists():
            return
        with _failing(f"cannot thaw process {hold.tgid}"):
            if hold.origin:
                self._scatter(cgroup, Path(hold.origin))
            _write(cgroup / "cgroup.freeze", "0")
            if hold.origin:
                cgroup.rmdir()

    def kill_held(self, hold: Hold) -> None:
        """End everything in a held cgroup, guarded processes excepted, and leave no hold behind."""
        cgroup = self._inside(Path(hold.cgroup))
        if not cgroup.exists():
            return
        with _failing(f"cannot end what is held with process {hold.tgid}"):
            spared = self.guarded & members(cgroup)
            if spared:
                self._kill_each(cgroup)
            else:
                _write(cgroup / "cgroup.kill", "1")
                if not _reaches(cgroup, b"populated 0"):
                    raise ActionFailed(f"{str(cgroup)!r} was killed, and is not empty after {WAIT_S:g} s")
            self.thaw(hold)

    def kill(self, tgid: int, boot_ns: int) -> None:
        """End one process and wait for its end; ActionFailed when it is not ours to end, or is gone."""
        with self._claimed(tgid, boot_ns) as pidfd:
            self._cgroup(tgid)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            if not _ended(pidfd, WAIT_S):
                raise ActionFailed(f"process {tgid} got SIGKILL but has not ended after {WAIT_S:g} s")

    @contextmanager
    def _claimed(self, tgid: int, boot_ns: int) -> Iterator[int]:
        """Yield a pidfd of the process that an event at `boot_ns` named, and of no other."""
        if tgid in self.guarded:
            raise ActionFailed(f"process {tgid} is guarded: nothing acts on it")
        try:
            pidfd = os.pidfd_open(tgid)
        except OSError:
            raise ActionFailed(f"process {tgid} has ended already") from None
        try:
            found = task(tgid)
            if found is None or _ended(pidfd, 0):
                raise ActionFailed(f"process {tgid} has ended already")
            if found.start_ns > boot_ns:
                raise ActionFailed(f"process {tgid} is another program by now: it started after the event")
            yield pidfd
        finally:
            os.close(pidfd)

    def _cgroup(self, tgid: int) -> Path:
        """Return the cgroup directory of a process; ActionFailed when it lies outside of the scope."""
        name = cgroup_of(tgid)
        if name is None or ".." in Path(name).parts:
            raise ActionFailed(f"process {tgid} has no cgroup that this agent can see: {name!r}")
        return self._inside(self._mount / name.lstrip("/"))

    def _inside(self, cgroup: Path) -> Path:
        if not cgroup.is_relative_to(self._scope) or ".." in cgroup.parts:
            raise ActionFailed(f"cgroup {str(cgroup)!r} is outside of the scope {str(self._scope)!r}")
        return cgroup

    def _refuse_guarded(self, cgroup: Path) -> None:
        inside = self.guarded & members(cgroup)
        if inside:
            raise ActionFailed(f"cgroup {str(cgroup)!r} holds guarded processes {sorted(inside)}: it is not frozen")

    def _gather(self, hold: Hold, cgroup: Path) -> None:
        """Move the process and its descendants into the frozen `cgroup`; what is frozen has no more children."""
        if self._cgroup(hold.tgid) != cgroup:
            with self._claimed(hold.tgid, hold.boot_ns) as pidfd:
                _write(cgroup / "cgroup.procs", str(hold.tgid))
                if _ended(pidfd, 0):  # its number may have been another's when it was written
                    self._scatter(cgroup, Path(hold.origin))
                    raise ActionFailed(f"process {hold.tgid} ended before it could be held")
        for _pass in range(_PASSES):
            outside = [child for child in descendants(hold.tgid) if self._may_follow(child, cgroup)]
            if not outside:
                return
            for child in outside:
                with suppress(ProcessLookupError):
                    _write(cgroup / "cgroup.procs", str(child))

    def _may_follow(self, tgid: int, cgroup: Path) -> bool:
        name = cgroup_of(tgid)
        if name is None or tgid in self.guarded:
            return False
        own = self._mount / name.lstrip("/")
        return own != cgroup and own.is_relative_to(self._scope) and not _is_zombie(tgid)

    def _scatter(self, cgroup: Path, origin: Path) -> None:
        """Move everything back while it is still frozen, so that nothing is born meanwhile."""
        home = origin if origin.exists() else self._scope
        for tgid in members(cgroup):
            with suppress(ProcessLookupError):
                _write(self._inside(home) / "cgroup.procs", str(tgid))

    def _kill_each(self, cgroup: Path) -> None:
        for tgid in members(cgroup) - self.guarded:
            with suppress(ProcessLookupError):
                os.kill(tgid, signal.SIGKILL)


def members(cgroup: Path) -> frozenset[int]:
    """Return the processes in `cgroup` and below it."""
    found: set[int] = set()
    for directory, _below, _files in os.walk(cgroup):
        with suppress(OSError):  # removed meanwhile, or a threaded cgroup
            found.update(int(line) for line in Path(directory, "cgroup.procs").read_text().split())
    return frozenset(found)


def _reaches(cgroup: Path, state: bytes) -> bool:
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


def _ended(pidfd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _is_zombie(tgid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{tgid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    return True


def _write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)


@contextmanager
def _failing(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "; it has ended" if error.errno == errno.ESRCH else ""
        raise ActionFailed(f"{what}: {error}{hint}") from None
