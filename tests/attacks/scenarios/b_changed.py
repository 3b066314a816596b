# SPDX-License-Identifier: Apache-2.0
"""A program that was hashed and found good, and is another one when it starts.

The file held a program that does nothing, was started, and is believed. Then the listed program, of the
same size, is written into that very inode.
"""

import ctypes
import fcntl
import mmap
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from struct import Struct

from tests.attacks.attack import ELSEWHERE, STOPPED, UNSEEN, Missing, attack
from tests.attacks.calls import clone_blocks, exchange, fallocate
from tests.attacks.disks import filled_image
from tests.attacks.ground import Ground
from tests.attacks.outcome import Seen

FAMILY = "a file that changes after it was hashed"
CACHES = "caches of verdicts keyed by path, inode or mtime"
FALLOC_FL_COLLAPSE_RANGE = 0x08
RACES = 400
FIBMAP, FIGETBSZ, NUMBER = 1, 2, Struct("=i")  # ioctls of linux/fs.h: a file's block on the disk, a block's bytes


def believed(on: Ground, directory: Path, name: str = "program") -> Path:
    """Return a program that does nothing and whose content the kernel believes."""
    program = on.payloads.quiet(directory / name)
    on.make_known(program)
    return program


def overwrite(program: Path, body: bytes) -> None:
    with program.open("r+b") as file:
        file.write(body)


@attack("rewrite", FAMILY, STOPPED, bypasses=CACHES)
def rewrite(on: Ground, payload: Path, marker: Path) -> Seen:
    """Writes the listed program over it: same inode, same size."""
    program = believed(on, payload.parent)
    overwrite(program, payload.read_bytes())
    return on.execute(program, marker)


