# SPDX-License-Identifier: Apache-2.0
"""The lock that keeps two publishers apart, in one process or in two."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mamplus_enterprise.errors import PublishFailed

_RETRY_S = 0.02


@contextmanager
def locked(path: Path, *, timeout_s: float = 30.0) -> Iterator[None]:
    """Hold the lock file `path`; PublishFailed when another holds it longer than `timeout_s`.

    The kernel drops it with its holder: a publisher that dies leaves no stale lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(descriptor, path, time.monotonic() + timeout_s)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path, until_s: float) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until_s:
                raise PublishFailed(f"another publisher still holds {str(path)!r}; try again") from None
            time.sleep(_RETRY_S)
