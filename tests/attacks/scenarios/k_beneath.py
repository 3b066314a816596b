# SPDX-License-Identifier: Apache-2.0
"""What a file's number and times do not tell, and what lies beneath files: devices, other layers."""

import contextlib
import fcntl
import mmap
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.attacks.attack import ELSEWHERE, STOPPED, UNSEEN, Missing, attack
from tests.attacks.disks import filled_image, mounted
from tests.attacks.ground import Ground
from tests.attacks.outcome import Seen
from tests.attacks.scenarios.b_changed import CACHES, believed
from tests.attacks.scenarios.d_scripts import found

FAMILY = "what lies beneath a file"
EXT4_IOC_SWAP_BOOT = 0x6611
TWINS_TRIES = 400


def twins(on: Ground, payload: Path, good: Path, other: Path) -> tuple[Path, Path]:
    """Make a good program in one directory and a copy of the payload in the other, with one inode number, one size and
    one ctime: both within one tick of the clock."""
    bodies = (on.payloads.directory / "quiet").read_bytes(), payload.read_bytes()
    for number in range(TWINS_TRIES):
        made = good / f"good{number}", other / f"other{number}"
        files = [os.open(path, os.O_CREAT | os.O_WRONLY, 0o755) for path in made]
        for file, body in zip(files, bodies, strict=True):
            os.write(file, body)
        for file in files:
            os.close(file)
        one, two = (path.stat() for path in made)
        if (one.st_ctime_ns, one.st_size) == (two.st_ctime_ns, two.st_size):
            return made
    raise Missing(f"two files with one ctime among {TWINS_TRIES} pairs")


def start_twin(on: Ground, one: Path, two: Path, marker: Path) -> Seen:
    """Have the kernel believe the good one, as far as it does, and start the other."""
    if one.stat().st_ino != two.stat().st_ino:
        raise Missing("two files with one inode number")
    for _ in range(2):
        on.execute(one)
    return on.execute(two, marker)


@attack("two layers", FAMILY, ELSEWHERE, bypasses=CACHES)
def layers(on: Ground, payload: Path, marker: Path) -> Seen:
    """Makes an overlay of two layers in memory, where a good program and the listed one have one inode number, one size
    and one ctime."""
    with contextlib.ExitStack() as stack:
        parts = [stack.enter_context(on.mount("tmpfs", payload.parent / name)) for name in ("one", "two")]
        one, two = twins(on, payload, *parts)
        options = f"lowerdir={parts[0]}:{parts[1]},xino=off"
        merged = stack.enter_context(mounted("mptest", payload.parent / "merged", "overlay", options))
        return start_twin(on, merged / one.name, merged / two.name, marker)


@attack("two subvolumes", FAMILY, ELSEWHERE, bypasses=CACHES)
def subvolumes(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above in two subvolumes of btrfs, where each counts its own inodes."""
    place = on.work / payload.parent.name  # its image is larger than our disk
    place.mkdir()
    with filled_image(place, "btrfs", ["mkfs.btrfs", "-q"], 128 << 20) as where:
        for name in ("one", "two"):
            subprocess.run(["btrfs", "-q", "subvolume", "create", where / name], check=True, stdout=subprocess.DEVNULL)
        one, two = twins(on, payload, where / "one", where / "two")
        return start_twin(on, one, two, marker)


@attack("swapped with the boot loader's inode", FAMILY, STOPPED, bypasses="hooks on write(2)")
def boot_inode(on: Ground, payload: Path, marker: Path) -> Seen:
    """Exchanges the content of the listed program with that of ext4's hidden inode 5, and that with the believed one's
    (EXT4_IOC_SWAP_BOOT)."""
    program = believed(on, payload.parent)
    for path in (payload, program):
        with path.open("r+b") as file:
            fcntl.ioctl(file, EXT4_IOC_SWAP_BOOT)
    return on.execute(program, marker)


@attack("O_DIRECT", FAMILY, STOPPED, bypasses="what watches the page cache")
def direct(on: Ground, payload: Path, marker: Path) -> Seen:
    """Writes the listed program over the believed one with O_DIRECT, past the page cache."""
    program, body = believed(on, payload.parent), payload.read_bytes()
    size = -(-len(body) // mmap.PAGESIZE) * mmap.PAGESIZE
    page = mmap.mmap(-1, size)
    page.write(body)
    descriptor = os.open(program, os.O_WRONLY | os.O_DIRECT)
    os.write(descriptor, page)
    os.ftruncate(descriptor, len(body))
    os.close(descriptor)
    return on.execute(program, marker)


@contextlib.contextmanager
def loop_device(image: Path) -> Iterator[str]:
    """A loop device that reads an image."""
    done = subprocess.run(["losetup", "-r", "-f", "--show", image], check=False, capture_output=True, text=True)
    if done.returncode:
        raise Missing("losetup")
    device = done.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], check=False)


@attack("script on a block device", FAMILY, UNSEEN, payload="shell", bypasses="scanners of files",
        limit="a device is no file: who may read one may give it to an interpreter, as text from a pipe")  # fmt: skip
def device_script(on: Ground, payload: Path, marker: Path) -> Seen:
    """Writes the listed script to a disk without a file system, and gives the shell the device."""
    image = Path(shutil.copy(payload, payload.with_name("raw")))
    os.truncate(image, mmap.PAGESIZE)
    with loop_device(image) as device:
        return on.execute(found("sh"), device, marker)
