# SPDX-License-Identifier: Apache-2.0
"""The time in which changes to protected files are an administrator's: `state/vault-window.json`.

Journey: command line, hooks of the package manager -> [vault/window] -> protecting.

Root opens it, for a while (CLOCK_BOOTTIME, so suspend counts; it ends with the boot), and it outlives a restart of
the agent. What somebody else who is root can do with it is no more than what root can do with `mamplus protect`: it
is journalled, told to the enterprise, and what stood there before stays as a version.
"""

from pathlib import Path

import msgspec

from mamplus_host.clock import Clock
from mamplus_host.errors import NotPossible
from mamplus_host.files import write_whole

MAX_MINUTES = 24 * 60
BY_PERSON, BY_MANAGER = "administrator", "package manager"
_NS = 1_000_000_000


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """One window."""

    until_ns: int
    boot_id: str
    by: str  # BY_PERSON or BY_MANAGER


class VaultWindow:
    """The windows as the file has them: a person's, and the package manager's."""

    def __init__(self, state: Path, clock: Clock, boot_id: str) -> None:
        self._path, self._clock, self._boot_id = state / "vault-window.json", clock, boot_id
        self._open = [one for one in _read(self._path) if one.boot_id == boot_id]

    def open(self, minutes: float, by: str) -> None:
        """Open the window for so long from now; one that is open longer stays so. NotPossible: too long."""
        if not 0 < minutes <= MAX_MINUTES:
            raise NotPossible(f"a window of {minutes:g} minutes; want more than 0, and at most {MAX_MINUTES}")
        until_ns = self._clock.boot_ns() + int(minutes * 60) * _NS
        others = [one for one in self._open if one.by != by]
        until_ns = max([until_ns, *(one.until_ns for one in self._open if one.by == by)])
        self._write([*others, Opened(until_ns=until_ns, boot_id=self._boot_id, by=by)])

    def close(self, by: str) -> bool:
        """Close what `by` opened; return whether it was open."""
        was_open = any(one.by == by and one.until_ns > self._clock.boot_ns() for one in self._open)
        self._write([one for one in self._open if one.by != by])
        return was_open

    def is_open(self) -> bool:
        return self.left_s() > 0

    def left_s(self) -> float:
        """Return for how long it is open yet; 0: it is not."""
        now = self._clock.boot_ns()
        return max([0.0, *((one.until_ns - now) / _NS for one in self._open)])

    def opened_by(self) -> list[str]:
        now = self._clock.boot_ns()
        return [one.by for one in self._open if one.until_ns > now]

    def _write(self, opened: list[Opened]) -> None:
        write_whole(self._path, msgspec.json.encode(opened))
        self._open = opened


def _read(path: Path) -> list[Opened]:
    """Return what is kept; a damaged file is as good as none: no window is open."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Opened])
    except (OSError, msgspec.MsgspecError):
        return []
