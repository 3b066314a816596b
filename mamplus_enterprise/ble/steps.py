# SPDX-License-Identifier: Apache-2.0
"""How far long work on entries is, counted in several places for one who listens: a bar on a terminal."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

TOLD_EVERY = 1000  # entries
One = TypeVar("One")


class Steps:
    """What is done of the work."""

    def __init__(self, tell: Callable[[int], object] = lambda _done: None) -> None:
        """`tell` is told now and then how many were done, in all."""
        self._tell, self._done = tell, 0

    def each(self, items: Iterable[One]) -> Iterator[One]:
        """Yield `items`, and count each that was worked on."""
        for one in items:
            yield one
            self._done += 1
            if self._done % TOLD_EVERY == 0:
                self._tell(self._done)