@attack("restored mtime", FAMILY, STOPPED, bypasses=CACHES)
def restored_mtime(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above, and sets atime and mtime back."""
    program = believed(on, payload.parent)
    before = program.stat()
    overwrite(program, payload.read_bytes())
    os.utime(program, ns=(before.st_atime_ns, before.st_mtime_ns))
    return on.execute(program, marker)


def map_and_write(program: Path, body: bytes) -> None:
    with program.open("r+b") as file, mmap.mmap(file.fileno(), len(body)) as page:
        page[:] = body


@attack("mmap, on disk", FAMILY, STOPPED, bypasses=CACHES)
def mapped(on: Ground, payload: Path, marker: Path) -> Seen:
    """Writes through a shared mapping, so there is no write(2)."""
    program = believed(on, payload.parent)
    map_and_write(program, payload.read_bytes())
    return on.execute(program, marker)


def twice(on: Ground, program: Path, payload: Path, marker: Path, change: Callable[[Path, bytes], None]) -> Seen:
    """Start a program that does nothing, change it, and start it again; where it is never believed, it waits twice."""
    shutil.copy(on.payloads.directory / "quiet", program)
    while time.time() - program.stat().st_ctime < 0.2:
        time.sleep(0.02)
    for _ in range(2):
        on.execute(program)
    change(program, payload.read_bytes())
    return on.execute(program, marker)


@attack("mmap, in memory", FAMILY, STOPPED, bypasses=f"{CACHES}: on tmpfs such a write changes no time")
def mapped_tmpfs(on: Ground, payload: Path, marker: Path) -> Seen:
    """Writes through a shared mapping on tmpfs, where neither mtime nor ctime tells of it."""
    return twice(on, on.memory / payload.parent.name, payload, marker, map_and_write)


@attack("mmap, on ramfs", FAMILY, ELSEWHERE, bypasses=CACHES)
def mapped_ramfs(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above, on ramfs."""
    with on.mount("ramfs", payload.parent / "ram") as where:
        return twice(on, where / "program", payload, marker, map_and_write)


@attack("overlay over memory", FAMILY, STOPPED, bypasses=CACHES)
def overlay_memory(on: Ground, payload: Path, marker: Path) -> Seen:
    """Writes through a shared mapping on an overlay whose upper layer is a tmpfs: it has the overlay's name, and the
    times of memory."""
    with on.overlay(on.memory / payload.parent.name) as where:
        return twice(on, where / "program", payload, marker, map_and_write)


@attack("below the overlay", FAMILY, STOPPED, bypasses=CACHES)
def below_overlay(on: Ground, payload: Path, marker: Path) -> Seen:
    """Writes to the file of the upper layer: the overlay's inode goes on showing the old times."""
    with on.overlay(payload.parent / "overlay") as where:
        return twice(
            on, where / "program", payload, marker, lambda _path, body: overwrite(where.parent / "upper/program", body)
        )


@attack("whole seconds", FAMILY, ELSEWHERE, bypasses=CACHES)
def whole_seconds(on: Ground, payload: Path, marker: Path) -> Seen:
    """Writes within the same second, on a file system that keeps no fractions (ext4 with inodes of 128 bytes)."""

    def change(program: Path, body: bytes) -> None:
        before = program.stat().st_ctime_ns
        overwrite(program, body)
        if program.stat().st_ctime_ns != before:
            raise TimeoutError

    with filled_image(payload.parent, "ext4", ["mkfs.ext4", "-q", "-F", "-I", "128"]) as where:
        for _ in range(20):
            wait_for_a_second_to_begin()
            try:
                return twice(on, where / "program", payload, marker, change)
            except TimeoutError:
                continue
    raise Missing("a machine that does all this within one second")


@attack("vfat", FAMILY, ELSEWHERE, bypasses=CACHES)
def vfat(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above on vfat, which keeps every second second: the file system of most sticks."""
    with filled_image(payload.parent, "vfat", ["mkfs.vfat"]) as where:
        wait_for_a_second_to_begin(2)
        return twice(on, where / "program", payload, marker, overwrite)


def wait_for_a_second_to_begin(every: int = 1) -> None:
    while time.time() % every > 0.02:
        time.sleep(0.005)


@attack("replaced", FAMILY, STOPPED)
def replaced(on: Ground, payload: Path, marker: Path) -> Seen:
    """Renames the listed program over the believed one."""
    program = believed(on, payload.parent)
    payload.rename(program)
    return on.execute(program, marker)


@attack("exchanged", FAMILY, STOPPED, bypasses=CACHES)
def exchanged(on: Ground, payload: Path, marker: Path) -> Seen:
    """Exchanges the two names in one step (RENAME_EXCHANGE)."""
    program = believed(on, payload.parent)
    exchange(payload, program)
    return on.execute(program, marker)


@attack("inode reuse", FAMILY, STOPPED, bypasses="caches keyed by device and inode alone")
def inode_reuse(on: Ground, payload: Path, marker: Path) -> Seen:
    """Deletes the believed file and makes listed ones until one has its inode number."""
    program = believed(on, payload.parent)
    number = program.stat().st_ino
    program.unlink()
    for tries in range(200):
        again = Path(shutil.copy(payload, payload.with_name(f"again{tries}")))
        if again.stat().st_ino == number:
            return on.execute(again, marker)
    raise Missing("a file system that gives an inode number out again")


@attack("copy_file_range", FAMILY, STOPPED, bypasses="hooks on write(2)")
def copied_range(on: Ground, payload: Path, marker: Path) -> Seen:
    """Fills it with copy_file_range(2) instead of write(2)."""
    program = believed(on, payload.parent)
    with payload.open("rb") as source, program.open("r+b") as target:
        os.copy_file_range(source.fileno(), target.fileno(), payload.stat().st_size)
    return on.execute(program, marker)


@attack("sendfile", FAMILY, STOPPED, bypasses="hooks on write(2)")
def sent_file(on: Ground, payload: Path, marker: Path) -> Seen:
    """Fills it with sendfile(2)."""
    program = believed(on, payload.parent)
    with payload.open("rb") as source, program.open("r+b") as target:
        os.sendfile(target.fileno(), source.fileno(), 0, payload.stat().st_size)
    return on.execute(program, marker)


@attack("splice", FAMILY, STOPPED, bypasses="hooks on write(2)")
def spliced(on: Ground, payload: Path, marker: Path) -> Seen:
    """Fills it from a pipe with splice(2)."""
    program, size = believed(on, payload.parent), payload.stat().st_size
    read_end, write_end = os.pipe()
    with payload.open("rb") as source, program.open("r+b") as target, open(read_end, "rb"), open(write_end, "wb"):
        libc = ctypes.CDLL(None, use_errno=True)
        for _ in range(-(-size // 65536)):
            moved = libc.splice(source.fileno(), None, write_end, None, ctypes.c_size_t(65536), 0)
            libc.splice(read_end, None, target.fileno(), None, ctypes.c_size_t(moved), 0)
    return on.execute(program, marker)


def reflinked(on: Ground, payload: Path, marker: Path, kind: str, maker: list[str], size: int) -> Seen:
    place = on.work / payload.parent.name  # its image is larger than our disk, though most of it is a hole
    place.mkdir()
    with filled_image(place, kind, maker, size) as where:
        program, source = believed(on, where), Path(shutil.copy(payload, where / "source"))
        with source.open("rb") as given, program.open("r+b") as target:
            clone_blocks(target.fileno(), given.fileno())
        return on.execute(program, marker)


@attack("reflink, on xfs", FAMILY, ELSEWHERE, bypasses="hooks on write(2); caches of verdicts keyed by inode")
def reflinked_xfs(on: Ground, payload: Path, marker: Path) -> Seen:
    """Has the file share the blocks of the listed one (FICLONE): nothing is written."""
    return reflinked(on, payload, marker, "xfs", ["mkfs.xfs", "-q"], 320 << 20)


@attack("reflink, on btrfs", FAMILY, ELSEWHERE, bypasses="hooks on write(2); device numbers of stat(2)")
def reflinked_btrfs(on: Ground, payload: Path, marker: Path) -> Seen:
    """As above on btrfs, where stat(2) names another device than the kernel has."""
    return reflinked(on, payload, marker, "btrfs", ["mkfs.btrfs", "-q"], 128 << 20)


@attack("collapsed", FAMILY, STOPPED, bypasses="hooks on write(2)")
def collapsed(on: Ground, payload: Path, marker: Path) -> Seen:
    """The listed program lies behind another one in the same file; fallocate(COLLAPSE_RANGE) takes that away."""
    program, size = payload.with_name("program"), payload.stat().st_size
    front = (on.payloads.directory / "quiet").read_bytes().ljust(-(-size // 4096) * 4096, b"\0")
    program.write_bytes(front + payload.read_bytes())
    program.chmod(0o755)
    on.make_known(program)
    with program.open("r+b") as file:
        fallocate(file.fileno(), FALLOC_FL_COLLAPSE_RANGE, 0, len(front))
    return on.execute(program, marker)


@attack(
    "block device",
    FAMILY,
    UNSEEN,
    limit="who may write to a disk below its file system is root, and only dm-verity or fs-verity would see it",
)
def block_device(on: Ground, payload: Path, marker: Path) -> Seen:
    """Writes to the blocks of the file below its mounted file system, and drops the page cache."""
    program = believed(on, payload.parent)
    with program.open("rb") as file:
        os.fsync(file.fileno())
        change_below(on, file.fileno(), payload.read_bytes())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return on.execute(program, marker)


def change_below(on: Ground, descriptor: int, new: bytes) -> None:
    """Write `new` to the blocks that a file has, wherever they are."""
    os.sync()
    [size] = NUMBER.unpack(fcntl.ioctl(descriptor, FIGETBSZ, NUMBER.pack(0)))
    with (on.work / "disk.img").open("r+b") as image, mmap.mmap(image.fileno(), 0) as blocks:
        for number, start in enumerate(range(0, len(new), size)):
            [block] = NUMBER.unpack(fcntl.ioctl(descriptor, FIBMAP, NUMBER.pack(number)))
            assert block, "a hole in a program"
            part = new[start : start + size]
            blocks[block * size : block * size + len(part)] = part
        blocks.flush()


@attack(
    "window",
    FAMILY,
    STOPPED,
    settle_s=0.0,
    is_alike=True,
    bypasses="daemons that hash, answer, and let the file be opened again",
)
def window(on: Ground, payload: Path, marker: Path) -> Seen:
    """One process writes the two programs into the file in turn, without end, while another starts it again and
    again: some write falls between hash and start."""
    program, bad = on.payloads.quiet(payload.with_name("program")), payload.read_bytes()
    good = program.read_bytes()
    with on.meanwhile(lambda: _write_in_turn(program, good, bad)):
        return on.until_met(program, marker, tries=RACES)


def _write_in_turn(program: Path, good: bytes, bad: bytes) -> None:
    while True:
        for body in (bad, good):
            try:
                overwrite(program, body)
            except OSError:
                time.sleep(0.0002)  # ETXTBSY: it runs, or waits for its hash
