# SPDX-License-Identifier: Apache-2.0
"""All path patterns of a list, asked at once: a tree in C (kernel_probes/native/path_globs.c).

No Python object a pattern: the tree is built from the file's columns. 10,000 patterns cost a path about as much as one.
"""

import errno
import logging
from collections.abc import Iterable

from mamplus_host.ble._file import ffi, lib
from mamplus_host.ble.format import Generation, Section
from mamplus_host.ble.native import reading

LOG = logging.getLogger("mamplus")
_NO_MEMORY = "no memory for the path patterns of the list"
_ROOM = 64  # patterns that cover one path, at first; more make more room


class Globs:
    """The path patterns of the files `parts`. What a part withdraws is still in here: the list itself decides."""

    def __init__(self, parts: Iterable[Generation]) -> None:
        """MemoryError when there is none; patterns beyond the tree's bound are left out and counted in `left_out`."""
        self._set = ffi.gc(lib.mamplus_globs_new(), lib.mamplus_globs_free)
        if not self._set:
            raise MemoryError(_NO_MEMORY)
        self._found = ffi.new("uint32_t[]", _ROOM)
        self._parts: list[tuple[int, Generation]] = []  # number of the first text, and whose it is
        self.count = self.left_out = 0
        for part in parts:
            self._add(part)

    def covering(self, path: bytes) -> list[str]:
        """Return the patterns, canonical and each once, that cover `path` (bytes, as the kernel has it)."""
        count = self._ask(path)
        if count > len(self._found):
            self._found = ffi.new("uint32_t[]", count)
            count = self._ask(path)
        return list(dict.fromkeys(self._text(number) for number in self._found[0:count]))

    def _ask(self, path: bytes) -> int:
        return int(lib.mamplus_globs_ask(self._set, path, len(path), self._found, len(self._found)))

    @property
    def size_bytes(self) -> int:
        return int(lib.mamplus_globs_bytes(self._set))

    def _add(self, part: Generation) -> None:
        view = part.sections.get(Section.PATH)
        if view is None:
            return
        first = self._parts[-1][0] + len(self._parts[-1][1].slots(Section.PATH)) if self._parts else 0
        strings = part.strings
        with reading(part.buffer) as data:
            added = lib.mamplus_globs_add(
                self._set, data + strings.start, len(strings), data + view.texts, view.count, first
            )
        if added == -errno.ENOMEM:
            raise MemoryError(_NO_MEMORY)
        self._parts.append((first, part))
        if added < 0:
            self.left_out += view.count
            LOG.error("the path patterns of generation %d are more than this device holds; some are not enforced",
                      part.number)  # fmt: skip
        self.count += max(added, 0)

    def _text(self, number: int) -> str:
        first, part = next(pair for pair in reversed(self._parts) if pair[0] <= number)
        return part.value(part.slots(Section.PATH).start + number - first)[1]
