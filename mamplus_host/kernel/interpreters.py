# SPDX-License-Identifier: Apache-2.0
"""Which programs run what they read: the policy's patterns, and the contents that they were found to name.

Journey: policy -> [interpreters] -> kernel.

The kernel asks by content, so a copy of an interpreter under another name is one, too. Two find the contents: this
module where programs usually lie, when patterns arrive; and the responder (`responder_hash.c`), whenever it hashes
a program whose path a pattern names.

A pattern without a slash is about the file's name, one with a slash about the whole path; fnmatch(3), and in a path
no wildcard stands for a slash.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from glob import glob
from pathlib import Path

from mamplus_host.kernel import layout
from mamplus_host.kernel.bpf import Map
from mamplus_host.kernel.tables import Tables, file_of

PLACES = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/bin", "/sbin", "/lib", "/lib64", "/usr/lib", "/usr/lib64")
_LIBRARIES = ("/lib/*-linux-*", "/usr/lib/*-linux-*")  # where the ELF interpreter lies on Debian
_YES = (1).to_bytes(4, sys.byteorder)


class Interpreters:
    """The maps `patterns` and `interpreters` in `directory`. One thread."""

    def __init__(self, directory: Path, tables: Tables) -> None:
        self._tables = tables
        self._patterns = Map.pinned(directory / "patterns", 4, layout.PATTERN.size)
        self._contents = Map.pinned(directory / "interpreters", layout.CONTENT.size, 4)

    def use(self, patterns: Sequence[str]) -> int:
        """Make `patterns` the ones that hold; return how many contents they name here.

        When they differ from those that hold already, or half of the room is taken by what may be gone, all that is
        known of files is forgotten: each program is hashed when it starts or reads next, and its path looked at again.
        """
        wanted = [layout.PATTERN.pack(os.fsencode(pattern)) for pattern in patterns][: layout.PATTERNS_MAX - 1]
        wanted += [bytes(layout.PATTERN.size)] * (layout.PATTERNS_MAX - len(wanted))
        contents_before = list(self._contents.keys())
        holding = [self._patterns.get(_key(place)) for place in range(layout.PATTERNS_MAX)]
        if wanted != holding or len(contents_before) > layout.INTERPRETERS_MAX // 2:
            self._contents.remove_many(contents_before)
            self._tables.forget_all()
            for place, pattern in enumerate(wanted):
                self._patterns.set(_key(place), pattern)
        contents = {bytes.fromhex(sha256) for sha256 in map(self._sha256, found(patterns)) if sha256}
        for content in contents:
            self._contents.set(content, _YES)
        return len(contents)

    def _sha256(self, path: str) -> str:
        """Return the content of a program, "" when it is gone; what is known already is not read again."""
        with contextlib.suppress(OSError), open(path, "rb") as file:
            return self._tables.known(file_of(file.fileno())) or hashlib.file_digest(file, "sha256").hexdigest()
        return ""


def found(patterns: Iterable[str], places: Iterable[str] = PLACES + _LIBRARIES) -> Iterator[str]:
    """Yield the programs that `patterns` name: the paths wherever they are, the names in `places`. Each once."""
    names = [pattern for pattern in patterns if "/" not in pattern]
    paths = [path for pattern in patterns if "/" in pattern for path in glob(pattern)]
    for place in (path for pattern in places for path in glob(pattern)):
        with contextlib.suppress(OSError), os.scandir(place) as entries:
            paths += [one.path for one in entries if any(fnmatchcase(one.name, name) for name in names)]
    seen = {os.path.realpath(path) for path in paths}
    yield from sorted(path for path in seen if os.path.isfile(path) and os.access(path, os.X_OK))


def _key(place: int) -> bytes:
    return place.to_bytes(4, sys.byteorder)
