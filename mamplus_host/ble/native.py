# SPDX-License-Identifier: Apache-2.0
"""The C that reads, sums and merges lists (kernel_probes/native/ble_*.c), called from Python.

Files are handed over as what they are in memory, bytes or a mapping; C keeps none of them.
Every fault raises BleInvalid and says what does not fit, and where. So does a file that becomes
shorter while it is read, or whose disk is pulled out: that would end the process otherwise (SIGBUS).
"""

import mmap
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from io import FileIO
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from mamplus_host.ble._file import ffi, lib
from mamplus_host.errors import BleInvalid


class Mapped(mmap.mmap):
    """A file, mapped to be read. Ask `require_whole` after each read: what is gone from it reads as zeros."""

    _watched: "ffi.CData"  # struct mamplus_ble_mapping *; None once it is closed

    def __new__(cls, file: FileIO) -> "Mapped":
        if not os.fstat(file.fileno()).st_size:
            raise BleInvalid(f"{str(file.name)!r} is empty, want a BLE generation")
        made = super().__new__(cls, file.fileno(), 0, access=mmap.ACCESS_READ)
        with ffi.from_buffer(made) as data:
            made._watched = lib.mamplus_ble_watch(data, len(made))
        if not made._watched:
            raise MemoryError("no memory to watch a mapped list")
        return made

    @property
    def is_lost(self) -> bool:
        """Whether a part of the file could not be read: then zeros stand in its place."""
        return not self.closed and bool(self._watched.is_lost)

    @property
    def is_cut(self) -> bool:
        """Whether the file is not as long any more as it was. Behind its new end a page reads as zeros."""
        return not self.closed and self.size() != len(self)

    def close(self) -> None:
        super().close()
        self._unwatch()

    def __del__(self) -> None:
        self._unwatch()  # before the memory is somebody else's

    def _unwatch(self) -> None:
        watched, self._watched = getattr(self, "_watched", None), None
        if watched:
            lib.mamplus_ble_unwatch(watched)


Buffer = bytes | mmap.mmap
ROOT_SIZE = 32
_UNWRITTEN = -2  # NO_ROOM of ble_write.c
_SECTIONS = {
    number: name.removeprefix("MAMPLUS_BLE_").lower()
    for number, name in ffi.typeof("enum mamplus_ble_section").elements.items()
}


class _Buffered(Protocol):
    @property
    def buffer(self) -> Buffer: ...


_Holder = TypeVar("_Holder", bound=_Buffered)
_Given = ParamSpec("_Given")
_Read = TypeVar("_Read")


def call(function: Callable[..., int], *arguments: object) -> int:
    """Call a C function whose last argument is a fault; return its result, BleInvalid when it is negative.

    OSError when it could not write a file.
    """
    fault = ffi.new("struct mamplus_ble_fault *")
    result = int(function(*arguments, fault))
    if result < 0:
        where = f" in entry {fault.index} of {_SECTIONS[fault.section]}" if fault.section in _SECTIONS else ""
        if result == _UNWRITTEN:
            raise OSError(ffi.errno, os.strerror(ffi.errno))
        raise BleInvalid(f"the list is damaged: its {ffi.string(fault.what).decode()} does not fit{where}")
    return result


def require_whole(data: Buffer, *, by_size: bool = True) -> None:
    """Raise BleInvalid when `data` is a file that became another one: then what was read of it may be wrong.

    Who reads often looks at the size, a system call, once at the end.
    """
    if isinstance(data, Mapped) and (data.is_lost or (by_size and data.is_cut)):
        raise BleInvalid(
            f"the list's file has {data.size()} bytes, want {len(data)} as when it was opened, and all of them"
            " readable: somebody writes to it, or its disk fails; load the list again"
        )


@contextmanager
def reading(data: Buffer) -> Iterator["ffi.CData"]:
    """Yield where `data` lies in memory until the end of the block; BleInvalid there, unless it was whole."""
    try:
        with ffi.from_buffer(data) as memory:
            yield memory
    finally:
        require_whole(data)


