# SPDX-License-Identifier: Apache-2.0
"""Tells which protected files were touched, and by whom where the kernel says so.

Journey: kernel -> [files] -> FileChange -> analyzer.

Two tiers behind one interface: fanotify names the process, inotify is there where fanotify
is not. Both watch directories, so a file may vanish, be replaced and come back. Our own
writes are left out where the tier can tell. A queue that overflowed is counted in `lost`,
and every watched file is then reported once, for whoever decides to look at it. Of a tree every name is told, also
one that is new. Whoever changes many files goes on while the queue is read, so `at_once` is shown each batch of it.

This module does not say whether a touched file is still as it should be.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol

from mamplus_host.collector.files_fanotify import FanotifyTier
from mamplus_host.collector.files_inotify import InotifyTier
from mamplus_host.events import FileChange

OVERFLOW = "overflow"  # of `changes`: nothing was seen, something may have been missed
ALL_CHANGES = ("modify", "attrib", "close-write", "moved-away", "moved-over", "created", "delete", OVERFLOW)

MAX_BATCHES = 4096  # of the queue in one `read`: the loop has other work

Touch = tuple[str, str, int]  # path, one of ALL_CHANGES, tgid (0: unknown)


class Tier(Protocol):
    """A way to learn of touches to files in watched directories."""

    name: str

    def fileno(self) -> int:
        """Return a descriptor that is readable when `read` has something."""

    def watch(self, path: str) -> None:
        """Watch the file at `path`, also when it is not there; OSError when its directory cannot be watched."""

    def watch_all_in(self, directory: str) -> None:
        """Watch whatever comes into `directory`, too; OSError when it cannot be watched."""

    def forget(self, path: str) -> None:
        """Tell no more of `path`."""

    def read(self) -> tuple[list[Touch], bool] | None:
        """Return a batch of what happened, in order, and whether the queue overflowed; None: nothing. Never waits."""

    def close(self) -> None:
        """Give everything back."""


class FileWatch:
    """Protected files under watch."""

    def __init__(self, tier: Tier) -> None:
        self._tier = tier
        self._paths: dict[str, None] = {}
        self._open: dict[str, None] = {}  # directories of which every name is told
        self.at_once: Callable[[list[Touch]], object] = lambda _touches: None  # shown every batch before the next
        self.empty_ns = _boot_ns()  # when there was nothing to be read last, CLOCK_BOOTTIME
        self.lost = 0  # times that the kernel's queue overflowed
        self._errors: dict[str, OSError] = {}  # path -> why it cannot be watched

    @classmethod
    def open(
        cls, paths: Iterable[str], directories: Iterable[str] = (),
        count: Callable[[str, bool], object] = lambda _path, _counts: None,
    ) -> "FileWatch":  # fmt: skip
        """Watch `paths`, and every name in `directories`, in the best tier that kernel and file systems give.

        `count` is told of each file that is watched, or no longer, where the tier says who writes.
        """
        wanted, whole = list(paths), list(directories)
        makers: tuple[Callable[[], Tier], ...] = (partial(FanotifyTier, count), InotifyTier)
        for make in makers:
            try:
                watch = cls(make())
            except OSError:
                continue
            watch.add_all(wanted)
            watch.add_directories(whole)
            if make is InotifyTier or not watch.refused:
                return watch
            watch.close()
        raise OSError("neither fanotify nor inotify can be had")

    @property
    def tier(self) -> str:
        return self._tier.name

    @property
    def names_writers(self) -> bool:
        """Say whether changes come with the process that made them."""
        return self._tier.name == FanotifyTier.name

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

    def knows(self, path: str) -> bool:
        """Say whether `path` itself is watched, and not only told as a name in a directory."""
        return path in self._paths

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

    def add_directories(self, directories: Iterable[str]) -> None:
        """Watch every name in `directories`; those that cannot be are in `unwatched`."""
        for path in directories:
            self._open[path] = None
            try:
                self._tier.watch_all_in(path)
            except OSError as error:
                self._errors[path] = error
            else:
                self._errors.pop(path, None)

    def remove(self, path: str) -> None:
        self._paths.pop(path, None)
        self._open.pop(path, None)
        self._errors.pop(path, None)
        self._tier.forget(path)

    def read(self) -> list[FileChange]:
        """Return one change per touched file and process since the last call; never waits."""
        merged: dict[tuple[str, int], list[str]] = {}
        since_ns = self.empty_ns
        for touches in self._batches():
            for path, change, tgid in touches:
                changes = merged.setdefault((path, tgid), [])
                if change not in changes and (path in self._paths or path.rpartition("/")[0] in self._open):
                    changes.append(change)
        now = _boot_ns()
        found = [
            FileChange(boot_ns=now, path=path, changes=tuple(changes), tgid=tgid, since_ns=since_ns)
            for (path, tgid), changes in merged.items()
            if changes
        ]
        found.sort(key=lambda change: OVERFLOW in change.changes)  # what is known of a path goes before what is not
        return found

    def close(self) -> None:
        self._tier.close()

    def _batches(self) -> Iterator[list[Touch]]:
        for _number in range(MAX_BATCHES):
            asked_ns = _boot_ns()
            batch = self._tier.read()
            if batch is None:
                self.empty_ns = asked_ns
                return
            touches, overflowed = batch
            self.at_once(touches)
            yield touches
            if overflowed:
                self.lost += 1
                yield [(path, OVERFLOW, 0) for path in {**self._paths, **self._open}]


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
