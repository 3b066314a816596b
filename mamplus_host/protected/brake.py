# SPDX-License-Identifier: Apache-2.0
"""Stops who changes many protected files while he is at it: threads in C that run before he does.

Journey: protecting -> [brake] -> kernel; whom it stopped, protecting judges.

What is counted and why nobody is ahead of it: kernel_probes/native/brake.c. Whoever is stopped is written to a file
before, so the next agent finds whom a dead one had stopped. Where the kernel grants no real-time priority there is no
brake: `why_not` says so, and the loop stops whoever it finds, as soon as it gets there.
"""

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from struct import Struct
from typing import Any

import msgspec

from mamplus_host.config import Config
from mamplus_host.kernel._native import ffi, lib

_ENTRY = Struct("=QQ")  # struct mamplus_braked
_NS = 1_000_000_000


class Spared(msgspec.Struct, frozen=True, kw_only=True):
    """Who is never stopped; see struct mamplus_spared."""

    scope: str
    tgids: frozenset[int]
    units: tuple[str, ...]
    programs: tuple[str, ...]
    managers: tuple[str, ...]


class Brake:
    """The brake of one agent. It stops nobody before `refresh` and `turn`."""

    def __init__(self, kept: Path, *, files: int, window_s: float, spared: Callable[[], Spared]) -> None:
        """`files` different protected ones by one family within `window_s` are too many. `kept`: the file.

        `spared` is asked with every `refresh`.
        """
        self._left_behind = _read(kept)  # by an agent that died
        self.why_not = ""
        self.uncounted = 0  # files whose changes could not be had counted
        self._spared_now = spared
        self._spared: Spared | None = None
        self._is_on = False
        self._told = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._kept = os.open(kept, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        error = ffi.new("int *")
        self._brake = lib.mamplus_brake_open(self._told, self._kept, files, int(window_s * _NS), error)
        if self._brake == ffi.NULL:
            self.why_not = f"no thread with a real-time priority can be had: {os.strerror(-error[0])}"

    def fileno(self) -> int:
        """Return a descriptor that is readable when somebody was stopped, until `hand_over`."""
        return self._told

    def count(self, path: str, counts: bool) -> None:
        """Count changes of the file that lies at `path` from now on, or no longer."""
        if self._brake != ffi.NULL:
            error = lib.mamplus_brake_mark(self._brake, os.fsencode(path), counts)
            self.uncounted += counts and error not in (0, -errno.ENOENT)

    def refresh(self) -> None:
        """Learn anew who is spared."""
        spared = self._spared_now()
        if self._brake != ffi.NULL and spared != self._spared and _say(self._brake, spared):
            self._spared = spared

    def turn(self, on: bool) -> None:
        """Stop whoever changes too many, or nobody."""
        if self._brake != ffi.NULL and on != self._is_on:
            lib.mamplus_brake_turn(self._brake, on)
            self._is_on = on

    def state(self) -> str:
        """Say whether it holds, for `status`."""
        return self.why_not or ("on" if self._is_on else "off: somebody answers for all changes, or nobody is stopped")

    def hand_over(self, adopt: Callable[[dict[int, int]], object]) -> None:
        """Call `adopt` with who was stopped since the last time: tgid -> start, as tasks.Task has it.

        From then on they are the caller's. The first time also those whom an agent before us had stopped.
        """
        if self._left_behind:
            adopt(self._left_behind)
            self._left_behind = {}
            os.ftruncate(self._kept, 0)
        try:
            os.eventfd_read(self._told)
        except BlockingIOError:  # mostly: and the threads are not to wait for us
            return
        found = ffi.new("struct mamplus_braked[]", lib.MAMPLUS_BRAKED_MAX)
        count = lib.mamplus_brake_taken(self._brake, found)
        if count:
            adopt({int(one.tgid): int(one.start_ns) for one in found[0:count]})
            lib.mamplus_brake_drop(self._brake, count)

    def close(self) -> None:
        """Stop nobody any more."""
        if self._brake != ffi.NULL:
            lib.mamplus_brake_close(self._brake)
            self._brake = ffi.NULL
        os.close(self._told)
        os.close(self._kept)


def of(config: Config, spared: Callable[[], Spared]) -> Brake:
    """Return the configured one.

    It leaves some room to whoever is found by the loop as it should be: that one judges whom the brake stops, and may
    have found a file of them unchanged.
    """
    most = config.vault.mass_files
    return Brake(
        config.run / "braked", files=most + most // 4 + 1, window_s=config.vault.mass_window_s, spared=spared
    )  # fmt: skip


def _say(brake: Any, spared: Spared) -> bool:
    """Say who is spared; False: no memory, as before."""
    texts = {
        "scope": os.fsencode(spared.scope),
        "units": _listed(spared.units),
        "programs": _listed(spared.programs),
        "managers": _listed(spared.managers),
        "tgids": _listed(map(str, spared.tgids)),
    }
    held = {name: ffi.new("char[]", text) for name, text in texts.items()}
    return not lib.mamplus_brake_spare(brake, ffi.new("struct mamplus_spared *", held))


def _listed(texts: Iterable[str]) -> bytes:
    """Return texts one after the other, as struct mamplus_spared has them; ffi adds the empty one at the end."""
    return b"".join(os.fsencode(text) + b"\0" for text in texts if text)


def _read(kept: Path) -> dict[int, int]:
    try:
        data = kept.read_bytes()
    except OSError:
        return {}
    whole = len(data) // _ENTRY.size * _ENTRY.size
    return {tgid: start_ns for tgid, start_ns in _ENTRY.iter_unpack(data[:whole]) if tgid}
