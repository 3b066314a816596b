# SPDX-License-Identifier: Apache-2.0
"""One agent per state directory and per set of pins: an flock on the directory, which dies with its process."""

import fcntl
import os
from pathlib import Path

from mamplus_host.errors import AlreadyRunning, NotPossible


class StateLock:
    """Held from construction to `release`, or to the end of the process, however it ends."""

    def __init__(self, directory: Path) -> None:
        """AlreadyRunning names the process that holds `directory`; NotPossible when it may not be opened."""
        try:
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:
            raise NotPossible(f"cannot open {str(directory)!r}: {os.strerror(13)}; run this as root") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(os.fstat(self._fd).st_ino)
            os.close(self._fd)
            raise AlreadyRunning(
                f"an agent (pid {owner}) already works on {str(directory)!r}; stop it, or name another place in [paths]"
            ) from None

    def release(self) -> None:
        os.close(self._fd)


def _owner(inode: int) -> str:
    """Return the pid that holds the lock, as /proc/locks tells it."""
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
            return fields[4]
    return "unknown"
