# SPDX-License-Identifier: Apache-2.0
"""File systems of our own, in images and in memory; each is unmounted at the end."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.attacks import calls
from tests.attacks.attack import Missing

DISK_BYTES = 48 << 20
FREE_WITHIN_S = 30.0


@contextlib.contextmanager
def filled_image(directory: Path, kind: str, maker: list[str], size: int = 4 << 20) -> Iterator[Path]:
    """A file system in an image of its own, made by `maker`; Missing where there is no such tool or file system."""
    image = directory / "image"
    image.touch()
    os.truncate(image, size)
    if not shutil.which(maker[0]):
        raise Missing(maker[0])
    subprocess.run([*maker, image], check=True, stdout=subprocess.DEVNULL)
    with mounted(str(image), directory / "mounted", kind, "loop") as path:
        yield path


@contextlib.contextmanager
def mounted(what: str, where: Path, kind: str, options: str = "") -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    extra = ["-o", options] if options else []
    done = subprocess.run(["mount", "-t", kind, *extra, what, where], check=False, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"mount -t {kind}")
    try:
        yield where
    finally:
        # In a machine that is thrown away an agent that did not end guards it.
        subprocess.run(["umount", "-l", where], check=not calls.is_whole_machine_ours())


@contextlib.contextmanager
def mounted_when_free(what: str, where: Path, kind: str, options: str) -> Iterator[Path]:
    """As `mounted`, on a loop device that the kernel lets go of only when nobody has it open any more."""
    end = time.monotonic() + FREE_WITHIN_S
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(mounted(what, where, kind, options))
                break
            except Missing:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        yield where


@contextlib.contextmanager
def own_disk(work: Path) -> Iterator[Path]:
    """A disk of our own, so that it may be marked, filled and looked at block by block."""
    subprocess.run(["modprobe", "-q", "loop"], check=False, capture_output=True)  # built in, on some kernels
    image = work / "disk.img"
    image.touch()
    os.truncate(image, DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", image], check=True)
    with mounted(str(image), work / "disk", "ext4", "loop") as path:
        path.chmod(0o755)
        yield path


@contextlib.contextmanager
def own_memory(work: Path) -> Iterator[Path]:
    with mounted("mptest", work / "memory", "tmpfs", "size=32m,mode=755") as path:
        yield path
