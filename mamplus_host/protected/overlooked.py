# SPDX-License-Identifier: Apache-2.0
"""What no event tells of protected files: mounts over them, paths without a watch, and what was missed.

Journey: protecting (tick) -> [overlooked] -> pipeline.

Whoever changes a watched file is in the watch's queue, though perhaps a moment after the file shows the change. So one
that is found changed counts as nobody's change only when it still is with the next look: the queue was read between.
"""

import os
from collections.abc import Callable, Iterable

from mamplus_host.clock import Clock
from mamplus_host.collector.files import OVERFLOW, FileWatch
from mamplus_host.collector.mounts import Mounts
from mamplus_host.events import FileChange
from mamplus_host.executor.vault.vault import Vault

_LOOKED_AT_ONCE = 200  # files
_NS = 1_000_000_000
_AGAIN_NS, _SELDOM_NS = 10 * _NS, 3600 * _NS  # until one that could not be put back is tried again: at first, at most


class Overlooked:
    """Looks around, a part with every tick."""

    def __init__(
        self, vault: Vault, files: FileWatch, clock: Clock, *, rewatch: Callable[[str], object],
        waits: Callable[[str], bool], told: Callable[[str, str], object],
    ) -> None:  # fmt: skip
        """`waits` says whether what lies at a path is about to be kept."""
        self._vault, self._files, self._clock = vault, files, clock
        self._rewatch, self._waits, self._told = rewatch, waits, told
        self._mounts, self._lies_on = Mounts(), dict[str, str]()
        self.covered: dict[str, str] = {}  # directory or file -> what lies over it; nothing is put back there
        self._again: dict[str, tuple[int, int]] = {}  # changed path -> when it is due again, and the wait after
        self._rest: list[str] = []

    def note_mounts(self, paths: Iterable[str], directories: Iterable[str]) -> None:
        """Remember on what protected paths, and trees' directories, lie now."""
        files, points = set(paths), set(self._mounts.points())
        for place in {os.path.dirname(path) for path in files} | set(directories) | (files & points):
            self._lies_on.setdefault(place, self._mounts.of(place))

    def is_covered(self, path: str) -> bool:
        """Say whether something is mounted over `path` by now."""
        self.look_at_mounts()
        return bool(self.covered) and (os.path.dirname(path) in self.covered or path in self.covered)

    def look_at_mounts(self) -> None:
        """Tell of a mount that covers a protected directory or file: what is there now is not what is protected."""
        if not self._mounts.look():
            return
        before = self.covered
        over_files = [
            one for one in self._mounts.points() if one not in self._lies_on and self._vault.is_protected(one)
        ]
        self.covered = {
            place: self._mounts.of(place)
            for place, lay_on in [*self._lies_on.items(), *((one, "") for one in over_files)]
            if self._mounts.of(place) != lay_on
        }
        for directory in [one for one in self.covered if one not in before]:
            if os.path.dirname(directory) in self.covered:
                continue  # told with the one above
            what = self.covered[directory]
            self._told(
                "vault-covered", f"protected {directory!r} lies on another mount now: {what}; nothing is put back"
            )
        for directory in [one for one in before if one not in self.covered]:
            self._rest = [*self._vault.paths(directory), *self._rest]

    def look(self) -> list[FileChange]:
        """Look at paths without a watch, at those found changed before, and at a few others: all of them in turn."""
        unwatched = [path for path in self._files.unwatched if self._vault.is_protected(path)]
        for path in unwatched:
            self._rewatch(path)
        if not self._rest:
            self._rest = self._vault.paths()
        some, self._rest = self._rest[:_LOOKED_AT_ONCE], self._rest[_LOOKED_AT_ONCE:]
        now = self._clock.boot_ns()
        due = [path for path, (at, _wait) in self._again.items() if at <= now]
        blind = frozenset(unwatched)
        return [
            FileChange(boot_ns=now, path=path, changes=(OVERFLOW,), tgid=0)
            for path in dict.fromkeys([*unwatched, *due, *some])
            if self._still_differs(path, now, is_watched=path not in blind)
        ]

    def _still_differs(self, path: str, now: int, *, is_watched: bool) -> bool:
        """Say whether a path is damaged for longer than an event takes; of one that stays so more and more seldom."""
        if self._vault.looks_intact(path) or not self._is_damaged(path):
            self._again.pop(path, None)
            return False
        due, wait = self._again.get(path, (0, 0))
        if now < due:
            return False
        if is_watched and not wait:
            self._again[path] = (now + 1, _AGAIN_NS)
            return False
        wait = wait or _AGAIN_NS
        self._again[path] = (now + wait, min(2 * wait, _SELDOM_NS))
        return True

    def _is_damaged(self, path: str) -> bool:
        if self.is_covered(path) or self._waits(path) or not self._vault.is_protected(path):
            return False
        return not self._vault.intact(path, quick=True)
