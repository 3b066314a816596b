# SPDX-License-Identifier: Apache-2.0
"""Power cuts. `cut`: a child does a deed and is gone at its n-th step; nothing of it runs on, no `finally` either.

`Disk`: the device is gone with all that was not on its disk: what nobody synced is lost, names and contents alike.
"""

import contextlib
import ctypes
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from mamplus_host.executor import steps
from tests.journey.powercut import changes

CUT, FAILED = 77, 78
DISK_BYTES = 24 << 20
_libc = ctypes.CDLL(None, use_errno=True)


def cut(work: Callable[[], object], at: int) -> bool:
    """Run `work` in a child that ends at step number `at`, from 1; say whether it came so far."""
    child = os.fork()
    if not child:
        passed = 0

        def hook(_name: str) -> None:
            nonlocal passed
            passed += 1
            if passed == at:
                os._exit(CUT)

        code = FAILED
        try:
            with steps.hooked(hook):
                work()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, CUT), f"the deed failed by itself before step {at}"
    return code == CUT


def each_cut(prepare: Callable[[], Callable[[], object]]) -> Iterator[int]:
    """Yield after a cut at each step of the work that `prepare` makes ready anew; ends when no step is left."""
    at = 1
    while cut(prepare(), at):
        yield at
        at += 1
    assert at > 1, "the deed has no step"


class Disk:
    """An ext4 at `point`, on an image in memory that stands for the disk.

    What the file system has not written to its block device is in the page cache alone; so a copy of the image, taken
    while nothing is being written to it, is what is found after a power cut at that moment.
    """

    def __init__(self, point: Path, images: Path) -> None:
        """Make an ext4; `images`: a directory in memory for it, and for its copies."""
        self.point, self._images, self._taken = point, images, 0
        point.mkdir()
        image = images / "first"
        image.touch()
        os.truncate(image, DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        self._mount(image)

    def insert(self, image: Path) -> None:
        """Have the disk as it was when `image` was taken; that image is used up."""
        self.close()
        self._mount(image)

    def close(self) -> None:
        subprocess.run(["umount", "-l", self.point], check=True)
        self._image.unlink()

    def moments(self, work: Callable[[], object], *, saves_all: bool = False) -> list[Path]:
        """Run `work`; return the disk as it was at each step, and before each change that Python makes of a file.

        Once for each content: between two writes of the file system nothing changes. `saves_all`: at each of these
        moments the kernel had just written all it had, as its timers may.
        """
        found, seen, is_busy = list[Path](), -1, False

        def look(_step: str = "") -> None:
            nonlocal seen, is_busy
            if is_busy:
                return
            is_busy = True
            if saves_all:
                self.sync()
            if self._writes() != seen:
                found.append(self._copied())
                seen = self._writes()
            is_busy = False

        with _watched(look), steps.hooked(look):
            work()
            look()
        return found

    def sync(self) -> None:
        descriptor = os.open(self.point, os.O_RDONLY)
        try:
            assert _libc.syncfs(descriptor) == 0
        finally:
            os.close(descriptor)

    def _copied(self) -> Path:
        """Return a copy of the image that no write fell into."""
        self._taken += 1
        copy = self._images / str(self._taken)
        while True:
            before = self._writes()
            _copy_sparse(self._image, copy)
            if self._writes() == before >= 0:
                return copy

    def _writes(self) -> int:
        """Return how many writes have reached the disk; -1 while one is on its way."""
        fields = (self._block / "stat").read_text().split()
        return -1 if int(fields[8]) else int(fields[4])

    def _mount(self, image: Path) -> None:
        if "MAMPLUS_VM" in os.environ:
            subprocess.run(["modprobe", "loop"], check=True)
        # Default options, but for the timer of its journal: on a slow machine it would save what nobody synced.
        subprocess.run(["mount", "-o", "loop,commit=300", image, self.point], check=True)
        self._image = image
        number = os.stat(self.point).st_dev
        self._block = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")


def _copy_sparse(source: Path, target: Path) -> None:
    """Copy what is in a file and leave its holes."""
    with source.open("rb") as old, target.open("wb") as new:
        size, at = os.fstat(old.fileno()).st_size, 0
        new.truncate(size)
        while True:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: a hole until the end
                return
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            os.pwrite(new.fileno(), os.pread(old.fileno(), end - at, at), at)
            at = end


_watchers: list[Callable[[], None]] = []


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if _watchers and changes(event, arguments):
        for look in _watchers:
            look()


@functools.cache
def _listen() -> None:
    sys.addaudithook(_audit)  # it stays as long as this process does


@contextlib.contextmanager
def _watched(look: Callable[[], None]) -> Iterator[None]:
    """Have `look` called before each change of a file that Python makes meanwhile."""
    _listen()
    _watchers.append(look)
    try:
        yield
    finally:
        _watchers.remove(look)
