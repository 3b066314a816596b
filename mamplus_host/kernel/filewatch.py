# SPDX-License-Identifier: Apache-2.0
"""Hands the rules about files to the responder, where no LSM hook refuses, and hears what it refused.

Two files beside the responder's lock: `.files` has the rules, written whole; `.told` is a socket
that takes one struct mamplus_access for each refusal. kernel_probes/native/responder_files.c.
"""

import contextlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from mamplus_host.files import write_whole
from mamplus_host.kernel import layout

MAX_TOLD = 64  # refusals that are read at one time
_TOLD = tuple(layout.ACCESS_FIELDS.index(name) for name in ("head_kind", "op", "pad", "head_slot"))


def records(
    guarded: Iterable[tuple[int, str]],
    folders: Iterable[tuple[int, str]],
    writers: dict[str, list[int]],
) -> bytes:
    """Return the rules as the responder reads them; `guarded` and `folders` are (bit, path)."""
    found = [b"g %x " % bit + os.fsencode(path) for bit, path in guarded]
    found += [b"f %x " % bit + os.fsencode(path) for bit, path in folders]
    found += [f"p {digest} {words[0]:x} {words[1]:x}".encode() for digest, words in writers.items()]
    return b"".join(one + b"\0" for one in found)


class FileWatcher:
    """The responder's fanotify watch, as the agent sees it. `base` is the lock's path without its suffix."""

    def __init__(self, base: Path) -> None:
        self._rules = base.with_name(base.name + ".files")
        self._written = b""
        self.in_force = 0  # rules that the responder said it follows
        self.marks = 0  # directories and files that it watches for them
        self.unmarked = 0  # and those that it should watch and cannot
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._bind(base.with_name(base.name + ".told"))

    def fileno(self) -> int:
        """Return a descriptor that is readable when `read` has something."""
        return self._socket.fileno()

    def put(self, data: bytes) -> None:
        """Have the responder follow these rules; nothing is done when they are those it has."""
        if data != self._written:
            write_whole(self._rules, data)
            self._written = data

    def again(self) -> None:
        """Have the responder look again at what lies below the guarded directories."""
        write_whole(self._rules, self._written)

    def read(self) -> list[bytes]:
        """Return the records of refusals since the last call; never waits."""
        found: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while len(found) < MAX_TOLD:
                data = self._socket.recv(layout.ACCESS.size + 1)
                if len(data) != layout.ACCESS.size:
                    continue
                kind, rules, marks, unmarked = (layout.ACCESS.unpack(data)[at] for at in _TOLD)
                if kind == layout.KIND_FILE:
                    found.append(data)
                else:
                    self.in_force, self.marks, self.unmarked = rules, marks, unmarked
        return found

    def close(self) -> None:
        self._socket.close()

    def _bind(self, path: Path) -> None:
        """Bind by way of the directory's descriptor: the path may be longer than a socket's may."""
        path.unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._socket.bind(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
        path.chmod(0o600)
