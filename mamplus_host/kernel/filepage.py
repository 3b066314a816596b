# SPDX-License-Identifier: Apache-2.0
"""The page of words that lsm_files.bpf.c reads its rules from, and who may write the agent's own state by it.

Journey: fileguards, service, control -> [filepage] -> map `file_rules`.
"""

import contextlib
import mmap
import os
import re
from pathlib import Path
from struct import calcsize

from mamplus_host.config import Config
from mamplus_host.errors import KernelRefused, NotPossible
from mamplus_host.kernel import layout, pins
from mamplus_host.kernel.bpf import Fd


def _places() -> dict[str, tuple[int, int]]:
    """Return field -> (offset, size) of struct mamplus_file_rules."""
    codes = re.findall(r"\d*[a-zA-Z]", layout.FILE_RULES.format)
    ends = [calcsize("=" + "".join(codes[: index + 1])) for index in range(len(codes))]
    return {
        name: (end - calcsize("=" + code), calcsize("=" + code))
        for name, code, end in zip(layout.FILE_RULES_FIELDS, codes, ends, strict=True)
    }


_PLACES = _places()


class RulesPage:
    """The one element of `file_rules`, mapped: words are written whole."""

    def __init__(self, directory: Path) -> None:
        with Fd.open(directory / "file_rules") as descriptor:
            size = -(-layout.FILE_RULES.size // mmap.PAGESIZE) * mmap.PAGESIZE
            self._memory = mmap.mmap(descriptor.number, size)
        view = memoryview(self._memory)
        self._words, self._halves = view.cast("Q"), view.cast("I")

    def get(self, name: str) -> int:
        at, size = self._place(name)
        return int(self._words[at // 8] if size == 8 else self._halves[at // 4])

    def set(self, name: str, value: int) -> None:
        at, size = self._place(name)
        if size == 8:
            self._words[at // 8] = value
        else:
            self._halves[at // 4] = value

    def words(self, name: str) -> list[int]:
        at, size = self._place(name)
        return list(self._words[at // 8 : (at + size) // 8])

    def set_words(self, name: str, values: list[int]) -> None:
        at, _size = self._place(name)
        for number, value in enumerate(values, at // 8):
            if self._words[number] != value:
                self._words[number] = value

    def close(self) -> None:
        self._words.release()
        self._halves.release()
        with contextlib.suppress(BufferError):
            self._memory.close()

    def _place(self, name: str) -> tuple[int, int]:
        return _PLACES[name]


def admit(config: Config, *, guest: int = 0) -> int:
    """Let this process write the agent's own state, in every set of pins; return how many sets there are.

    The agent does so before it touches its state. `guest`: instead, a command that runs beside it, by its pid.
    """
    who = ("guest_tgid", "guest_start") if guest else ("agent_tgid", "agent_start")
    pid = guest or os.getpid()
    start, count = _start_of(pid), 0
    for directory in pins.directories(config):
        if (directory / "file_rules").exists():
            with contextlib.suppress(KernelRefused, OSError):
                page = RulesPage(directory)
                page.set(who[1], start)
                page.set(who[0], pid)
                page.close()
                count += 1
    return count


def dismiss(config: Config) -> None:
    """The command that ran beside the agent has ended: nobody is a guest."""
    for directory in pins.directories(config):
        if (directory / "file_rules").exists():
            with contextlib.suppress(KernelRefused, OSError):
                page = RulesPage(directory)
                page.set("guest_tgid", 0)
                page.set("guest_start", 0)
                page.close()


def _start_of(pid: int) -> int:
    """Return when a process started, CLOCK_BOOTTIME in ticks: what /proc keeps of task_struct.start_boottime."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError as error:
        raise NotPossible(f"there is no process {pid}: {error.strerror}") from None
