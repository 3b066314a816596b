# SPDX-License-Identifier: Apache-2.0
"""The kernel memory of a table: one map, or a large table's two, lying one behind the other in this process.

The kernel makes and maps a map with one processor. Of ten million entries that is a fifth of a load, so
two threads make the halves of such a table.
"""

import os
import threading

from mamplus_host.errors import KernelRefused
from mamplus_host.kernel import layout
from mamplus_host.kernel._native import ffi, lib
from mamplus_host.kernel.bpf import Map, checked

_ARRAY, _INNER_FLAGS = 2, 1 << 10 | 1 << 12  # BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE | BPF_F_INNER_MAP
_LINES_A_PAGE = 4096 // layout.BUCKET.size * 16  # on a machine with pages of up to 64 KB
_SPLIT_LINES = (8 << 20) // layout.BUCKET.size  # so large a table has two maps, where there are two processors


class TableMemory:
    """`lines` cache lines, zeros at first. KernelRefused without memory."""

    def __init__(self, lines: int, name: str, label: str) -> None:
        is_split = lines >= _SPLIT_LINES and len(os.sched_getaffinity(0)) > 1
        self.cut = lines // 2 // _LINES_A_PAGE * _LINES_A_PAGE if is_split else 0  # lines in the first of two maps
        self.bytes = lines * layout.BUCKET.size
        self.maps: tuple[Map, ...] = ()  # the last one, which may be the only one, has the table's end
        self._name, self._label, self._at = name, label, ffi.NULL
        if self.cut:
            self._make_two(lines)
        else:
            self.maps = (self._make(lines),)

    def mapped(self, *, is_read_only: bool = False) -> "ffi.CData":
        """Return its words in memory, until `let_go`. Mapping and unmapping take their time: both are done once."""
        if not self._at:
            self._reserve()
            for part in range(len(self.maps)):
                self._map(part, self.maps[part], is_read_only=is_read_only)
        return ffi.cast("uint64_t *", self._at)

    def let_go(self) -> None:
        """Unmap the memory."""
        at, self._at = self._at, ffi.NULL
        if at:
            lib.mamplus_unmap(at, self.bytes)

    def __del__(self) -> None:
        self.let_go()

    def _make(self, lines: int) -> Map:
        return Map.create(_ARRAY, 4, layout.BUCKET.size, lines, _INNER_FLAGS, self._name, label=self._label)

    def _make_two(self, lines: int) -> None:
        """Make both maps at one time, and map them."""
        made, errors = dict[int, Map](), list[KernelRefused]()

        def make(part: int) -> None:
            try:
                made[part] = self._make(lines - self.cut if part else self.cut)
                self._map(part, made[part])
            except KernelRefused as error:
                errors.append(error)

        self._reserve()
        first = threading.Thread(target=make, args=(0,))
        first.start()
        make(1)
        first.join()
        if errors:
            raise errors[0]
        self.maps = (made[0], made[1])

    def _reserve(self) -> None:
        self._at = lib.mamplus_reserve(self.bytes)
        if not self._at:
            raise KernelRefused(f"no address space for {self.bytes} bytes of {self._name}")

    def _map(self, part: int, of: Map, *, is_read_only: bool = False) -> None:
        begin = self.cut * layout.BUCKET.size if part else 0
        size = self.cut * layout.BUCKET.size if self.cut and not part else self.bytes - begin
        checked(lib.mamplus_map_at(self._at + begin, of.number, size, is_read_only), f"map {self._name}")
