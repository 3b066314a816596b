# SPDX-License-Identifier: Apache-2.0
"""Whether a package manager is at work: its own program, run by root, and not something of its name.

Journey: protecting -> [package managers] -> /proc.

A process counts when it, or one of its ancestors that is still there, runs the very file that lies where the
package manager keeps one of its programs. Names that a process picks itself count for nothing, nor does a program of
that name in another mount namespace or a chroot; and root runs it, since anybody may start dpkg on files of
their own. What a script of a package leaves running loses this when the package manager has ended.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from mamplus_host.executor.processes.tasks import task

PROGRAMS = (
    "/usr/bin/dpkg", "/usr/bin/apt", "/usr/bin/apt-get", "/usr/bin/aptitude", "/usr/bin/rpm", "/usr/bin/dnf",
    "/usr/bin/dnf5", "/usr/bin/dnf-3", "/usr/bin/yum", "/usr/bin/zypper", "/usr/bin/pacman", "/sbin/apk",
    "/usr/bin/opkg", "/bin/opkg", "/usr/bin/rpm-ostree", "/usr/bin/ostree", "/usr/bin/unattended-upgrade",
)  # fmt: skip
_MAX_DEPTH = 32


class PackageManagers:
    """The package managers of this device."""

    def __init__(self, parent: Callable[[int], int] = lambda _tgid: 0, programs: Iterable[str] = PROGRAMS) -> None:
        """`parent` returns that of a process which may have ended already, 0 when it is not known."""
        self._parent, self._programs = parent, tuple(programs)

    @property
    def programs(self) -> tuple[str, ...]:
        """Return where their programs are, in files and not links."""
        return tuple(map(os.path.realpath, self._programs))

    def at_work(self, tgid: int) -> str:
        """Return the program of the package manager that a process belongs to; "" for any other."""
        files = self._files()
        return next(filter(None, (_run_by_root(one, files) for one in self._ancestry(tgid))), "")

    def runs_in(self, tgid: int) -> bool:
        """Say whether a process is a package manager itself."""
        return bool(_run_by_root(tgid, self._files()))

    def _files(self) -> dict[tuple[int, int], str]:
        """Return the programs that there are, by the file that each is; looked up anew, for they are updated, too."""
        found = {}
        for path in self._programs:
            with suppress(OSError):
                one = os.stat(path)
                if one.st_uid == 0 and not one.st_mode & 0o022:
                    found[one.st_dev, one.st_ino] = path
        return found

    def _ancestry(self, tgid: int) -> Iterator[int]:
        for _step in range(_MAX_DEPTH):
            if tgid <= 1:
                return
            yield tgid
            alive = task(tgid)
            tgid = alive.ppid if alive is not None else self._parent(tgid)


def _run_by_root(tgid: int, files: dict[tuple[int, int], str]) -> str:
    """Return which of `files` a process of root runs, "" for any other."""
    with suppress(OSError):
        found = os.stat(f"/proc/{tgid}/exe")
        program = files.get((found.st_dev, found.st_ino), "")
        if program and _is_root(tgid):
            return program
    return ""


def _is_root(tgid: int) -> bool:
    """Say whether all user ids of a process are 0, in the first user namespace."""
    with open(f"/proc/{tgid}/status") as status:
        line = next(line for line in status if line.startswith("Uid:"))
    return line.split()[1:] == ["0", "0", "0", "0"]
