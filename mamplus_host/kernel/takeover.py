# SPDX-License-Identifier: Apache-2.0
"""How one set of hooks takes over from another one, of another release or scope, so that nothing gets through between.

Both are attached for a moment, the new one with its tables filled. A start that both hold is answered by both, from
the same list; so the hook that ends a start which is let go on without its answer stands aside meanwhile, the old one
first, the new one last. The old responder answers what waits for it before it ends.
"""

from pathlib import Path

from mamplus_host.config import Config
from mamplus_host.errors import KernelRefused
from mamplus_host.kernel import layout, pins, responder
from mamplus_host.kernel.bpf import Fd, Map, value_size


def predecessors(config: Config, directory: Path) -> list[Path]:
    """Return the directories of ours but this one."""
    return [path for path in pins.directories(config) if path != directory]


def inherit(old: Path, new: Path) -> int:
    """Let the new hooks believe the hashes that the old ones believed; return how many.

    None where the other release wrote them in another way: files are hashed again then.
    """
    if not (old / "births").exists():
        return 0  # it did not say which file system they are about
    try:
        before = Map.pinned(old / "known", layout.FILE_KEY.size, layout.KNOWN.size)
    except KernelRefused:
        return 0
    if value_size(before) != layout.KNOWN.size:
        return 0
    after, count = Map.pinned(new / "known", layout.FILE_KEY.size, layout.KNOWN.size), 0
    keys = before.keys()
    for key in keys:
        value = before.get(key)
        if value is not None and after.get(key) is None:
            after.set(key, value)
            count += 1
    return count


def stand_aside(old: Path) -> None:
    """Detach the old hook that ends programs which somebody else lets go on: soon two responders may."""
    for name in pins.WAKER_HOOKS:
        let_go(pins.link_pin(old, name))


def retire(config: Config, old: Path) -> None:
    """Detach the old hooks, starts first; let the old responder answer what waits for it; then remove all pins."""
    for name in (*pins.WAKER_HOOKS, *pins.OPTIONAL_TRACING, "mamplus_exec"):
        let_go(pins.link_pin(old, name))
    responder.end_of(config, old)
    pins.remove(old)


def let_go(path: Path) -> None:
    """Unpin a link and detach it at once: the kernel lets go of the last descriptor before close(2) returns."""
    if path.exists():
        with Fd.open(path):
            path.unlink()