def of_whole(read: Callable[Concatenate[_Holder, _Given], _Read]) -> Callable[Concatenate[_Holder, _Given], _Read]:
    """Make a method that reads its object's `buffer` raise BleInvalid when that was not whole."""

    @wraps(read)
    def checked(holder: _Holder, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Read:
        try:
            return read(holder, *args, **kwargs)
        finally:
            require_whole(holder.buffer)

    return checked


@contextmanager
def pieces(files: Sequence[Buffer]) -> Iterator["ffi.CData"]:
    """Yield `files` as an array of struct mamplus_ble_piece, good until the end of the block."""
    made = ffi.new("struct mamplus_ble_piece[]", len(files) + 1)
    with ExitStack() as held:
        for place, data in zip(made, files, strict=False):
            place.data = held.enter_context(reading(data))
            place.size, place.is_mapped = len(data), isinstance(data, mmap.mmap)
        yield made


def check(data: Buffer) -> bytes:
    """Read everything once: order and form of keys, groups, numbers, texts; return the state root of the entries."""
    return _sum(lib.mamplus_ble_check_and_sum, data)


def state_root(data: Buffer) -> bytes:
    """Return the state root that the entries of a checked list make."""
    return _sum(lib.mamplus_ble_root, data)


def _sum(function: Callable[..., int], data: Buffer) -> bytes:
    root = ffi.new("unsigned char[]", ROOT_SIZE)
    with pieces([data]) as files:
        call(function, files, root)
    return bytes(root)


def after(parts: Sequence[Buffer], root: bytes, total: int, delta: Buffer) -> tuple[bytes, int]:
    """Return (state root, number of entries) after `delta` of the layer made of `parts`, the base first.

    `root` and `total` are those before. All files were checked.
    """
    state, entries = ffi.new("unsigned char[]", list(root)), ffi.new("int64_t *", total)
    with pieces([*parts, delta]) as files:
        call(lib.mamplus_ble_after, files, len(parts), files + len(parts), state, entries)
    return bytes(state), int(entries[0])


def verdicts(
    parts: Sequence[tuple[int, Buffer]], asked: Buffer, section: int, count: int, now_s: int
) -> tuple[bytes, bytes]:
    """Return what `parts` say together of the `count` keys that `asked` has in `section`, in their order.

    `parts` are (layer, file), layer by layer, the base of each first, then its deltas by age. The answer
    is one byte a key, the verdict (0: nothing), and four, little-endian, when it ends (0: never).
    """
    said, ends = ffi.new("unsigned char[]", count), ffi.new("uint32_t[]", count)
    layers = ffi.new("uint32_t[]", [layer for layer, _data in parts])
    with pieces([*(data for _layer, data in parts), asked]) as files:
        stack = ffi.new("struct mamplus_ble_stack *", (files, layers, len(parts), now_s))
        call(lib.mamplus_ble_verdicts, stack, files + len(parts), section, said, ends)
    return bytes(ffi.buffer(said)), bytes(ffi.buffer(ends))


def count_ended(parts: Sequence[Buffer], section: int, now_s: int) -> int:
    """Return how many entries stand in a layer, made of `parts` (the base first, then deltas by age), but ended."""
    ended = ffi.new("uint64_t *")
    with pieces(parts) as files:
        stack = ffi.new("struct mamplus_ble_stack *", (files, ffi.NULL, len(parts), now_s))
        call(lib.mamplus_ble_count_ended, stack, section, ended)
    return int(ended[0])


def find_id(data: Buffer, entry_id: int) -> int | None:
    """Return the slot of the entry with this id, None when there is none."""
    with pieces([data]) as files:
        slot = int(lib.mamplus_ble_find_id(files, entry_id))
    return slot if slot >= 0 else None


def merge(parts: Sequence[Buffer], descriptor: int) -> None:
    """Write the whole list that `parts` make, the base first, then deltas by age, to an empty open file."""
    with pieces(parts) as files:
        call(lib.mamplus_ble_merge, files, len(parts), descriptor)


def diff(before: Buffer, after_: Buffer) -> bytes:
    """Return the delta that leads from one whole list to another."""
    return _in_memory(lib.mamplus_ble_diff, before, after_)


def trimmed(base: Buffer, delta: Buffer) -> bytes:
    """Return `delta` without what changes nothing in the whole list `base`."""
    return _in_memory(lib.mamplus_ble_trim, base, delta)


def _in_memory(function: Callable[..., int], one: Buffer, two: Buffer) -> bytes:
    descriptor = os.memfd_create("delta", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "r+b") as file, pieces([one, two]) as files:
        call(function, files, descriptor)
        file.seek(0)
        return file.read()


def order(keys: bytes, key_size: int) -> tuple[Sequence[int], bool]:
    """Return the indexes of `keys` (one after the other) as they rise by their bytes, and whether any comes twice."""
    indexes = array("I", bytes(len(keys) // key_size * 4))
    with ExitStack() as held:
        out = held.enter_context(ffi.from_buffer("uint32_t[]", indexes, require_writable=True))
        is_twice = call(lib.mamplus_ble_order, keys, key_size, len(indexes), out)
    return indexes, bool(is_twice)
