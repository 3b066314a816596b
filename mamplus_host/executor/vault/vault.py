# SPDX-License-Identifier: Apache-2.0
"""Golden copies of protected files: taken, compared, put back.

Journey: administrator -> [vault] protects; execute -> [vault] restores.

A restored file has the content, mode, owner, extended attributes (ACLs, capabilities, labels), times and hard links
that were recorded; its inode is a new one. What stood in its place is kept as a version while there is room, so that
a restoration can be undone: first the file is back, then its replacement is kept (`vault/put`).

A protected tree also has its directories and symbolic links in the vault, and what is new in it is taken in later
(`protecting`). This module does not watch files and does not decide when to restore.
"""

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from mamplus_host.clock import ListClock
from mamplus_host.config import Limits
from mamplus_host.errors import MamplusError, VaultError
from mamplus_host.executor.vault import files as vault_files
from mamplus_host.executor.vault.keeping import Keeping
from mamplus_host.executor.vault.paths import MAX_PROTECTED, canonical, entries_of, is_at_or_below
from mamplus_host.executor.vault.put import Putter, Settled
from mamplus_host.executor.vault.seen import Seen, is_alike, is_same_version
from mamplus_host.executor.vault.store import FILE, GOLDEN, NOTHING, Facts, Store, Version
from mamplus_host.executor.vault.tree import Step, plan, require_any

FAILURES = (OSError, sqlite3.Error, MamplusError)  # what keeping or declaring a version raises, on a full disk, too


