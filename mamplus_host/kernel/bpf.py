# SPDX-License-Identifier: Apache-2.0
"""Descriptors of BPF objects, and what can be asked of them.

Thin over `_native` (kernel_probes/native): every refusal of the kernel becomes KernelRefused
with its errno. Keys and values are bytes, laid out as `layout` says.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from mamplus_host.errors import KernelRefused
from mamplus_host.kernel._native import ffi, lib

_NO_BATCH = (-22, -524)  # EINVAL: no such command; ENOTSUPP: not for maps of this kind


def checked(result: int, what: str) -> int:
    """Return `result` unless it is -errno; then raise KernelRefused, naming `what`."""
    if result < 0:
        raise KernelRefused(f"{what}: {os.strerror(-result)}", errno=-result)
    return result


class Fd:
    """A descriptor that closes itself."""

    def __init__(self, number: int) -> None:
        self.number = number

    @classmethod
    def open(cls, path: Path) -> "Fd":
        """Return the object pinned at `path`."""
        return cls(checked(lib.mamplus_obj_get(os.fsencode(path)), f"open the pin {str(path)!r}"))

    def pin(self, path: Path) -> None:
        checked(lib.mamplus_obj_pin(self.number, os.fsencode(path)), f"pin at {str(path)!r}")

    def close(self) -> None:
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class Map(Fd):
    """A map; `key_size` and `value_size` in bytes, as seen from user space."""

    def __init__(self, number: int, key_size: int, value_size: int, name: str) -> None:
        super().__init__(number)
        self.key_size, self.value_size, self.name = key_size, value_size, name

    @classmethod
    def pinned(cls, path: Path, key_size: int, value_size: int) -> "Map":
        number = checked(lib.mamplus_obj_get(os.fsencode(path)), f"open the pin {str(path)!r}")
        return cls(number, key_size, value_size, path.name)

    @classmethod
    def create(
        cls, kind: int, key_size: int, value_size: int, entries: int, flags: int, name: str, *, label: str
    ) -> "Map":  # fmt: skip
        """`label`: what the kernel calls it, at most 15 letters; `name`: what we do."""
        number = lib.mamplus_map_create(kind, key_size, value_size, entries, flags, label.encode("ascii"))
        return cls(checked(number, f"create a map of {entries} entries for {name}"), key_size, value_size, name)

    def get(self, key: bytes) -> bytes | None:
        value = ffi.new("unsigned char[]", self.value_size)
        result = lib.mamplus_map_lookup(self.number, self._sized(key), value)
        if result == -2:  # ENOENT
            return None
        checked(result, f"look up in {self.name}")
        return bytes(ffi.buffer(value))

    def set(self, key: bytes, value: bytes) -> None:
        if len(value) != self.value_size:
            raise KernelRefused(f"a value of {self.name} has {len(value)} bytes, want {self.value_size}")
        checked(lib.mamplus_map_update(self.number, self._sized(key), value), f"write to {self.name}")

    def set_many(self, elements: Sequence[tuple[bytes, bytes]]) -> None:
        """Set all; before Linux 5.19 a map of maps takes them one by one, and the kernel waits after each."""
        keys, values = (b"".join(part) for part in zip(*elements, strict=True))
        result = lib.mamplus_map_update_batch(self.number, keys, values, len(elements))
        if result in _NO_BATCH:
            for key, value in elements:
                self.set(key, value)
        else:
            checked(result, f"write to {self.name}")

    def remove_many(self, keys: Sequence[bytes]) -> None:
        """Delete all, of which some may not be there."""
        if lib.mamplus_map_delete_batch(self.number, b"".join(keys), len(keys)) < 0:
            for key in keys:  # this kernel has no such call for the map, or one key was not there
                self.remove(key)

    def remove(self, key: bytes) -> bool:
        """Delete `key`; False when it was not there."""
        result = lib.mamplus_map_delete(self.number, self._sized(key))
        if result == -2:
            return False
        checked(result, f"delete from {self.name}")
        return True

    def keys(self) -> Iterator[bytes]:
        """Yield the keys; those that come and go meanwhile may be met or not."""
        last, following = ffi.NULL, ffi.new("unsigned char[]", self.key_size)
        while lib.mamplus_map_next(self.number, last, following) >= 0:
            last = bytes(ffi.buffer(following))
            yield last

    def _sized(self, key: bytes) -> bytes:
        if len(key) != self.key_size:
            raise KernelRefused(f"a key of {self.name} has {len(key)} bytes, want {self.key_size}")
        return key


def value_size(map_: Map) -> int:
    """Return how many bytes a value of a map has, whatever we think."""
    return checked(lib.mamplus_map_value_size(map_.number), f"ask for the size of {map_.name}")


def map_id(map_: Map) -> int:
    """Return the kernel's number of a map."""
    return checked(lib.mamplus_map_id(map_.number), f"ask for the id of {map_.name}")
