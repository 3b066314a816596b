# SPDX-License-Identifier: Apache-2.0
"""Whether what was offered of a layer is what was signed: its state root says so before it is installed.

Journey: trust -> [apply] -> store.

The files were verified by hash; here it is verified that they make, out of what this device holds, the
very list that the enterprise signed. Nothing is written.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from mamplus_host.ble import native
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.stack import LayerFiles
from mamplus_host.errors import BleInvalid


class Offer(Protocol):
    """What earned trust of a layer (`trust.LayerOffer`); neither `full` nor `deltas`: it is as installed."""

    @property
    def layer(self) -> Layer: ...
    @property
    def number(self) -> int: ...
    @property
    def entries(self) -> int: ...
    @property
    def root(self) -> bytes: ...
    @property
    def created_s(self) -> int: ...
    @property
    def full(self) -> Path | None: ...
    @property
    def deltas(self) -> Sequence[Path]: ...


class DeltaMisfit(BleInvalid):
    """The deltas are genuine, but do not lead from what is installed to what was signed: take the whole list."""


def check_list(offer: Offer, path: Path) -> None:
    """Raise BleInvalid unless the list at `path` is, as it says, the one that was signed; `trust` has read it."""
    with Generation.open(path) as made:
        said = (made.is_delta, made.number, made.count, made.root)
        if said != (False, offer.number, offer.entries, offer.root):
            raise BleInvalid(
                f"the list of layer {offer.layer.word} has generation {made.number}, {made.count} entries and root"
                f" {made.root.hex()}; {offer.number}, {offer.entries} and {offer.root.hex()} were signed"
            )


def check_deltas(offer: Offer, held: LayerFiles) -> int:
    """Return how many values `offer.deltas` change in `held`; DeltaMisfit unless they make what was signed."""
    buffers = [part.buffer for part in held.parts]
    number, root, total, changes = held.number, held.root, held.count, 0
    with ExitStack() as opened:
        for path in offer.deltas:
            delta = opened.enter_context(Generation.open(path))
            if not delta.is_delta or delta.from_number != number:
                raise _misfit(offer, f"{path.name!r} changes generation {delta.from_number}, {number} is installed")
            root, total = native.after(buffers, root, total, delta.buffer)
            if (root, total) != (delta.root, delta.total):
                raise _misfit(offer, f"{path.name!r} does not lead to the state root that it names")
            buffers.append(delta.buffer)
            number, changes = delta.number, changes + delta.count
        if (number, root, total) != (offer.number, offer.root, offer.entries):
            raise _misfit(offer, f"the deltas lead to generation {number} with {total} entries")
    return changes


def _misfit(offer: Offer, what: str) -> DeltaMisfit:
    return DeltaMisfit(
        f"{what}; want generation {offer.number} of layer {offer.layer.word} with {offer.entries} entries"
    )
