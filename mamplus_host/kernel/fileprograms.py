# SPDX-License-Identifier: Apache-2.0
"""From the programs that a rule names to hashes: by hash, by path, by package.

The lists of dpkg are read as files and those of rpm through `rpm -ql`. Of a package only ELF
programs that can be executed count, and no interpreter. A hash that a name had before stays
good for GRACE_S: the program that replaces itself is still running.
"""

import contextlib
import hashlib
import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from mamplus_host.events import File
from mamplus_host.kernel.tables import file_of
from mamplus_host.policy.files import Program, is_interpreter

GRACE_S = 3600.0
MAX_PROGRAMS = 1024  # of one package
_DPKG = Path("/var/lib/dpkg/info")
_RPM_TIMEOUT_S = 20
_CHUNK = 1 << 20
_Stamp = tuple[int, int, int, int, int]


class Programs:
    """Hashes of named programs; remembers what it hashed."""

    def __init__(self, remember: Callable[[File, str], None], *, dpkg: Path = _DPKG) -> None:
        """`remember` tells the kernel the hash of a file, so that its first start is known."""
        self._remember, self._dpkg = remember, dpkg
        self._hashes: dict[str, tuple[_Stamp, str]] = {}
        self._past: dict[Program, dict[str, float]] = {}  # program -> hash -> when it was seen last
        self.unresolved: dict[str, str] = {}  # what is named -> why no program was found

    def hashes(self, program: Program) -> list[str]:
        """Return the hashes of `program`, and those it had within GRACE_S."""
        now_s = time.monotonic()
        seen = self._past.setdefault(program, {})
        for one in self._now(program):
            seen[one] = now_s
        for one in [one for one, at_s in seen.items() if now_s - at_s > GRACE_S]:
            del seen[one]
        return list(seen)

    def have_changed(self) -> bool:
        """Say whether a file that was hashed is another one by now."""
        return any(_stamp_at(path) != stamp for path, (stamp, _sha256) in self._hashes.items())

    def forget_unnamed(self, named: Iterable[Program]) -> None:
        kept = set(named)
        self._past = {program: seen for program, seen in self._past.items() if program in kept}

    def _now(self, program: Program) -> list[str]:
        if program.sha256:
            return [program.sha256]
        wanted = [program.path] if program.path else self._files_of(program.package)
        name = program.path or f"package {program.package}"
        found = [digest for path in wanted if (digest := self._hash(path, quiet=bool(program.package)))]
        if found:
            self.unresolved.pop(name, None)
        else:
            self.unresolved[name] = "no such program here" if program.path else "no such package, or no program in it"
        return found

    def _hash(self, path: str, *, quiet: bool) -> str:
        """Return the SHA-256 of the program at `path`, "" when there is none."""
        real = os.path.realpath(path)
        stamp = _stamp_at(real)
        known = self._hashes.get(real)
        if known is not None and known[0] == stamp and stamp is not None:
            return known[1]
        self._hashes.pop(real, None)
        with contextlib.suppress(OSError):
            fd = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                if not _is_program(fd) or (quiet and is_interpreter(real)):
                    return ""
                digest = _sha256(fd)
                self._remember(file_of(fd), digest)
                self._hashes[real] = (_stamp(os.fstat(fd)), digest)
                return digest
            finally:
                os.close(fd)
        return ""

    def remember_again(self) -> None:
        """Tell the kernel all hashes again: its memory of them is bounded, the least used go first."""
        for path in list(self._hashes):
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    stamp, digest = self._hashes[path]
                    if _stamp(os.fstat(fd)) == stamp:
                        self._remember(file_of(fd), digest)
                finally:
                    os.close(fd)

    def _files_of(self, package: str) -> list[str]:
        listed: list[str] = []
        for path in sorted(self._dpkg.glob(f"{package}.list")) + sorted(self._dpkg.glob(f"{package}:*.list")):
            listed += path.read_text(errors="surrogateescape").splitlines()
        if not listed:
            listed = _rpm_files(package)
        return listed[:MAX_PROGRAMS] if len(listed) <= MAX_PROGRAMS else _in_program_directories(listed)


def _in_program_directories(listed: list[str]) -> list[str]:
    return [path for path in listed if "/bin/" in path or "/sbin/" in path or "/libexec/" in path][:MAX_PROGRAMS]


def _rpm_files(package: str) -> list[str]:
    try:
        done = subprocess.run(
            ["rpm", "-ql", "--", package], capture_output=True, text=True, timeout=_RPM_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _is_program(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISREG(mode) and bool(mode & 0o111) and os.pread(fd, 4, 0) == b"\x7fELF"


def _sha256(fd: int) -> str:
    digest, at = hashlib.sha256(), 0
    while chunk := os.pread(fd, _CHUNK, at):
        digest.update(chunk)
        at += len(chunk)
    return digest.hexdigest()


def _stamp(about: os.stat_result) -> _Stamp:
    return (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


def _stamp_at(path: str) -> _Stamp | None:
    try:
        return _stamp(os.stat(path))
    except OSError:
        return None
