# SPDX-License-Identifier: Apache-2.0
"""Stop, let go and end processes, inside the scope cgroup and nowhere else.

Journey: actions/freeze, actions/kill* -> [process] -> kernel.

A process is frozen with the cgroup it lives in when that is the app's own, a cgroup below
the scope. When others live there (the scope itself, or a guarded process is inside), it is
moved with its descendants into a child cgroup, `mamplus-hold-...`, that is frozen before
anything enters. Guarded processes, pid 0, pid 1 and everything outside of the scope are
refused with ActionFailed, as is a process id that another program has got meanwhile.

This module keeps no memory: what is in force is written down (`inforce.py`) before it is done.
"""

import errno
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from mamplus_host.config import CGROUP2_MOUNTS, Config, cgroup_dir
from mamplus_host.errors import ActionFailed
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.processes import cgroups
from mamplus_host.executor.processes.tasks import cgroup_of, descendants, task
from mamplus_host.executor.steps import step

HOLD_PREFIX = "mamplus-hold-"
_PASSES = 8  # over a family that may grow while it is moved


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Where a process is held, or will be."""

    cgroup: str  # directory that is frozen
    origin: str = ""  # directory to move back to; "" when the app's own cgroup is frozen in place
    tgid: int
    boot_ns: int  # of the event that named the process


class Victim(msgspec.Struct, frozen=True):
    """One process, told apart from a later one with its number."""

    tgid: int
    start_ns: int  # as tasks.Task has it


class _Claim(msgspec.Struct, frozen=True):
    """A process that something may be done to, as long as `pidfd` is open."""

    pidfd: int
    start_ns: int  # as tasks.Task has it
    cgroup: Path


class Processes:
    """The processes below `scope` that may be acted on: all but `guarded`."""

    def __init__(self, scope: Path, mount: Path, guarded: GuardSet) -> None:
        """`scope`: directory of the scope cgroup, below the cgroup v2 mount at `mount`."""
        self._scope, self._mount, self._guarded = scope, mount, guarded

    @classmethod
    def of(cls, config: Config, guarded: GuardSet) -> "Processes":
        """Return those of the configured scope; ConfigInvalid when it has no cgroup."""
        scope = cgroup_dir(config)
        return cls(scope, next(Path(one) for one in CGROUP2_MOUNTS if scope.is_relative_to(one)), guarded)

    def where(self, tgid: int, boot_ns: int, hold_id: str) -> Hold:
        """Return where `tgid` would be held; nothing is done yet. Raises ActionFailed when it may not be."""
        with self._claimed(tgid, boot_ns) as claim:
            own = claim.cgroup
            if own == self._scope or self._guarded.among(cgroups.members(own)):
                return Hold(cgroup=str(own / f"{HOLD_PREFIX}{hold_id}"), origin=str(own), tgid=tgid, boot_ns=boot_ns)
            return Hold(cgroup=str(own), tgid=tgid, boot_ns=boot_ns)

    def freeze(self, hold: Hold) -> bool:
        """Freeze; return whether every task stands still within cgroups.WAIT_S. May be repeated. Raises ActionFailed.

        A task that waits in the kernel (for a disk, say) stands still before it runs its next instruction.
        """
        cgroup = self._inside(Path(hold.cgroup))
        with _failing(f"cannot freeze process {hold.tgid}"):
            if not hold.origin:
                self._refuse_guarded(cgroup)
                step("freeze: in place")
                cgroups.write(cgroup / "cgroup.freeze", "1")
            else:
                step("freeze: make the hold")
                cgroup.mkdir(exist_ok=True)
                step("freeze: freeze the hold")
                cgroups.write(cgroup / "cgroup.freeze", "1")
                step("freeze: gather")
                self._gather(hold, cgroup)
            step("freeze: frozen")
            return cgroups.reaches(cgroup, b"frozen 1")

    def thaw(self, hold: Hold) -> None:
        """Let go on; may be repeated. A held family moves back, and the child cgroup is removed."""
        cgroup = self._inside(Path(hold.cgroup))
        if not cgroup.exists():
            return
        with _failing(f"cannot thaw process {hold.tgid}"):
            if hold.origin:
                step("thaw: scatter")
                self._scatter(cgroup, Path(hold.origin))
            step("thaw: let go")
            cgroups.write(cgroup / "cgroup.freeze", "0")
            if hold.origin:
                step("thaw: remove the hold")
                cgroups.remove(cgroup)

    def is_held(self, hold: Hold) -> bool | None:
        """Say whether what is held stands still; None: the cgroup is there and neither held nor let go."""
        cgroup = self._inside(Path(hold.cgroup))
        try:
            frozen = (cgroup / "cgroup.freeze").read_text().strip() == "1"
        except OSError:
            return False
        if not hold.origin:
            return frozen
        return True if frozen and cgroups.members(cgroup) else None

    def kill_held(self, hold: Hold) -> None:
        """End everything in a held cgroup, guarded processes excepted, and leave no hold behind."""
        cgroup = self._inside(Path(hold.cgroup))
        if not cgroup.exists():
            return
        with _failing(f"cannot end what is held with process {hold.tgid}"):
            spared = self._guarded.among(cgroups.members(cgroup))
            step("kill: what is held")
            if spared:
                self._kill_each(cgroup, spared)
            else:
                cgroups.kill_all(cgroup)
            self.thaw(hold)

    def look(self, tgid: int, boot_ns: int) -> Victim:
        """Return the process that an event at `boot_ns` named; ActionFailed: gone, or nothing may act on it."""
        with self._claimed(tgid, boot_ns) as claim:
            return Victim(tgid, claim.start_ns)

    def kill(self, tgid: int, boot_ns: int) -> None:
        """End one process and wait for its end; ActionFailed when it is not ours to end, or is gone."""
        self.end(self.look(tgid, boot_ns))

    def end(self, victim: Victim) -> None:
        """End a process and wait for its end; one that has ended is fine. ActionFailed when it is not ours to end."""
        pidfd = _pidfd_of(victim)
        if pidfd is None:
            return
        try:
            self._cgroup(victim.tgid)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            if not _ended(pidfd, cgroups.WAIT_S):
                raise ActionFailed(f"process {victim.tgid} got SIGKILL but has not ended after {cgroups.WAIT_S:g} s")
        except (ActionFailed, ProcessLookupError):
            if not _ended(pidfd, 0):  # else it ended while we looked: /proc had nothing of it any more
                raise
        finally:
            os.close(pidfd)

    def send_end(self, victim: Victim) -> int:
        """Have a process that was just looked at end, without waiting for that; one that has ended is left alone.

        Returns a descriptor that is readable once it has ended, to be closed; -1: there is nothing to wait for.
        """
        pidfd = _pidfd_of(victim)
        if pidfd is None:
            return -1
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except OSError:
            os.close(pidfd)
            return -1
        return pidfd

    def family(self, root: Victim) -> list[Victim]:
        """Return what `root` started, as far as its ancestry still shows it and it may be acted on; parents first."""
        found = [task(tgid) for tgid in descendants(root.tgid) if not self._is_spared(tgid)]
        return [Victim(one.tgid, one.start_ns) for one in found if one is not None]

    def end_family(self, root: Victim, known: list[Victim]) -> int:
        """End a process and all that it started, `known` (seen before) included; return how many were ended.

        They are stopped first, so that nothing is born meanwhile, and end from the leaves: as long as the root
        is there, its descendants can be found again.
        """
        for _pass in range(_PASSES):
            fresh = [one for one in (root, *self.family(root)) if self._stop(one)]
            if not fresh:
                break
        step("kill-tree: stopped")
        family = dict.fromkeys([*known, *self.family(root)])
        ended = 0
        for one in (*reversed(family), root):
            if is_alive(one) and not self._is_spared(one.tgid):
                self.end(one)
                ended += 1
                step("kill-tree: one ended")
        return ended

    def _stop(self, victim: Victim) -> bool:
        """Stop one process; say whether it ran until now."""
        pidfd = _pidfd_of(victim)
        if pidfd is None:
            return False
        try:
            if self._is_spared(victim.tgid) or _state(victim.tgid) in (b"T", b"t"):
                return False
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)

    def _is_spared(self, tgid: int) -> bool:
        try:
            self._cgroup(tgid)
        except ActionFailed:
            return True
        return False

    def app(self, tgid: int, boot_ns: int) -> Path:
        """Return the cgroup of the app that a process belongs to; ActionFailed when it has none of its own."""
        with self._claimed(tgid, boot_ns) as claim:
            own = claim.cgroup
        if own == self._scope:
            raise ActionFailed(f"process {tgid} lives in the scope itself, not in a cgroup of its app; kill its tree")
        self._refuse_guarded(own)
        return own

    def start_of(self, tgid: int, boot_ns: int) -> int:
        """Return when a process that may be acted on began, as tasks.Task has it; ActionFailed when it may not."""
        return self.look(tgid, boot_ns).start_ns

    def kill_app(self, cgroup: Path) -> None:
        """End everything in a cgroup below the scope; ActionFailed when something guarded is in it."""
        inside = self._inside(cgroup)
        with _failing(f"cannot end what is in {str(cgroup)!r}"):
            if inside.exists():
                self._refuse_guarded(inside)
                step("kill-cgroup: kill")
                cgroups.kill_all(inside)

    def is_ours(self, tgid: int) -> bool:
        """Say whether a process may be acted on: it is there, in the scope, and not guarded."""
        return not self._is_spared(tgid)

    def stop(self, tgid: int, boot_ns: int) -> None:
        """Have one process stand still at once (SIGSTOP); ActionFailed when it is not ours to stop, or is gone."""
        with self._claimed(tgid, boot_ns) as claim:
            signal.pidfd_send_signal(claim.pidfd, signal.SIGSTOP)

    @contextmanager
    def _claimed(self, tgid: int, boot_ns: int) -> Iterator[_Claim]:
        """Yield the process that an event at `boot_ns` named, and no other; ActionFailed when nothing may act on it."""
        try:
            pidfd = os.pidfd_open(tgid)
        except OSError:
            self._guarded.refuse_process(tgid)  # 0, say
            raise ActionFailed(f"process {tgid} has ended already") from None
        try:
            found = task(tgid)
            cgroup = self._cgroup(tgid) if found is not None else self._scope
            if found is None or _ended(pidfd, 0):
                raise ActionFailed(f"process {tgid} has ended already")
            if found.start_ns > boot_ns:
                raise ActionFailed(f"process {tgid} is another program by now: it started after the event")
            yield _Claim(pidfd, found.start_ns, cgroup)
        finally:
            os.close(pidfd)

    def _cgroup(self, tgid: int) -> Path:
        """Return the cgroup directory of a process; ActionFailed: it lies outside of the scope, or is guarded."""
        name = cgroup_of(tgid)
        self._guarded.refuse_process(tgid, name)
        return self._directory(tgid, name)

    def _directory(self, tgid: int, name: str | None) -> Path:
        if name is None:
            raise ActionFailed(f"process {tgid} has no cgroup that this agent can see: {name!r}")
        return self._inside(Path(f"{self._mount}{name}"))

    def _inside(self, cgroup: Path) -> Path:
        """Return `cgroup`; ActionFailed when it is not in the scope. As text: this is asked for every action."""
        text, scope = str(cgroup), str(self._scope)
        if (text != scope and not text.startswith(f"{scope}/")) or "/../" in f"{text}/":
            raise ActionFailed(f"cgroup {text!r} is outside of the scope {scope!r}")
        return cgroup

    def _refuse_guarded(self, cgroup: Path) -> None:
        inside = self._guarded.among(cgroups.members(cgroup))
        if inside:
            raise ActionFailed(f"cgroup {str(cgroup)!r} holds guarded processes {sorted(inside)}: it is left alone")

    def _gather(self, hold: Hold, cgroup: Path) -> None:
        """Move the process and its descendants into the frozen `cgroup`; what is frozen has no more children."""
        if self._directory(hold.tgid, cgroup_of(hold.tgid)) != cgroup:
            with self._claimed(hold.tgid, hold.boot_ns) as claim:
                cgroups.write(cgroup / "cgroup.procs", str(hold.tgid))
                if _ended(claim.pidfd, 0):  # its number may have been another's when it was written
                    self._scatter(cgroup, Path(hold.origin))
                    raise ActionFailed(f"process {hold.tgid} ended before it could be held")
        for _pass in range(_PASSES):
            outside = [child for child in descendants(hold.tgid) if self._may_follow(child, cgroup)]
            if not outside:
                return
            for child in outside:
                with suppress(ProcessLookupError):
                    cgroups.write(cgroup / "cgroup.procs", str(child))

    def _may_follow(self, tgid: int, cgroup: Path) -> bool:
        name = cgroup_of(tgid)
        if name is None or self._guarded.why_process(tgid, name):
            return False
        own = self._mount / name.lstrip("/")
        return own != cgroup and own.is_relative_to(self._scope) and not _is_zombie(tgid)

    def _scatter(self, cgroup: Path, origin: Path) -> None:
        """Move everything back while it is still frozen, so that nothing is born meanwhile."""
        home = origin if origin.exists() else self._scope
        for tgid in cgroups.members(cgroup):
            with suppress(ProcessLookupError):
                cgroups.write(self._inside(home) / "cgroup.procs", str(tgid))

    def _kill_each(self, cgroup: Path, spared: frozenset[int]) -> None:
        for tgid in cgroups.members(cgroup) - spared:
            with suppress(ProcessLookupError):
                os.kill(tgid, signal.SIGKILL)


def _ended(pidfd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def is_alive(victim: Victim) -> bool:
    """Say whether a process has not ended yet; one with its number that began at another time is another."""
    found = task(victim.tgid)
    return found is not None and found.start_ns == victim.start_ns and not _is_zombie(victim.tgid)


def _pidfd_of(victim: Victim) -> int | None:
    """Return a pidfd of that very process, to be closed; None when it has ended."""
    try:
        pidfd = os.pidfd_open(victim.tgid)
    except OSError:
        return None
    found = task(victim.tgid)
    if found is None or found.start_ns != victim.start_ns or _ended(pidfd, 0):
        os.close(pidfd)
        return None
    return pidfd


def _is_zombie(tgid: int) -> bool:
    return _state(tgid) in (b"Z", b"X", b"")


def _state(tgid: int) -> bytes:
    """Return the letter that /proc shows for a process's state; empty when it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{tgid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    return b""


@contextmanager
def _failing(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "; it has ended" if error.errno == errno.ESRCH else ""
        raise ActionFailed(f"{what}: {error}{hint}") from None
