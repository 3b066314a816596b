# SPDX-License-Identifier: Apache-2.0
"""Whether a protected file is what dpkg unpacked there since it was kept: for changes that nobody saw.

Journey: accepting -> [dpkg_list] -> /var/lib/dpkg.

While no agent runs, and where the kernel names no writer, it is not known who wrote. But dpkg writes down what it
unpacked: `info/PACKAGE.list` anew each time, and the MD5 of each file; of configuration files in `status`. A file that
is as it says there, of a package that was unpacked after the file was kept, is the package's. Without root nobody can
have made it so: the lists, the file and its directories' names are root's alone to change, and that is asked of the
file. MD5 is only to tell a package's file from what root made of it.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mamplus_host.executor.vault import files as vault_files

DIRECTORY = Path("/var/lib/dpkg")
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # links to /usr/... since the usr-merge


class _Listed(NamedTuple):
    package: str
    md5: str
    unpacked_s: float  # seconds since the epoch


class DpkgList:
    """What dpkg says of the protected files."""

    def __init__(self, protected: Callable[[], Iterable[str]], directory: Path = DIRECTORY) -> None:
        self._protected, self._directory = protected, directory
        self._read_at: tuple[int, int] = (0, 0)  # mtimes of what was read
        self._listed: dict[str, list[_Listed]] = {}

    def package_of(self, path: str, since_s: float) -> str:
        """Return the package that was unpacked after `since_s` and whose file `path` is as it lies there; "": none."""
        with suppress(OSError):
            self._look()
            fresh = [one for one in self._listed.get(path, []) if one.unpacked_s > since_s]
            if fresh:
                md5 = _md5_of_roots_file(path)
                return next((f"package {one.package}" for one in fresh if one.md5 == md5), "")
        return ""

    def _look(self) -> None:
        """Read the lists again when dpkg has written since."""
        info, status = self._directory / "info", self._directory / "status"
        at = (info.stat().st_mtime_ns, status.stat().st_mtime_ns)
        if at == self._read_at:
            return
        names = {name: path for path in self._protected() for name in _names_of(path)}
        self._listed = {}
        unpacked = {one.name[: -len(".list")]: one.stat().st_ctime for one in os.scandir(info) if _is_list(one)}
        for package, at_s in unpacked.items():
            for md5, name in _sums(info / f"{package}.md5sums"):
                self._note(names, name, _Listed(package, md5, at_s))
        for package, md5, name in _configuration(status):
            if package in unpacked:
                self._note(names, name, _Listed(package, md5, unpacked[package]))
        self._read_at = at

    def _note(self, names: dict[str, str], name: str, listed: _Listed) -> None:
        if name in names:
            self._listed.setdefault(names[name], []).append(listed)


def _names_of(path: str) -> list[str]:
    """Return the names under which a package may list `path`."""
    top = path.split("/")[2] if path.startswith("/usr/") else ""
    return [path, path[len("/usr") :]] if top in _MERGED and os.path.islink(f"/{top}") else [path]


def _is_list(entry: "os.DirEntry[str]") -> bool:
    return entry.name.endswith(".list") and entry.stat().st_uid == 0


def _sums(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (MD5, path) of each file of a package, configuration aside."""
    with suppress(FileNotFoundError), path.open(errors="surrogateescape") as lines:
        for line in lines:
            md5, _, name = line.rstrip("\n").partition("  ")
            yield md5, f"/{name}"


def _configuration(status: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (package as in `info`, MD5, path) of each configuration file."""
    package = architecture = ""
    is_conffile = False
    with status.open(errors="surrogateescape") as lines:
        for line in lines:
            field, _, value = line.rstrip("\n").partition(": ")
            if not line.startswith(" "):
                is_conffile = line.startswith("Conffiles:")
            if field == "Package":
                package, architecture = value, ""
            elif field == "Architecture":
                architecture = value
            elif is_conffile and line.startswith(" "):
                name, md5 = line.split()[:2]
                yield package, md5, name
                yield f"{package}:{architecture}", md5, name  # of one that may be there for several


def _md5_of_roots_file(path: str) -> str:
    """Return the MD5 of a file that only root can have written; "" of any other."""
    descriptor = vault_files.look(path)
    try:
        found = os.fstat(descriptor)
        if found.st_uid or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return ""
        with open(descriptor, "rb", closefd=False) as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    finally:
        os.close(descriptor)
