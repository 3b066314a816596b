# SPDX-License-Identifier: Apache-2.0
"""A process that attacks: a fork of the runner that does one thing, in a cgroup, and descends from nobody of ours.

The runner holds the agent's kernel part, so it is the agent for whoever asks the kernel; and a descendant of
the agent may do to it what the agent may do itself. So an attacker's parent ends before the attack begins, and
somebody else, who waits for the attacker, tells the runner how it ended.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mamplus_host.errors import KernelRefused
from tests.attacks.outcome import Seen, Unexplained

DEADLINE_S = 120.0  # of one attack; thousands of starts take half a minute on an emulated machine
NO_EXIT = 99  # the exit code of one that raised what is no OSError

Deed = Callable[[], Any]  # what it does: an int that it returns is its exit code, an OSError what it saw


class Attacker:
    """One that runs. What is told of it are lines: "pid N", "errno N", "exit N"."""

    def __init__(self, report: int) -> None:
        self._report, self._text = report, b""
        self.pid = self._told("pid", DEADLINE_S)

    @classmethod
    def begin(cls, deed: Deed, cgroup: Path) -> "Attacker":
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        between = os.fork()
        if between == 0:
            own = os.getpid()
            if os.fork() == 0:
                _wait_for(deed, cgroup, write_end, own)
            os._exit(0)
        os.close(write_end)
        os.waitpid(between, 0)
        return cls(read_end)

    def wait(self) -> Seen:
        """Wait for its end, and return what it saw; Unexplained at the deadline, when it is killed."""
        try:
            code = self._told("exit", DEADLINE_S)
            return Seen(exit=code, errno=self._found("errno") or 0)
        except TimeoutError:
            self.kill()
            raise Unexplained(f"the attack did not end within {DEADLINE_S} s") from None

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._told("exit", DEADLINE_S)

    def close(self) -> None:
        os.close(self._report)

    def _told(self, word: str, within_s: float) -> int:
        """Return the number behind `word`; TimeoutError when nobody tells it."""
        end = time.monotonic() + within_s
        while (found := self._found(word)) is None:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._report], [], [], left)[0]:
                raise TimeoutError(word)
            more = os.read(self._report, 4096)
            if not more:
                raise Unexplained(f"who waited for the attacker ended before it told {word!r}")
            self._text += more
        return found

    def _found(self, word: str) -> int | None:
        for line in self._text.decode().splitlines(keepends=True):
            if line.startswith(f"{word} ") and line.endswith("\n"):
                return int(line.split()[1])
        return None


def _tell(report: int, word: str, number: int) -> None:
    os.write(report, f"{word} {number}\n".encode())


def _wait_for(deed: Deed, cgroup: Path, report: int, parent: int) -> None:
    """In the process that waits, once its parent is gone: never returns."""
    try:
        while os.getppid() == parent:
            os.sched_yield()
        pid = os.fork()
        if pid == 0:
            _do(deed, cgroup, report)
        _tell(report, "pid", pid)
        _tell(report, "exit", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    finally:
        os._exit(0)


def _do(deed: Deed, cgroup: Path, report: int) -> None:
    """In the attacker: never returns."""
    code = NO_EXIT
    try:
        (cgroup / "cgroup.procs").write_text("0")
        result = deed()
        code = result if isinstance(result, int) else 0
    except (OSError, KernelRefused) as error:
        _tell(report, "errno", error.errno or 0)
        code = 1
    finally:
        os._exit(code)


def become(program: Path | str | bytes, vector: list[bytes], variables: dict[str, str]) -> None:
    """execve(2); what the program complains of is not shown."""
    os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
    os.execve(program, vector, variables)
