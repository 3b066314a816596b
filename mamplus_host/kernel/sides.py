# SPDX-License-Identifier: Apache-2.0
"""Two sets of tables, of which one is asked; the other one is where the next generation is made.

One 8-byte write names the side and its generation: a program reads it once and asks that side
alone. If making the next one fails, the old one stays. The old side is emptied once no program
can still be reading it.

The kernel lets the writer of a map of maps wait until no program runs that began before, some
milliseconds. So tables are put into their side while they are still being filled.
"""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mamplus_host.errors import KernelRefused
from mamplus_host.kernel import layout
from mamplus_host.kernel.bpf import Map, map_id
from mamplus_host.kernel.filling import TABLES, Filled
from mamplus_host.kernel.shape import pack_shape

_FIRST = bytes(4)  # key of a one-element array


class Sides:
    """The maps `active`, `ble` and `shape` pinned in `directory`. KernelRefused when one cannot be opened."""

    def __init__(self, directory: Path) -> None:
        self._active = Map.pinned(directory / "active", 4, layout.ACTIVE.size)
        self._tables = Map.pinned(directory / "ble", 4, 4)
        self._shape = Map.pinned(directory / "shape", 4, layout.SHAPE.size)

    def word(self) -> int:
        """Return what is asked now: generation << 1 | side; 0: nothing."""
        return int.from_bytes(self._active.get(_FIRST) or b"", sys.byteorder)

    @contextmanager
    def installing(self, tables: Sequence[Filled]) -> Iterator[int]:
        """Put tables into the side that nobody asks, and yield it; they may be filled meanwhile.

        KernelRefused when the kernel does not take them; on any failure the side is emptied.
        """
        word = self.word()
        side = 1 - (word & 1) if word else 0
        errors = list[KernelRefused]()
        installer = threading.Thread(target=self._install, args=(side, tables, errors))
        installer.start()
        try:
            yield side
            installer.join()
            if errors:
                raise errors[0]
        except BaseException:
            installer.join()
            self._clear(side)
            raise

    def replace(self, side: int, planned: Sequence[Filled], made: Sequence[Filled]) -> None:
        """Put those tables into a side that had to be made larger than planned."""
        for before, now in zip(planned, made, strict=True):
            if before.memory is not now.memory:
                self._tables.set_many(_elements(side, now))

    def ask(self, generation: int, side: int, salt: bytes, tables: Sequence[Filled]) -> int:
        """Make `tables`, those of `side`, the ones that are asked, and let go of the others.

        Returns when that was, in nanoseconds of the monotonic clock.
        """
        old = self.word()
        self._shape.set(side.to_bytes(4, sys.byteorder), pack_shape(salt, tables))
        self._active.set(_FIRST, layout.ACTIVE.pack(generation << 1 | side))
        asked_ns = time.monotonic_ns()
        if old:
            self._tables.set(*_elements(side, tables[0])[-1])  # waits for programs that read the old word
            self._clear(1 - side)
        return asked_ns

    def restore(self, word: int, salt: bytes, tables: Sequence[Filled]) -> list[str]:
        """Write again what is not as it was when `word` was asked first; return the names of those maps."""
        side, found = word & 1, []
        for table in tables:
            ids = [map_id(part).to_bytes(4, sys.byteorder) for part in table.memory.maps]
            if [self._tables.get(place) for place, _ in _elements(side, table)] != ids:
                self._tables.set_many(_elements(side, table))
                found.append("ble")
        key, shape = side.to_bytes(4, sys.byteorder), pack_shape(salt, tables)
        if self._shape.get(key) != shape:
            self._shape.set(key, shape)
            found.append("shape")
        if self.word() != word:
            self._active.set(_FIRST, layout.ACTIVE.pack(word))
            found.append("active")
        return found

    def _install(self, side: int, tables: Sequence[Filled], errors: list[KernelRefused]) -> None:
        try:
            self._tables.set_many([element for table in tables for element in _elements(side, table)])
        except KernelRefused as error:
            errors.append(error)

    def _clear(self, side: int) -> None:
        places = [_place(side, table.number, part) for table in TABLES for part in range(layout.PARTS)]
        self._tables.remove_many([place for place in places if self._tables.get(place) is not None])


def _place(side: int, table: int, part: int) -> bytes:
    return ((side * layout.T_MAX + table) * layout.PARTS + part).to_bytes(4, sys.byteorder)


def _elements(side: int, table: Filled) -> list[tuple[bytes, bytes]]:
    """Return key and value of each of a table's maps: the last one has its end."""
    maps = table.memory.maps
    return [
        (_place(side, table.table.number, part), one.number.to_bytes(4, sys.byteorder))
        for part, one in enumerate(maps, layout.PARTS - len(maps))
    ]
