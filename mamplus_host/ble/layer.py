# SPDX-License-Identifier: Apache-2.0
"""The layers of the list: who may write what, and how fast.

Each is a delegated TUF role with a file of its own; a value may have an entry in each of them.
"""

import hashlib
from collections.abc import Iterable
from enum import IntEnum


class Layer(IntEnum):
    """Numbers are in databases and in file names; never renumbered or reused."""

    ENTERPRISE = 1  # what administrators decided
    EMERGENCY = 2  # small and additive, out within seconds
    FEEDS = 3  # imported, always with an end

    @property
    def word(self) -> str:
        """The layer in file names and for people: enterprise, emergency, feeds."""
        return self.name.lower()

    @property
    def role(self) -> str:
        """Name of the TUF role that signs for it."""
        return f"ble-{self.word}"


def state_of(layers: Iterable[tuple[Layer, int, str]]) -> str:
    """Return what tells a generation from every other: a digest of its layers, each (layer, number, root in hex).

    Its number alone does not: it is the greatest of its layers', so one that a thief drove up would hide what the
    others become.
    """
    said = "\n".join(f"{layer.word} {number} {root}" for layer, number, root in sorted(layers))
    return hashlib.sha256(said.encode()).hexdigest()[:32]
