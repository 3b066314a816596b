# SPDX-License-Identifier: Apache-2.0
"""Has a family of processes stand still at once, for the moment until what the policy says is done with it.

Journey: protecting -> [stopping] -> process.

A cgroup is frozen after it was written down, which takes a disk's time; a program that encrypts files goes through a
hundred of them meanwhile. SIGSTOP through a pidfd takes microseconds, is taken back by SIGCONT, and refuses what
freezing refuses. An agent that is killed in between leaves a stopped family: the intent to stop it is written, though
not synced, before; the next agent finds it. Whom the brake stopped (`brake`) is adopted.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.processes.process import Processes
from mamplus_host.executor.processes.tasks import boot_id, descendants, task

_PASSES = 4  # over a family that may grow until all of it stands still


class _Stopped(msgspec.Struct, frozen=True):
    """What the file says: who stands still because of us."""

    boot_id: str
    tgids: dict[int, int]  # -> start, as tasks.Task has it


class Stopper:
    """The processes that stand still because of us."""

    def __init__(self, state: Path, processes: Processes, waits: Callable[[int], bool] = lambda _tgid: False) -> None:
        """`waits`: whether a process has started a program that waits for its hash."""
        self._path, self._processes, self._waits = state / "stopped.json", processes, waits
        self._stopped: dict[int, int] = {}
        self._file = -1  # open once it was needed: to open it again takes as long as a hundred writes
        self._size = 0  # bytes in it

    @property
    def stopped(self) -> frozenset[int]:
        """The processes that stand still because of us."""
        return frozenset(self._stopped)

    def stop(self, tgid: int, boot_ns: int) -> int:
        """Stop a process and all that it started; return how many stand still. ActionFailed when it may not be.

        Who waits for a hash stands still already, and the kernel ends whoever else than the responder signals it.
        """
        processes, is_known = self._processes, tgid in self._stopped
        self._remember(tgid)
        try:
            if not self._waits(tgid):
                processes.stop(tgid, boot_ns)
        except ActionFailed:
            if not is_known:  # whom the brake stopped is let go by `go_on`
                self._stopped.pop(tgid, None)
                self._note()
            raise
        for _pass in range(_PASSES):
            fresh = [
                one for one in descendants(tgid) if one not in self._stopped and self._stop(processes, one, boot_ns)
            ]
            if not fresh:
                break
        return len(self._stopped)

    def adopt(self, stopped: dict[int, int]) -> None:
        """Take over whom the brake stopped: tgid -> start, as tasks.Task has it."""
        self._stopped |= stopped
        self._note()

    def go_on(self, *, but: frozenset[int] = frozenset()) -> None:
        """Let everything go on that stands still because of us: what is frozen by now stays where it is.

        Who waits for a hash is the responder's to let go on, likewise.
        """
        going = {tgid: start_ns for tgid, start_ns in self._stopped.items() if tgid not in but}
        if not going:
            return
        for tgid, start_ns in going.items():
            found = task(tgid)
            if found is not None and found.start_ns == start_ns and not self._waits(tgid):
                with suppress(OSError):
                    pidfd = os.pidfd_open(tgid)
                    try:
                        signal.pidfd_send_signal(pidfd, signal.SIGCONT)
                    finally:
                        os.close(pidfd)
        self._stopped = {tgid: self._stopped[tgid] for tgid in self._stopped if tgid in but}
        self._note()

    def recover(self) -> None:
        """Let go on what an agent before us had stopped: it did not live to say what is to be done with it."""
        with suppress(OSError, msgspec.MsgspecError):
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Stopped)
            if kept.boot_id == boot_id():
                self._stopped = dict(kept.tgids)
        self.go_on()

    def _stop(self, processes: Processes, tgid: int, boot_ns: int) -> bool:
        """Stop one of the family; say whether it was stopped. It may be younger than the event."""
        found = task(tgid)
        if found is None or self._waits(tgid):
            return False
        self._remember(tgid)
        with suppress(ActionFailed):
            processes.stop(tgid, max(boot_ns, found.start_ns))
            return True
        self._stopped.pop(tgid, None)
        return False

    def _remember(self, tgid: int) -> None:
        found = task(tgid)
        if found is not None:
            self._stopped[tgid] = found.start_ns
            self._note()

    def _note(self) -> None:
        """Write down who is being stopped: not synced, for a power cut ends them anyway."""
        data = msgspec.json.encode(_Stopped(boot_id(), self._stopped)).ljust(self._size)  # over all that was there
        with suppress(OSError):
            if self._file < 0:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            self._size = os.pwrite(self._file, data, 0)
