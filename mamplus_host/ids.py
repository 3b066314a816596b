# SPDX-License-Identifier: Apache-2.0
"""Names of alerts: ULIDs (26 characters of Crockford base32, sorting by time)."""

import os

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_id(wall_s: float) -> str:
    """Return a new ULID: 48 bits of milliseconds since the epoch, 80 random bits."""
    number = (int(wall_s * 1000) & ((1 << 48) - 1)) << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -5, -5))
