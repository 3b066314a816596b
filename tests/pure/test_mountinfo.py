# SPDX-License-Identifier: Apache-2.0
"""What the kernel says is mounted, whatever the places are called."""

import os
from pathlib import Path

import pytest

from mamplus_host.collector.mounts import Mounts
from mamplus_host.mountinfo import mounted, parsed

ROOT = b"21 1 8:1 / / rw,nosuid,noexec - ext4 /dev/sda1 rw,errors=remount-ro\n"


def test_a_line_is_read_with_all_that_it_says() -> None:
    (one,) = parsed(b"36 35 98:0 /mnt1 /mnt2 ro,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n")

    assert (one.id, one.device, one.root, one.point) == (36, "98:0", "/mnt1", "/mnt2")
    assert (one.options, one.flags) == (("ro", "noatime"), 1 | 1024)
    assert (one.kind, one.source, one.super_options) == ("ext3", "/dev/root", "rw,errors=continue")


@pytest.mark.parametrize(
    ("said", "point"),
    [
        (rb"/with\040space", b"/with space"),
        (rb"/line\012and\011tab\134", b"/line\nand\ttab\\"),
        (b"/no\xffunicode", b"/no\xffunicode"),
        ("/what Python\\040takes\x0b\x1c\x85\u2028for an end".replace(" ", "\\040").encode(), None),
    ],
    ids=["blank", "escapes", "no Unicode", "line ends"],
)
def test_whoever_names_a_place_breaks_no_line(said: bytes, point: bytes | None) -> None:
    point = point or said.replace(rb"\040", b" ")

    found = parsed(ROOT + b"22 21 8:2 /a " + said + b" rw - fuse.x " + said + b" rw\n" + ROOT)

    assert [os.fsencode(one.point) for one in found] == [b"/", point, b"/"]
    assert os.fsencode(found[1].source) == point


def test_what_is_mounted_here_is_read() -> None:
    assert "/" in [one.point for one in mounted()]


def test_a_path_lies_on_what_was_mounted_last_above_it(tmp_path: Path) -> None:
    source = tmp_path / "mountinfo"
    source.write_bytes(ROOT + b"22 21 8:2 /a /with\\040space rw - ext4 /dev/sda2 rw\n")
    mounts = Mounts(source)

    assert mounts.of("/with space/below") == "8:2 /a /with space"
    assert mounts.of("/other") == "8:1 / /"
    assert not mounts.look()
    source.write_bytes(source.read_bytes() + b"23 22 8:3 / /with\\040space rw - ext4 /dev/sda3 rw\n")
    assert mounts.look()
    assert mounts.of("/with space/below") == "8:3 / /with space"
