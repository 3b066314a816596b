# SPDX-License-Identifier: Apache-2.0
"""Puts kept versions back: at once where people and programs see it, on the disk and in the index a moment later.

Journey: vault -> [vault/put] -> vault/files, vault/store.

`place` returns when the file is back. What stood there waits, open and under another name, until `settle` has kept
it as a version and has synced the file: the defence must not wait for a copy of the damage. What a power cut leaves
beside a file is found by `sweep`, and kept by the next start.

A file with several protected names comes back as one file with these names.
"""

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import suppress

import msgspec

from mamplus_host.clock import Clock
from mamplus_host.config import Limits
from mamplus_host.errors import VaultError
from mamplus_host.executor.steps import step
from mamplus_host.executor.vault import files as vault_files
from mamplus_host.executor.vault.files import Placed
from mamplus_host.executor.vault.objects import CHUNK_BYTES
from mamplus_host.executor.vault.store import ABSENT, DIRECTORY, FILE, REPLACED, SYMLINK, Store, Version

MAX_UNSETTLED = 128  # files that are back and not settled: each holds three descriptors
_AT_ONCE = 8  # files that are settled one by one; more share one commit and one sync


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What became of what stood in the place of a restored file."""

    path: str
    replaced: int  # its version id; 0 when nothing of it is kept
    note: str  # for people; "" mostly


class Putter:
    """The vault's hand. One thread."""

    def __init__(
        self, store: Store, *, limits: Limits, clock: Clock, intact: Callable[[str], bool],
        placed: Callable[[str, int, tuple[int, ...]], object],
    ) -> None:  # fmt: skip
        """`intact` says whether a path is as it should be; `placed` is told path, version and identity of each file."""
        self._store, self._limits, self._clock = store, limits, clock
        self._intact, self._placed = intact, placed
        self._unsettled: list[tuple[Placed, str]] = []
        self.not_kept = 0  # replaced contents for which there was no room

    @property
    def unsettled(self) -> int:
        """Return how many files are back and not settled."""
        return len(self._unsettled)

    def place(self, path: str, version: Version, *, action: str = "") -> str:
        """Make `path` what `version` was; return what else had to be done, for people. VaultError when it cannot be.

        `action` names what this is done for: what stands there now is found again by it.
        """
        if len(self._unsettled) >= MAX_UNSETTLED:
            self.settle()
        try:
            if version.facts.type == DIRECTORY:
                return vault_files.put_directory(path, version.facts, self._store.directory)
            if version.facts.type == ABSENT:
                return self.take_away(path, action)
            placed = self._put(path, version, action)
        except OSError as error:
            raise VaultError(f"cannot put {path!r} back: {error}") from None
        self._note(placed, version, action)
        step("vault: file is back")
        return "; ".join(filter(None, (placed.note, *self._other_names(placed, version))))

    def take_away(self, path: str, action: str = "") -> str:
        """Remove what should not be at `path`, once it is kept; a directory when it is empty. Raises VaultError."""
        with suppress(OSError):
            fd = vault_files.look(path)
            try:
                kept, note = self._keep_content(path, fd, action)
            finally:
                os.close(fd)
            if not kept:
                raise VaultError(f"{path!r} is left where it is: {note}")
        try:
            vault_files.take_away(path)
        except OSError as error:
            raise VaultError(f"cannot take {path!r} away: {error}") from None
        return ""

    def settle(self) -> list[Settled]:
        """Keep what stood in the places of restored files, and make them last; return what became of each.

        What cannot be kept is counted and told, the file is back anyway.
        """
        todo, self._unsettled = self._unsettled, []
        if len(todo) <= _AT_ONCE:
            return [self._settle_one(placed, action) for placed, action in todo]
        with self._store.batch():
            kept = [self._keep(placed, action) for placed, action in todo]
        step("vault: what stood there is kept")
        for placed, _action in todo:
            with suppress(OSError):  # it is back and kept; what is left beside it is taken away by the next start
                placed.settle()
        return kept

    def sweep(self, directory: str, paths: list[str]) -> None:
        """Keep and take away what an interrupted restoration left in a directory; `paths`: what is protected there."""
        by_name = {vault_files.temporary_of(os.path.basename(path)): path for path in paths}

        def found(name: str, action: str, fd: int) -> None:
            if name in by_name and not self._is_ours(by_name[name], fd):
                self._keep_content(by_name[name], fd, action)

        vault_files.leftovers(directory, found)

    # --- inside ------------------------------------------------------------------------------

    def _put(self, path: str, version: Version, action: str) -> Placed:
        if version.facts.type == SYMLINK:
            return vault_files.put_link(path, version.facts, self._store.directory)
        twin = self._intact_twin(path, version)
        if twin >= 0:
            try:
                return vault_files.put_same(path, twin, self._store.directory)
            except OSError:
                pass  # on another file system by now: it comes back alone
            finally:
                os.close(twin)
        content = self._store.objects.open(version.sha256)
        try:
            return vault_files.put(path, content, version.facts, self._store.directory, action)
        finally:
            os.close(content)

    def _note(self, placed: Placed, version: Version, action: str) -> None:
        self._unsettled.append((placed, action))
        if version.facts.type == FILE:
            self._placed(placed.path, version.id, placed.identity)

    def _twins(self, path: str, version: Version) -> list[str]:
        """Return the other protected names of the file that `path` should be a name of."""
        if not version.facts.inode or version.id != self._store.latest(path).id:
            return []
        return [name for name in self._store.names_of(version.facts.inode) if name != path]

    def _intact_twin(self, path: str, version: Version) -> int:
        for name in self._twins(path, version):
            if self._store.latest(name).sha256 == version.sha256 and self._intact(name):
                with suppress(OSError):
                    return vault_files.look(name)
        return -1

    def _other_names(self, placed: Placed, version: Version) -> list[str]:
        """Make the other names of a restored file names of the new one; return what went wrong, for people."""
        faults = []
        for name in self._twins(placed.path, version):
            try:
                fd = vault_files.look(placed.path)
                try:
                    if not _is_name_of(name, fd):
                        other = vault_files.put_same(name, fd, self._store.directory)
                        self._note(other, self._store.latest(name), "")
                finally:
                    os.close(fd)
            except OSError as error:
                faults.append(f"{name!r} could not be made a name of it again: {error}")
        return faults

    def _settle_one(self, placed: Placed, action: str) -> Settled:
        kept = self._keep(placed, action)
        step("vault: what stood there is kept")
        try:
            placed.settle()
        except OSError as error:
            note = "; ".join(filter(None, (kept.note, f"it may not last: {error}")))
            return msgspec.structs.replace(kept, note=note)
        return kept

    def _keep(self, placed: Placed, action: str) -> Settled:
        if placed.old < 0:
            return Settled(path=placed.path, replaced=0, note="")
        replaced, note = self._keep_content(placed.path, placed.old, action)
        return Settled(path=placed.path, replaced=replaced, note=note)

    def _keep_content(self, path: str, fd: int, action: str) -> tuple[int, str]:
        """Return (version id, note); a copy that cannot be made is counted and told."""
        most, room = self._limits.protected_file_bytes, self._limits.vault_bytes
        try:
            facts = vault_files.facts_of(fd)
            if facts.size > most:
                raise VaultError(f"it has {facts.size} bytes")
            if self._store.make_room(facts.size, room) + facts.size > room:
                raise VaultError("the vault is full of golden copies")
            sha256 = self._store.copy_in(fd, max_bytes=most)
            return self._store.add(path, REPLACED, self._clock.wall_s(), sha256, facts, action=action), ""
        except (OSError, VaultError, ValueError, OverflowError, sqlite3.Error) as error:
            self.not_kept += 1
            return 0, f"what stood there is not kept: {error}"

    def _is_ours(self, path: str, fd: int) -> bool:
        """Say whether a leftover is a copy of ours that was not finished: a beginning of what `path` should be."""
        try:
            golden = self._store.objects.open(self._store.latest(path).sha256)
        except VaultError:
            return False
        try:
            at = 0
            while chunk := os.pread(fd, CHUNK_BYTES, at):
                if chunk != os.pread(golden, len(chunk), at):
                    return False
                at += len(chunk)
        finally:
            os.close(golden)
        return True


def _is_name_of(path: str, fd: int) -> bool:
    try:
        found, wanted = os.stat(path, follow_symlinks=False), os.fstat(fd)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)
