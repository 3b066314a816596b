# SPDX-License-Identifier: Apache-2.0
"""When to try again: exponential, with full jitter, bounded at both ends.

Pure: the caller counts failures and brings the randomness. Jitter spreads a fleet whose
enterprise was down, so that it is not knocked over when it comes back.
"""

from collections.abc import Callable

_MAX_EXPONENT = 62  # past it, a float multiplied further says nothing new


def delay_s(failures: int, *, min_s: float, max_s: float, random: Callable[[], float]) -> float:
    """Return how long to wait after the `failures`-th failure in a row (1 and up), in seconds.

    Between `min_s` and the lesser of `max_s` and `min_s` * 2**failures, both included;
    `random` returns 0 to 1. A success starts the count anew.
    """
    ceiling = min(max_s, min_s * float(2 ** min(failures, _MAX_EXPONENT)))
    return min_s + (max(ceiling, min_s) - min_s) * random()
