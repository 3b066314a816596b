# SPDX-License-Identifier: Apache-2.0
"""Names in directories, reached without following any link: whoever swaps a folder for a link leads us nowhere else.

Journey: quarantine, wipe -> [names] -> file system.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME


def canonical(path: str) -> str:
    """Return `path` with the links of its directories resolved; its last name is not followed."""
    whole = os.path.abspath(path)
    return os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))


@contextmanager
def above(path: str) -> Iterator[tuple[int, str]]:
    """Yield (descriptor of the directory, last name) of an absolute path; OSError when a link is on the way."""
    *folders, name = [part for part in path.split("/") if part]
    directory = os.open("/", DIRECTORY)
    try:
        for part in folders:
            below = os.open(part, DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = below
        yield directory, name
    finally:
        os.close(directory)


def stat_of(path: str) -> os.stat_result | None:
    """Return what is at `path`, the link itself if it is one; None when nothing is, or a link is on the way."""
    try:
        with above(path) as (directory, name):
            return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None


def open_regular(path: str) -> int:
    """Return a descriptor of the regular file at `path`; OSError when there is none, or a link is on the way."""
    with above(path) as (directory, name):
        if stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):  # opening a device acts
            descriptor = os.open(name, _READ, dir_fd=directory)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
            os.close(descriptor)
    raise FileNotFoundError(f"{path!r} is no regular file")
