# SPDX-License-Identifier: Apache-2.0
"""Which mount a path lies on: what covers a protected tree shows through no file event.

Journey: /proc/self/mountinfo -> [mounts] -> protecting.
"""

import os
from pathlib import Path

_MOUNTINFO = Path("/proc/self/mountinfo")


class Mounts:
    """The mounts of this process's namespace, as they were when last looked at."""

    def __init__(self, source: Path = _MOUNTINFO) -> None:
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
        self._points = dict(_points(text))  # of two at one place the later one is on top
        return True

    def points(self) -> list[str]:
        """Return the places that something is mounted at."""
        return list(self._points)

    def of(self, path: str) -> str:
        """Return what `path` lies on: device, root within it, and place of the mount."""
        while path not in self._points and path != "/":
            path = os.path.dirname(path)
        return f"{self._points.get(path, '?')} {path}"


def _points(text: bytes) -> list[tuple[str, str]]:
    """Return (place, device and root) of each line, in the order in which they were mounted."""
    fields = [line.split(b" ") for line in text.splitlines()]
    return [(os.fsdecode(_unescaped(one[4])), os.fsdecode(one[2] + b" " + one[3])) for one in fields]


def _unescaped(raw: bytes) -> bytes:
    """Undo the kernel's octal escapes of space, tab, newline and backslash."""
    for escape, byte in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        raw = raw.replace(escape, byte)
    return raw
