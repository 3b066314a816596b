# SPDX-License-Identifier: Apache-2.0
"""The stand-ins that attacks carry: harmless, they make the file that they are given and end.

Of each kind there are two of the same size that differ in their last bytes alone: `listed`, which the
list blocks, and `twin`, which it does not. `quiet` has the size of an "elf" and does nothing: it is what
files hold before an attacker writes one of the others into them.
"""

import os
import platform
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.kernel.compiled import GCC
from tests.kernel.compiled import PROGRAMS as KERNEL_PROGRAMS

PROGRAMS = Path(__file__).parent / "programs"
TAIL_BYTES = 16
_SHARED: dict[str, list[str]] = {  # of tests/kernel/programs
    "enter": [],
    "mark": ["-static", "-nostdlib", "-fno-stack-protector"],
    "waker": ["-static"],  # nothing else of theirs is to wait while nobody answers
    "tracer": ["-static"],
    "seizer": ["-static"],
    "traced": ["-static"],
    "filetry": [],
    "burst": ["-static"],
    "crowd": ["-static"],
}
_FLAGS: dict[str, list[str]] = {
    "mark_library": ["-shared", "-fPIC"],
    "mark_dynamic": ["-fPIE", "-pie"],
    "own_loader": ["-static-pie", "-fPIE"],
    "opens_library": ["-ldl"],
    "quiet": ["-static", "-nostdlib"],
    "stands_for": ["-l:libbpf.a", "-lelf", "-lz"],
    "caller32": ["-m32", "-static", "-nostdlib", "-fno-stack-protector", "-fno-pie", "-no-pie"],
    "mark32": ["-m32", "-static", "-nostdlib", "-fno-stack-protector", "-fno-pie", "-no-pie"],
}
MARK_EXIT = 7
SCRIPTS = {
    "shell": b'#!/bin/sh\n: > "$1"; exit 7\n#',
    "python": b"#!/usr/bin/python3 -S\nimport os, sys\nopen(sys.argv[1], 'w').close(); os._exit(7)\n#",
    "perl": b"#!/usr/bin/perl\nopen(F, '>', $ARGV[0]); exit 7;\n#",
}
BINARIES = {"elf": "mark", "elf32": "mark32", "dynamic": "mark_dynamic", "library": "mark_library"}
KINDS = (*BINARIES, *SCRIPTS)


VARIABLE = "MAMPLUS_ATTACK_PROGRAMS"  # names a directory where they lie: compiling takes an emulated machine minutes


def put(out: Path) -> Path:
    """Put all of them into `out`, and return it."""
    made = os.environ.get(VARIABLE)
    return Path(shutil.copytree(made, out)) if made else build(out)


def build(out: Path) -> Path:
    """Compile every program of `programs/`, and those of the kernel tests that we share, into `out`."""
    out.mkdir(exist_ok=True)
    for name, flags in _SHARED.items():
        _compile(KERNEL_PROGRAMS / f"{name}.c", out / name, flags)
    for source in sorted(PROGRAMS.glob("*.c")):
        if not source.stem.endswith("32") or platform.machine() == "x86_64":
            _compile(source, out / source.stem, _FLAGS.get(source.stem, ["-static"]))
    return out


def _write(path: Path, body: bytes, size: int) -> None:
    path.write_bytes(body.ljust(size, b"\0") + secrets.token_hex(TAIL_BYTES // 2).encode())
    path.chmod(0o755)


def kinds(programs: Path) -> list[str]:
    """Return the kinds that this machine can make: 32-bit programs are those of x86 alone."""
    return [kind for kind in KINDS if kind in SCRIPTS or (programs / BINARIES[kind]).exists()]


def _compile(source: Path, out: Path, flags: list[str]) -> None:
    command: list[str | Path] = [*GCC, "-o", out, source, *flags]
    subprocess.run(command, check=True)


@dataclass(frozen=True)
class Payloads:
    """Where the stand-ins lie; attacks get copies."""

    directory: Path

    @classmethod
    def make(cls, directory: Path, programs: Path) -> "Payloads":
        directory.mkdir()
        for kind in kinds(programs):
            body = SCRIPTS[kind] if kind in SCRIPTS else (programs / BINARIES[kind]).read_bytes()
            for content in ("listed", "twin"):
                _write(directory / f"{kind}-{content}", body, len(body))
        _write(directory / "quiet", (programs / "quiet").read_bytes(), (programs / "mark").stat().st_size)
        return cls(directory)

    def listed(self, kind: str) -> Path:
        return self.directory / f"{kind}-listed"

    def quiet(self, to: Path) -> Path:
        """Make a new program that does nothing."""
        return Path(shutil.copy(self.directory / "quiet", to))

    def copy(self, kind: str, content: str, to: Path) -> Path:
        """Make a new file with that content; it is executable."""
        shutil.copy(self.directory / f"{kind}-{content}", to)
        return to
