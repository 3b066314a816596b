# SPDX-License-Identifier: Apache-2.0
"""Files below a guarded directory, and their twins beside it: one of each for every way to change it."""

import contextlib
import errno
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.attacks.attack import Missing, all_attacks

CONTENT = b"as it should be\n"
SETUP_FAILED = 120  # of filetry: nothing was tried
NOT_HERE = (errno.ENOSYS, errno.EOPNOTSUPP)
WAIT_S = 60.0


@dataclass
class Files:
    """`guarded` is the directory of the rule; what is opened before the rule is held open."""

    guarded: Path
    free: Path
    program: Path
    held: dict[Path, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @classmethod
    def make(cls, disk: Path, program: Path, stack: contextlib.ExitStack) -> "Files":
        made = cls(disk / "guarded", disk / "free", program)
        for attack in all_attacks().values():
            if attack.subject == "file":
                for is_guarded in (True, False):
                    made._prepare(attack.payload, is_guarded, stack)
        return made

    def place(self, way: str, *, is_guarded: bool) -> tuple[Path, Path]:
        """Return the file of a way, and the directory of the attacker's own files."""
        base = self.guarded if is_guarded else self.free
        return base / way / "file", base.parent / f"out-{base.name}" / way

    def attempt(self, way: str, file: Path, out: Path, others: Sequence[str], cgroup: Path) -> int:
        """Return the errno that the program met, 0 when it did what it wanted."""
        if file in self.held:
            process = self.held[file]
            process.communicate(b"x", WAIT_S)
        else:
            given = [out / name for name in others]
            process = subprocess.Popen([self.program, way, file, *given], cwd=out, preexec_fn=lambda: _enter(cgroup))
            process.wait(WAIT_S)
        if process.returncode in (SETUP_FAILED, *NOT_HERE):
            raise Missing(f"{way}: {errno.errorcode.get(process.returncode, 'what comes before it')}")
        return process.returncode

    def _prepare(self, way: str, is_guarded: bool, stack: contextlib.ExitStack) -> None:
        file, out = self.place(way, is_guarded=is_guarded)
        file.parent.mkdir(parents=True)
        file.write_bytes(CONTENT)
        os.setxattr(file, "user.kept", b"x")
        for name in ("mount", "lower", "work", "merged"):
            (out / name).mkdir(parents=True)
        (out / "other").write_bytes(b"other\n")
        if way.startswith("held-"):
            self.held[file] = self._hold(way, file, out, stack)

    def _hold(self, way: str, file: Path, out: Path, stack: contextlib.ExitStack) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [self.program, way, file, "w"], cwd=out, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"open"), f"filetry {way} did not open its file"
        return process


def _enter(cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text("0")
