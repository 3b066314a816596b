# SPDX-License-Identifier: Apache-2.0
"""Tells which protected files were touched, and by whom where the kernel says so.

Journey: kernel -> [files] -> FileChange -> analyzer.

Two tiers behind one interface: fanotify names the process, inotify is there where fanotify
is not. Both watch directories, so a file may vanish, be replaced and come back. Our own
writes are left out where the tier can tell. A queue that overflowed is counted in `lost`,
and every watched file is then reported once, for whoever decides to look at it.

This module does not say whether a touched file is still as it should be.
"""

import time
from collections.abc import Iterable
from typing import Protocol

from mamplus_host.collector.files_fanotify import FanotifyTier
from mamplus_host.collector.files_inotify import InotifyTier
from mamplus_host.events import FileChange

OVERFLOW = "overflow"  # of `changes`: nothing was seen, something may have been missed
ALL_CHANGES = ("modify", "attrib", "close-write", "moved-away", "moved-over", "created", "delete", OVERFLOW)

Touch = tuple[str, str, int]  # path, one of ALL_CHANGES, tgid (0: unknown)


class Tier(Protocol):
    """A way to learn of touches to files in watched directories."""

    name: str

    def fileno(self) -> int:
        """Return a descriptor that is readable when `read` has something."""

    def watch(self, path: str) -> None:
        """Watch the file at `path`, also when it is not there; OSError when its directory cannot be watched."""

    def forget(self, path: str) -> None:
        """Tell no more of `path`."""

    def read(self) -> tuple[list[Touch], bool]:
        """Return what happened since the last call, in order, and whether the queue overflowed; never waits."""

    def close(self) -> None:
        """Give everything back."""


class FileWatch:
    """Protected files under watch."""

    def __init__(self, tier: Tier) -> None:
        self._tier = tier
        self._paths: dict[str, None] = {}
        self.lost = 0  # times that the kernel's queue overflowed
        self._errors: dict[str, OSError] = {}  # path -> why it cannot be watched

    @classmethod
    def open(cls, paths: Iterable[str]) -> "FileWatch":
        """Watch `paths` in the best tier that this kernel and their file systems give; see `tier`."""
        wanted = list(paths)
        for make in (FanotifyTier, InotifyTier):
            try:
                watch = cls(make())
            except OSError:
                continue
            watch.add_all(wanted)
            if make is InotifyTier or not watch.refused:
                return watch
            watch.close()
        raise OSError("neither fanotify nor inotify can be had")

    @property
    def tier(self) -> str:
        return self._tier.name

    @property
    def unwatched(self) -> dict[str, str]:
        """Return the paths that are not watched, and why."""
        return {path: str(error) for path, error in self._errors.items()}

    @property
    def refused(self) -> bool:
        """Say whether some path is there and cannot be watched in this tier."""
        return any(not isinstance(error, FileNotFoundError) for error in self._errors.values())

    def fileno(self) -> int:
        return self._tier.fileno()

    def add(self, path: str) -> None:
        """Watch `path` too. Call it again after a restoration: file and directory may be new ones.

        OSError when it cannot be watched; `unwatched` then names it.
        """
        self._paths[path] = None
        try:
            self._tier.watch(path)
        except OSError as error:
            self._errors[path] = error
            raise
        self._errors.pop(path, None)

    def add_all(self, paths: Iterable[str]) -> None:
        """Watch `paths`; those that cannot be are in `unwatched`."""
        for path in paths:
            try:
                self.add(path)
            except OSError:
                continue

    def remove(self, path: str) -> None:
        self._paths.pop(path, None)
        self._errors.pop(path, None)
        self._tier.forget(path)

    def read(self) -> list[FileChange]:
        """Return one change per touched file and process since the last call; never waits."""
        touches, overflowed = self._tier.read()
        if overflowed:
            self.lost += 1
            touches += [(path, OVERFLOW, 0) for path in self._paths]
        merged: dict[tuple[str, int], list[str]] = {}
        for path, change, tgid in touches:
            changes = merged.setdefault((path, tgid), [])
            if path in self._paths and change not in changes:
                changes.append(change)
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return [
            FileChange(boot_ns=now, path=path, changes=tuple(changes), tgid=tgid)
            for (path, tgid), changes in merged.items()
            if changes
        ]

    def close(self) -> None:
        self._tier.close()
