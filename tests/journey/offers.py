# SPDX-License-Identifier: Apache-2.0
"""What `trust` would have said of a file: for tests that begin behind it."""

from dataclasses import dataclass
from pathlib import Path

from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer


@dataclass(frozen=True, slots=True)
class Trusted:
    """The offer of a layer."""

    layer: Layer
    number: int
    entries: int
    root: bytes
    created_s: int
    full: Path | None = None
    deltas: tuple[Path, ...] = ()


def whole(path: Path, layer: Layer = Layer.ENTERPRISE) -> Trusted:
    """Return the offer of the list at `path`."""
    with Generation.open(path) as made:
        return Trusted(layer, made.number, made.count, made.root, made.created_s, full=path)


def chain(*paths: Path, layer: Layer = Layer.ENTERPRISE) -> Trusted:
    """Return the offer of deltas, the oldest first."""
    with Generation.open(paths[-1]) as last:
        return Trusted(layer, last.number, last.total, last.root, last.created_s, deltas=paths)
