# SPDX-License-Identifier: Apache-2.0
"""The first file system of the virtual machine: busybox, a few modules, and a script that finds the real one.

Pure: bytes in, a cpio archive ("newc", what the kernel unpacks) out.
"""

from collections.abc import Iterable

_FILE, _DIRECTORY = 0o100755, 0o040755
_TRAILER = "TRAILER!!!"


def archive(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a cpio archive of `files`: path without a leading "/", and content. All may be executed."""
    members = list(files)
    directories = sorted({part for path, _content in members for part in _parents(path)})
    entries = [(path, _DIRECTORY, b"") for path in directories]
    entries += [(path, _FILE, content) for path, content in members]
    made = b"".join(_member(number, *entry) for number, entry in enumerate(entries, 1))
    return made + _member(0, _TRAILER, 0, b"")


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def _member(inode: int, path: str, mode: int, content: bytes) -> bytes:
    name = path.encode() + b"\0"
    links, owner, time_s, device = 1, 0, 0, 0
    fields = (
        inode, mode, owner, owner, links, time_s, len(content),
        device, device, device, device, len(name), 0,
    )  # fmt: skip
    head = b"070701" + b"".join(b"%08X" % value for value in fields)
    return _padded(head + name) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
