# SPDX-License-Identifier: Apache-2.0
"""Keeps the agent's resident memory near what it needs (mallopt(3), malloc_trim(3)), and its collector from pausing."""

import ctypes
import gc

_M_ARENA_MAX = -8  # malloc.h
_LIBC = ctypes.CDLL(None)


def keep_small() -> None:
    """Share one malloc arena among all threads; call before the first thread starts."""
    _LIBC.mallopt(_M_ARENA_MAX, 1)


def keep_still() -> None:
    """Have the garbage collector pass over what is there now; call when all that lasts was made.

    Else it looks at all of it, again and again, and nothing is acted on meanwhile.
    """
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Return freed memory to the kernel; takes well under a millisecond."""
    _LIBC.malloc_trim(0)
