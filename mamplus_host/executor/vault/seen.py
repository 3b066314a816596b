# SPDX-License-Identifier: Apache-2.0
"""Whether protected paths are as they should be; what was found intact last is remembered.

Journey: vault -> [vault/seen] -> file system.
"""

import os
import stat

import msgspec

from mamplus_host.executor.vault import files as vault_files
from mamplus_host.executor.vault.objects import sha256_of
from mamplus_host.executor.vault.store import ABSENT, DIRECTORY, FILE, Facts, Store, Version

Identity = tuple[int, ...]


class Seen:
    """What the paths of one vault were found to be."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._found: dict[str, tuple[int, Identity]] = {}  # path -> (version, identity) last found intact

    def note(self, path: str, version: int, identity: Identity) -> None:
        """Remember that `path` was found, or made, to be a version."""
        self._found[path] = (version, identity)

    def forget(self, path: str) -> None:
        self._found.pop(path, None)

    def renumber(self, path: str, version: int) -> None:
        """What lies at `path` is what it should be under another number by now."""
        if path in self._found:
            self._found[path] = (version, self._found[path][1])

    def intact(self, path: str, *, quick: bool = False) -> bool:
        """Say whether `path` is its newest golden version, its time of last access aside.

        `quick` believes an unchanged inode, size, mtime, ctime and count of names. That is for going through all
        files, not for answering an event: on tmpfs a write through a shared mapping leaves all
        of them as they were.
        """
        golden = self._store.latest(path)
        if golden.facts.type != FILE:
            return self._is_as(path, golden.facts)
        try:
            fd = vault_files.look(path)
        except OSError:
            return False
        try:
            identity = vault_files.identity_of(os.fstat(fd))
            if quick and self._found.get(path) == (golden.id, identity):
                return True
            same = (
                is_alike(vault_files.facts_of(fd), golden.facts) and sha256_of(fd, golden.facts.size) == golden.sha256
            )
        except OSError:
            return False
        finally:
            os.close(fd)
        if same:
            self._found[path] = (golden.id, identity)
        return same

    def looks_intact(self, path: str) -> bool:
        """Say whether `path` looks as when it was last found intact: one stat(2), no index. For the first glance."""
        known = self._found.get(path)
        try:
            found = os.stat(path, follow_symlinks=False)
        except OSError:
            return False
        if known is None:
            return stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode)
        return vault_files.identity_of(found) == known[1] or stat.S_ISDIR(found.st_mode)

    def _is_as(self, path: str, golden: Facts) -> bool:
        """Say whether a directory or link is as it was."""
        if golden.type == ABSENT:
            return not os.path.lexists(path)
        try:
            return is_alike(vault_files.seen(path), golden)
        except OSError:
            return False


def is_same_version(one: Version, other: Version) -> bool:
    """Say whether two versions say the same of a path."""
    return one.sha256 == other.sha256 and is_alike(one.facts, other.facts)


def is_alike(seen: Facts, golden: Facts, *, links: bool = False) -> bool:
    """Say whether facts say the same in what counts; `links`: also of which file it is a name."""
    if seen.type != golden.type:
        return False
    alike = {"atime_ns": golden.atime_ns}
    if golden.type == DIRECTORY:
        alike["mtime_ns"] = golden.mtime_ns  # changes with what is in it
    shown = msgspec.structs.replace(seen, **alike)
    return shown == golden if links else msgspec.structs.replace(shown, inode=golden.inode) == golden
