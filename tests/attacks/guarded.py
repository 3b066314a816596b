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
# Ways that are about a file mounted over another; and how their directory takes part in other namespaces.
MOUNTED = {"umount-lazily": "private", "umount-elsewhere": "shared", "move-away": "private", "mount-move": "private"}


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
            what = errno.errorcode[process.returncode] if process.returncode in NOT_HERE else "what comes before it"
            raise Missing(f"{way}: {what}")
        return process.returncode

    def _prepare(self, way: str, is_guarded: bool, stack: contextlib.ExitStack) -> None:
        file, out = self.place(way, is_guarded=is_guarded)
        for path in (file.parent, *(out / name for name in ("mount", "lower", "work", "merged"))):
            path.mkdir(parents=True)
        (out / "other").write_bytes(b"other\n")
        if way in MOUNTED:
            _mount_over(file, out / "mounted", MOUNTED[way])
        file.write_bytes(CONTENT)
        os.setxattr(file, "user.kept", b"x")
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


def _mount_over(file: Path, source: Path, propagation: str) -> None:
    """Mount another file over it, in a directory that is a mount of its own."""
    subprocess.run(["mount", "--bind", file.parent, file.parent], check=True)
    subprocess.run(["mount", f"--make-{propagation}", file.parent], check=True)
    file.write_bytes(b"what lies below\n")
    source.touch()
    subprocess.run(["mount", "--bind", source, file], check=True)


def _enter(cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text("0")
