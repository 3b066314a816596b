# SPDX-License-Identifier: Apache-2.0
"""What is mounted, as the kernel says (/proc/PID/mountinfo, proc(5)).

Whoever may mount something, through FUSE any user, picks the name of its place: it need be no Unicode, and may hold
what Python takes for the end of a line or for a blank. So lines and fields are told apart as bytes.
"""

import os
import re
from pathlib import Path

import msgspec

SELF = Path("/proc/self")
FLAGS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1024, "nodiratime": 2048, "relatime": 1 << 21}
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """One line of mountinfo."""

    id: int
    device: str  # major:minor
    root: str  # within the file system
    point: str
    options: tuple[str, ...]  # of this mount
    kind: str  # ext4, vfat, ...
    source: str  # /dev/sda1
    super_options: str  # of the file system

    @property
    def flags(self) -> int:
        """The options of this mount as mount(2) takes them."""
        return sum(FLAGS.get(word, 0) for word in self.options)


def mounted(process: Path = SELF) -> list[Mount]:
    """Return what is mounted where `process` (its directory in /proc) lives, in the order of mounting."""
    return parsed((process / "mountinfo").read_bytes())


def parsed(text: bytes) -> list[Mount]:
    return [_parsed(line) for line in text.split(b"\n") if line]


def _parsed(line: bytes) -> Mount:
    before, _, after = line.partition(b" - ")
    fields, more = [_plain(word) for word in before.split(b" ")], [_plain(word) for word in after.split(b" ")]
    return Mount(
        id=int(fields[0]), device=fields[2], root=fields[3], point=fields[4], options=tuple(fields[5].split(",")),
        kind=more[0], source=more[1], super_options=more[2],
    )  # fmt: skip


def _plain(word: bytes) -> str:
    """Return a word without its octal escapes, bytes that are no UTF-8 as surrogates."""
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), word))
