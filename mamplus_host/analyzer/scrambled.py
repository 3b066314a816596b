# SPDX-License-Identifier: Apache-2.0
"""Whether a content looks like another one that was encrypted. Evidence for people; nothing is decided by it.

Journey: protecting -> [scrambled].

Encrypted bytes have close to eight bits of entropy each, and nothing of how their format begins. So have compressed
ones, which is why both contents are looked at.
"""

import math
from collections import Counter

LOOKED_AT_BYTES = 1 << 14
_RANDOM_BITS = 7.5  # of a byte; text has 4 to 5, programs 6
_MAGIC_BYTES = 4


def entropy_bits(data: bytes) -> float:
    """Return the entropy of a byte of `data`, 0 to 8."""
    return -sum(count / len(data) * math.log2(count / len(data)) for count in Counter(data).values()) if data else 0.0


def looks_scrambled(before: bytes, after: bytes) -> bool:
    """Say whether `after` looks like `before`, encrypted: random bytes where there were none, or another beginning."""
    if len(after) < 256 or before == after:
        return False
    is_random = entropy_bits(after[:LOOKED_AT_BYTES]) > _RANDOM_BITS
    was_random = entropy_bits(before[:LOOKED_AT_BYTES]) > _RANDOM_BITS
    return is_random and (not was_random or before[:_MAGIC_BYTES] != after[:_MAGIC_BYTES])
