# SPDX-License-Identifier: Apache-2.0
"""Marks the places between two effects of an action, where the power may go.

`step` does nothing. Tests put a hook there that ends the process, or raises through, and then look at what
the next start makes of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_hooks: list[Callable[[str], None]] = []


def step(name: str) -> None:
    """Say that everything before is on the disk or in the kernel, and the next effect is `name`'s."""
    for hook in _hooks:
        hook(name)


@contextmanager
def hooked(hook: Callable[[str], None]) -> Iterator[None]:
    """Have `hook` called at every step meanwhile."""
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.remove(hook)
