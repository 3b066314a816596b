# SPDX-License-Identifier: Apache-2.0
"""The inotify tier of the file watch: says that a file was touched, not by whom.

Journey: kernel -> [files_inotify] -> files.

For kernels and file systems without fanotify's file handles. A watch is on a directory's
inode; directories above are watched for their own removal or renaming. Our own writes are
told too, since inotify names nobody: who asks whether the file is damaged finds that it is not.
"""

import os

from inotify_simple import INotify, flags

CHANGES = {
    flags.MODIFY: "modify", flags.ATTRIB: "attrib", flags.CLOSE_WRITE: "close-write", flags.MOVED_FROM: "moved-away",
    flags.MOVED_TO: "moved-over", flags.CREATE: "created", flags.DELETE: "delete",
    flags.DELETE_SELF: "delete", flags.MOVE_SELF: "moved-away",
}  # fmt: skip
_OF_SELF = flags.DELETE_SELF | flags.MOVE_SELF
_OF_ENTRIES = _OF_SELF | flags.MODIFY | flags.ATTRIB | flags.CLOSE_WRITE | flags.MOVED_FROM | flags.MOVED_TO
_OF_ENTRIES |= flags.CREATE | flags.DELETE


class InotifyTier:
    """Implements `files.Tier`."""

    name = "inotify"

    def __init__(self) -> None:
        self._inotify = INotify(nonblocking=True)
        self._paths: dict[str, None] = {}
        self._directories: dict[int, str] = {}  # watch descriptor -> directory
        self._parents: set[str] = set()
        self._open: set[str] = set()  # directories of which every name is told

    def fileno(self) -> int:
        return int(self._inotify.fileno())

    def watch(self, path: str) -> None:
        self._paths[path] = None
        parent = os.path.dirname(path)
        self._parents.add(parent)
        self._mark(parent, _OF_ENTRIES)
        above = os.path.dirname(parent)
        while above != os.path.dirname(above):
            if above not in self._parents:
                self._mark(above, _OF_SELF)
            above = os.path.dirname(above)

    def watch_all_in(self, directory: str) -> None:
        """Tell of every name in `directory`, also of those that are not watched."""
        self._open.add(directory)
        self._parents.add(directory)
        self._mark(directory, _OF_ENTRIES)

    def forget(self, path: str) -> None:
        """Its directory's watch stays until `close`; what it tells is left out."""
        self._paths.pop(path, None)
        self._open.discard(path)

    def read(self) -> tuple[list[tuple[str, str, int]], bool] | None:
        touches: list[tuple[str, str, int]] = []
        overflowed = False
        events = self._inotify.read(timeout=0)
        if not events:
            return None
        for event in events:
            overflowed |= bool(event.mask & flags.Q_OVERFLOW)
            touches += [
                (path, change, 0)
                for path in self._touched(event.wd, event.mask, os.fsdecode(event.name))
                for bit, change in CHANGES.items()
                if event.mask & bit
            ]
        return touches, overflowed

    def close(self) -> None:
        self._inotify.close()

    def _touched(self, watch: int, mask: int, name: str) -> list[str]:
        directory = self._directories.get(watch)
        if directory is None:
            return []
        if mask & _OF_SELF:
            return [path for path in self._paths if path.startswith(directory + "/")]
        path = f"{directory}/{name}"
        return [path] if path in self._paths or directory in self._open else []

    def _mark(self, directory: str, mask: int) -> None:
        watch = self._inotify.add_watch(os.fsencode(directory), mask | flags.ONLYDIR | flags.DONT_FOLLOW)
        self._directories[watch] = directory
