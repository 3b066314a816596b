# SPDX-License-Identifier: Apache-2.0
"""The power goes: a child that does the work is killed before one of its changes of the file system."""

import os
import signal
import sys
from collections.abc import Callable

_CHANGES = (
    "os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.chown",
    "os.setxattr", "os.utime",
)  # fmt: skip


def changes(event: str, arguments: tuple[object, ...]) -> bool:
    """Whether an audit event is about to change a file system: a name, a file's attributes, or a file to be written."""
    if event == "open":
        return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    return event in _CHANGES


def forked(act: Callable[[], None], *, end_at: int) -> int:
    """Run `act` in a child that is killed before its `end_at`-th change of the file system; return its status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if changes(event, arguments):
            seen += 1
            if seen == end_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    status = 1
    try:
        act()
        status = 0
    finally:
        os._exit(status)