class Protected(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `mamplus vault list`."""

    path: str
    type: str  # file, directory, symlink
    sha256: str  # of the newest golden version; "" of what has no content
    size: int
    taken_at: float
    versions: int  # kept, golden and replaced
    suspended: bool  # restored too often: waits for an administrator


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restoration did."""

    version: int
    replaced: int  # version id of what stood there; 0 when nothing of it is kept
    note: str  # for people; "" mostly


class Vault:
    """The vault in `directory`. One process, one thread."""

    def __init__(self, directory: Path, *, limits: Limits, clock: ListClock) -> None:
        self.store = Store(directory)
        self._limits, self._clock = limits, clock
        self._seen = Seen(self.store)
        self._putter = Putter(self.store, limits=limits, clock=clock, intact=self.intact, placed=self._seen.note)
        self._keeping = Keeping(self.store, limits=limits, clock=clock)
        self.on_placed: Callable[[str], object] = lambda _path: None  # told of each path where another file lies now

    def close(self) -> None:
        self._putter.settle()
        self._keeping.end()
        self.store.close()

    @property
    def put_aside(self) -> str:
        """The name, beside this vault, of a damaged one that was there before; "" when there was none."""
        return self.store.put_aside

    @property
    def not_kept(self) -> int:
        """Replaced contents for which there was no room."""
        return self._putter.not_kept

    # --- what is protected -------------------------------------------------------------------

    def protect(self, path: Path, *, follow: bool = False) -> list[str]:
        """Take golden copies of the file, or of the directory with all that is in it; return their paths.

        Links on the way to `path` are resolved; of a directory also its directories and links are kept, but neither
        devices nor sockets nor pipes. With `follow` a directory is a tree: what is new in it later belongs to it, too.
        VaultError names what does not fit; then nothing new is protected.
        """
        entries = entries_of(path)
        self._check_room(entries)
        try:
            with self.store.batch():
                for one in entries:
                    self.take(one)
                if follow and os.path.isdir(entries[0]):
                    self.store.add_tree(entries[0])
        except (OSError, VaultError) as error:
            self.store.drop_unused()
            raise VaultError(f"cannot protect {str(path)!r}: {error}") from None
        return entries

    def unprotect(self, path: Path) -> list[str]:
        """Forget the file, or all below the directory; return what was protected. VaultError when nothing was."""
        wanted = self.known(path)
        gone = list(self.store.protected(wanted))
        trees = [tree for tree in self.store.trees() if is_at_or_below(tree, wanted)]
        if not gone and not trees:
            raise VaultError(f"{wanted!r} is not protected; `mamplus vault list` shows what is")
        self.store.forget({*gone, *trees})
        for one in gone:
            self._seen.forget(one)
        return gone

    def paths(self, root: str = "") -> list[str]:
        """Return the protected paths, those at or below `root` only."""
        return list(self.store.protected(root))

    def count(self) -> int:
        return self.store.count()

    def trees(self) -> "list[str]":
        """Return the protected trees: what comes into them is protected, too."""
        return self.store.trees()

    def versions(self, path: Path) -> list[Version]:
        """Return what is kept of `path`, newest first."""
        return self.store.versions(self.known(path))

    def latest(self, path: str) -> Version:
        """Return the golden version that `path` should be; VaultError when it is not protected."""
        return self.store.latest(path)

    def is_protected(self, path: str) -> bool:
        return self.store.is_protected(path)

    def is_suspended(self, path: str) -> bool:
        return bool(self.store.suspended_at(path))

    def suspend(self, path: str) -> None:
        """Stop restoring `path` by itself until `resume`, `protect` or `restore`; survives restarts."""
        self.store.suspend(path, self._clock.wall_s() or 1.0)

    def resume(self, path: str) -> None:
        self.store.suspend(path, 0)

    def take(self, path: str, *, closed: bool = False) -> bool:
        """Keep what is at `path` now as what it should be; return whether it is another than before.

        OSError when nothing that can be kept is there; VaultError when it is being written; with `closed` also when
        somebody may write it yet: what he wrote before is told by then, and what he maps is told when he lets go.
        """
        facts, sha256, identity = self._read(path, closed=closed)
        version = self._newest(path)
        is_new = version is None or version.sha256 != sha256 or not is_alike(facts, version.facts, links=True)
        if is_new:
            self.store.note_directories(vault_files.directories_above(path))
            added = self.store.add(path, GOLDEN, self._clock.wall_s(), sha256, facts)
            self.store.objects.unpack(sha256)
        else:
            assert version is not None
            added = version.id
        self.store.suspend(path, 0)
        self._seen.note(path, added, identity)
        return is_new

    def take_new(self, path: str) -> None:
        """Protect one more path; VaultError when it does not fit, OSError when it is not there."""
        self._check_room([path])
        self.take(path)

    def newest_below(self, root: str, *, at: float | None = None) -> Iterator[Version]:
        """Yield what each path at or below `root` should be, or should have been at `at`."""
        return self.store.newest_below(root, at=at)

    def beginning(self, path: str, size: int) -> bytes:
        """Return the first `size` bytes of what `path` should hold. VaultError when it is not protected."""
        fd = self.store.objects.open(self.store.latest(path).sha256)
        try:
            return os.pread(fd, size, 0)
        finally:
            os.close(fd)

    def accept(self, path: str, *, closed: bool = False) -> bool:
        """Keep `path` as it is now, whatever that is: also that it is gone. Return whether it is another than before.

        VaultError or OSError when it cannot be kept; `closed` as `take` has it.
        """
        try:
            self._check_size(path)
            return self.take(path, closed=closed)
        except FileNotFoundError:
            if not self.is_protected(path):
                return False
        self.store.add(path, GOLDEN, self._clock.wall_s(), "", NOTHING)
        self._seen.forget(path)
        return True

    # --- is it as it was? --------------------------------------------------------------------

    def intact(self, path: str, *, quick: bool = False) -> bool:
        """Say whether `path` is what it should be; `quick`: believing what stat(2) says (`vault/seen`)."""
        return self._seen.intact(path, quick=quick)

    def looks_intact(self, path: str) -> bool:
        """Say whether `path` looks as when it was last found intact: one stat(2), no index. For the first glance."""
        return self._seen.looks_intact(path)

    # --- put back ----------------------------------------------------------------------------

    def restore(self, path: Path, at: float | None = None) -> Restored:
        """Put the newest golden version back (not newer than `at`, seconds since the epoch).

        What was restored is what `intact` compares with from now on; so an older version that is
        asked for becomes the newest. Ends a suspension. Raises VaultError.
        """
        wanted = self.known(path)
        version = self.store.latest(wanted, at=at)
        restored = self.put_back(wanted, version.id)
        self.declare(version)
        self.resume(wanted)
        return restored

    def declare(self, version: Version) -> None:
        """Have a kept version be what its path should be, from now on."""
        newest = self._newest(version.path)
        if newest is None or version.id != newest.id:
            added = self.store.add(version.path, GOLDEN, self._clock.wall_s(), version.sha256, version.facts)
            self.store.objects.unpack(version.sha256)
            self._seen.renumber(version.path, added)

    def plan(self, path: Path, at: float | None = None) -> "list[Step]":
        """Return what has to be done for all at or below `path` to be as it was at `at`; None: as it should be."""
        wanted = self.known(path)
        steps = plan(self.newest_below(wanted, at=at), self.newest_below(wanted), self._is_version)
        return require_any(steps, wanted, at)

    def do(self, step: Step) -> str:
        """Do one step of a plan; return what else had to be done, for people. VaultError when it cannot be."""
        if step.what == "as it is":
            if step.version:
                self.resume(step.path)
            return ""
        if step.what == "put back":
            version = self.store.version(step.version)
            note = self.place(step.path, step.version)
            self.declare(version)
            self.resume(step.path)
            return note
        note = self._putter.take_away(step.path)
        self.store.add(step.path, GOLDEN, self._clock.wall_s(), "", NOTHING)
        self._seen.forget(step.path)
        return note

    def place(self, path: str, version_id: int = 0, *, action: str = "") -> str:
        """Make `path` what a version was (0: what it should be); return what else had to be done, for people.

        What stood there is kept by `settle`, and found again by `action`. Raises VaultError.
        """
        version = self.store.version(version_id) if version_id else self.store.latest(path)
        note = self._putter.place(path, version, action=action)
        self.on_placed(path)
        return note

    def settle(self) -> list[Settled]:
        """Keep what stood in the places of restored files, and make them last."""
        return self._putter.settle()

    @property
    def unsettled(self) -> int:
        return self._putter.unsettled

    def put_back(self, path: str, version_id: int, *, action: str = "") -> Restored:
        """Make `path` what version `version_id` was, and keep what stood there. Raises VaultError."""
        note = self.place(path, version_id, action=action)
        kept = next((one for one in self.settle() if one.path == path), Settled(path=path, replaced=0, note=""))
        return Restored(version=version_id, replaced=kept.replaced, note="; ".join(filter(None, (note, kept.note))))

    def replaced_by_action(self, action: str) -> list[Version]:
        """Return what stood where `action` put another in its place, as far as it is kept; of each path the first."""
        return self.store.replaced_by(action)

    def make_golden(self, path: str, version_id: int) -> None:
        """Declare a kept version to be what `path` should be: its change was legitimate after all."""
        version = self.store.version(version_id)
        self.store.add(path, GOLDEN, self._clock.wall_s(), version.sha256, version.facts)
        self._seen.forget(path)  # what lies there was found intact as another version
        self.store.objects.unpack(version.sha256)

    def sweep_all(self) -> None:
        """Keep and take away what interrupted restorations left; once, at the start."""
        by_directory: dict[str, list[str]] = {}
        for path in self.paths():
            by_directory.setdefault(os.path.dirname(path), []).append(path)
        for directory, paths in by_directory.items():
            self._putter.sweep(directory, paths)

    # --- what is kept, and for how long ------------------------------------------------------

    def tidy(self) -> None:
        """Drop versions that are too many or too old, and have what is seldom needed packed; with every tick."""
        self._keeping.tidy()

    def await_packing(self) -> None:
        """Wait for what `tidy` began, and take it in."""
        self._keeping.await_packing()

    # --- inside ------------------------------------------------------------------------------

    def known(self, path: Path) -> str:
        """Return the protected path that `path` means: as it is written, though a directory of it be a link by now."""
        written = os.path.abspath(path)
        is_known = self.store.protected(written) or written in self.store.trees() or self.store.versions(written)
        return written if is_known else canonical(path)

    def _newest(self, path: str) -> Version | None:
        try:
            return self.store.latest(path)
        except VaultError:
            return None

    def _read(self, path: str, *, closed: bool) -> tuple[Facts, str, tuple[int, ...]]:
        """Return facts, SHA-256 and identity of what is at `path`; a file's content is kept."""
        facts = vault_files.seen(path)
        if facts.type != FILE:
            return facts, "", ()
        fd = vault_files.look(path)
        try:
            before = vault_files.identity_of(os.fstat(fd))
            facts = vault_files.facts_of(fd)
            sha256 = self.store.copy_in(fd, max_bytes=self._limits.protected_file_bytes)
            if vault_files.identity_of(os.fstat(fd)) != before:
                raise VaultError(f"{path!r} is being written; protect it when that has ended")
            if closed and vault_files.has_writers(fd):
                raise VaultError(f"{path!r} is open for writing; it is kept when that has ended")
        finally:
            os.close(fd)
        return facts, sha256, before

    def _is_version(self, path: str, version: Version) -> bool:
        """Say whether `path` is that version now, and is to stay it."""
        newest = self._newest(path)
        if newest is None or (newest.id != version.id and not is_same_version(newest, version)):
            return False
        return self.intact(path)

    def _check_room(self, paths: list[str]) -> None:
        if len(paths) + self.store.count() > MAX_PROTECTED:
            raise VaultError(f"{len(paths)} more files would be protected, want at most {MAX_PROTECTED} altogether")
        total = sum(self._check_size(one) for one in paths)
        used, limit = self.store.make_room(total, self._limits.vault_bytes), self._limits.vault_bytes
        if used + total > limit:
            raise VaultError(f"{total} bytes do not fit: {used} of {limit} are in use ([limits] vault_bytes)")

    def _check_size(self, path: str) -> int:
        """Return the bytes of the file at `path`, 0 of what is none; VaultError when they are too many."""
        found = os.stat(path, follow_symlinks=False)
        size = found.st_size if stat.S_ISREG(found.st_mode) else 0
        if size > self._limits.protected_file_bytes:
            limit = self._limits.protected_file_bytes
            raise VaultError(f"{path!r} has {size} bytes, want at most {limit} ([limits] protected_file_bytes)")
        return size

    def list(self, root: str = "") -> list[Protected]:
        """Return what `mamplus vault list` shows. Last in the class: its name hides the built-in one."""
        suspended, counts = self.store.protected(root), self.store.count_of_versions()
        return [
            Protected(
                path=one.path, type=one.facts.type, sha256=one.sha256, size=one.facts.size, taken_at=one.taken_at,
                versions=counts[one.path], suspended=suspended[one.path] > 0,
            )
            for one in self.store.newest_below(root)
            if one.path in suspended
        ]  # fmt: skip
