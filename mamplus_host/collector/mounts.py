# SPDX-License-Identifier: Apache-2.0
"""Which mount a path lies on: what covers a protected tree shows through no file event.

Journey: mountinfo -> [mounts] -> overlooked.
"""

import os
from pathlib import Path

from mamplus_host.mountinfo import SELF, parsed


class Mounts:
    """The mounts of this process's namespace, as they were when last looked at."""

    def __init__(self, source: Path = SELF / "mountinfo") -> None:
        self._source = source
        self._text = b""
        self._points: dict[str, str] = {}
        self.look()

    def look(self) -> bool:
        """Read them again; return whether anything has changed."""
        text = self._source.read_bytes()
        if text == self._text:
            return False
        self._text = text
        self._points = {one.point: f"{one.device} {one.root}" for one in parsed(text)}  # of two the later one is on top
        return True

    def points(self) -> list[str]:
        """Return the places that something is mounted at."""
        return list(self._points)

    def of(self, path: str) -> str:
        """Return what `path` lies on: device, root within it, and place of the mount."""
        while path not in self._points and path != "/":
            path = os.path.dirname(path)
        return f"{self._points.get(path, '?')} {path}"
