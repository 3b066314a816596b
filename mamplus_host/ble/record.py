# SPDX-License-Identifier: Apache-2.0
"""What `state/ble/installed.json` says: which files are the list, and which were it before."""

import hashlib
import os
from pathlib import Path

import msgspec

from mamplus_host.ble.layer import Layer, state_of

HISTORY = 10  # generations
NETWORK = "network"  # source of what came from the enterprise itself


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a layer: its list, or a delta on top of it."""

    name: str  # in state/ble
    sha256: str
    seen: tuple[int, int, int, int]  # inode, bytes, mtime_ns and ctime_ns when it was verified

    @classmethod
    def of(cls, path: Path) -> "Part":
        """Describe a verified file that has its name for good."""
        return cls(name=path.name, sha256=sha256_of(path), seen=look(path))


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a generation changed in a layer, for people."""

    layer: str
    before: int  # its number before; 0: it had none
    number: int
    entries_before: int
    entries: int
    changes: int = 0  # added, replaced and withdrawn values; 0 where a whole list came: nobody counted them
    is_delta: bool = False


class LayerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A layer as it is installed: `parts` are its list, then the deltas on it, oldest first."""

    layer: str  # enterprise, emergency, feeds
    number: int  # the generation at which it changed last
    entries: int
    root: str  # state root, hex
    created_s: int  # by the enterprise's clock, signed
    parts: tuple[Part, ...]

    @property
    def which(self) -> Layer:
        return Layer[self.layer.upper()]


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the history."""

    number: int
    entries: int
    created_s: int  # of its newest layer
    installed_at: int  # by the device's clock
    source: str  # network, or the path or address it was loaded from; "found": the record was lost
    enterprise_id: str  # "" when it was found
    layers: tuple[LayerRecord, ...]
    changed: tuple[Change, ...] = ()
    bytes: int = 0  # that it cost on the network, metadata included; of a carrier, what was read; 0: not known

    @property
    def state(self) -> str:
        """What tells it from every other generation, also from one of the same number."""
        return state_of((one.which, one.number, one.root) for one in self.layers)

    @property
    def sha256(self) -> str:
        """Of its one list; "" where it has more files."""
        return self.parts[0].sha256 if len(self.parts) == 1 else ""

    def layer(self, layer: Layer) -> LayerRecord | None:
        return next((one for one in self.layers if one.which is layer), None)

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(part for layer in self.layers for part in layer.parts)


class Book(msgspec.Struct, frozen=True):
    """The file."""

    history: list[Installed]  # newest first; the first is installed


def look(path: Path) -> tuple[int, int, int, int]:
    """Return what changes when a file is written to or replaced."""
    stat = os.stat(path)
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
