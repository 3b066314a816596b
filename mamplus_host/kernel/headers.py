# SPDX-License-Identifier: Apache-2.0
"""Kernel headers for bcc, merged into one tree that goes when it was used. /lib/modules is left as it is.

bcc wants /lib/modules/<release>/build and source; Debian splits what was generated from what was
written, and not every tree that is there is linked.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mamplus_host.errors import NotPossible

MODULES, SOURCES = Path("/lib/modules"), Path("/usr/src")
_TREE = "BCC_KERNEL_SOURCE"  # where bcc looks first


@contextmanager
def kernel_headers() -> Iterator[Path]:
    """Point bcc at the running kernel's headers or, where there are none, at any others meanwhile.

    Others will do for programs that read no kernel struct. NotPossible when there are none at all.
    """
    trees = _of_release(os.uname().release) or _newest()
    if not trees and _TREE not in os.environ:
        raise NotPossible("no kernel headers in /lib/modules; install Debian's linux-headers-amd64 or -arm64")
    with _pointed_at(trees) as tree:
        yield tree


@contextmanager
def running_headers() -> Iterator[Path]:
    """Point bcc at the running kernel's headers meanwhile, and yield the tree; NotPossible when they are not here."""
    release = os.uname().release
    trees = _of_release(release)
    if not trees and _TREE not in os.environ:
        raise NotPossible(f"the headers of this kernel are not here; install linux-headers-{release}")
    with _pointed_at(trees) as tree:
        yield tree


def merge_headers(target: Path, trees: list[Path]) -> None:
    """Link what the header trees hold into `target`: Debian splits generated from written headers."""
    split = {".", "include", "arch"} | {f"arch/{path.name}" for tree in trees for path in tree.glob("arch/*/")}
    split |= {f"{arch}/include" for arch in split if arch.startswith("arch/")}
    for folder in sorted(split):
        (target / folder).mkdir(parents=True, exist_ok=True)
        for entry in (entry for tree in trees for entry in (tree / folder).glob("*")):
            name = str(entry.name if folder == "." else Path(folder, entry.name))
            if name not in split and not (target / name).exists():
                (target / name).unlink(missing_ok=True)  # of an earlier tree, and leads nowhere
                (target / name).symlink_to(entry)


def _of_release(release: str) -> list[Path]:
    """Return the trees of this kernel; linked from its modules, or where Debian puts them."""
    flavour = release.rpartition("-")[0]
    linked = [MODULES / release / "build", MODULES / release / "source"]
    unpacked = [SOURCES / f"linux-headers-{release}", SOURCES / f"linux-headers-{flavour}-common"]
    for trees in (linked, unpacked):
        if trees[0].exists():
            return trees
    return []


def _newest() -> list[Path]:
    built = [path for path in sorted(MODULES.glob("*")) if (path / "build").exists()]
    return _of_release(built[-1].name) if built else []


@contextmanager
def _pointed_at(trees: list[Path]) -> Iterator[Path]:
    if _TREE in os.environ:
        yield Path(os.environ[_TREE])
        return
    with tempfile.TemporaryDirectory(prefix="mamplus-headers-") as directory:
        merge_headers(Path(directory), trees)
        os.environ[_TREE] = directory
        try:
            yield Path(directory)
        finally:
            del os.environ[_TREE]
