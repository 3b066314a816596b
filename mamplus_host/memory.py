# SPDX-License-Identifier: Apache-2.0
"""Keeps the agent's resident memory near what it needs (mallopt(3), malloc_trim(3))."""

import ctypes

_M_ARENA_MAX = -8  # malloc.h
_LIBC = ctypes.CDLL(None)


def keep_small() -> None:
    """Share one malloc arena among all threads; call before the first thread starts."""
    _LIBC.mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return freed memory to the kernel; takes well under a millisecond."""
    _LIBC.malloc_trim(0)
