# SPDX-License-Identifier: Apache-2.0
"""One agent per state directory: an flock that dies with its process."""

import fcntl
import os
from pathlib import Path

from mamplus_host.errors import AlreadyRunning


class StateLock:
    """Held from construction to `release`, or to the end of the process, however it ends."""

    def __init__(self, state: Path) -> None:
        path = state / "agent.lock"
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise AlreadyRunning(
                f"an agent (pid {owner}) already works on {str(state)!r}; stop it, or name another [paths] state"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)
