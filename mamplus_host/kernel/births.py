# SPDX-License-Identifier: Apache-2.0
"""Which of the file systems that have had one device number has it now: `births` counts them (bpf/known.h).

What is remembered of a file says which one that was, in its flags, and is believed while it is there.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from mamplus_host.kernel import layout
from mamplus_host.kernel._native import lib
from mamplus_host.kernel.bpf import Fd, Map, checked

_U32 = 0xFFFFFFFF
_SHIFT = layout.KNOWN_BORN_SHIFT


class Births:
    """The map pinned in `directory`. KernelRefused when it cannot be opened."""

    def __init__(self, directory: Path) -> None:
        self._counts = Map.pinned(directory / "births", 4, 4)

    def count(self, dev: int) -> int:
        return int.from_bytes(self._counts.get(_key(dev)) or b"", sys.byteorder)

    def add(self, dev: int) -> None:
        """Do what the kernel's hooks do when a file system is mounted."""
        self._counts.set(_key(dev), (self.count(dev) + 1 & _U32).to_bytes(4, sys.byteorder))

    def flags(self, dev: int) -> int:
        """Return what the flags of an entry say that is about the file system there now."""
        return self.count(dev) << _SHIFT & _U32

    def is_there(self, flags: int, dev: int) -> bool:
        return flags >> _SHIFT == self.flags(dev) >> _SHIFT


def share(old: Iterable[Path], new: Path) -> None:
    """Have new hooks count in the map of the old ones: what is inherited from them rests on that count.

    It is one map through all releases, so that nothing is mounted unseen between two: another shape, another name.
    """
    for path in [one / "births" for one in old if (one / "births").exists()][:1]:
        with Fd.open(path) as births:
            checked(lib.mamplus_obj_pin(births.number, os.fsencode(new / "births")), f"pin {path.name}")


def _key(dev: int) -> bytes:
    return (dev % layout.BIRTHS_MAX).to_bytes(4, sys.byteorder)
