# SPDX-License-Identifier: Apache-2.0
"""Follows the policy's rules about files with what this machine has.

Journey: policy -> [guarding] -> kernel/fileguards (refuses), vault (puts back).

With LSM hooks the kernel refuses. Without, the responder refuses opens by fanotify; and what a
guarded path holds is kept in the vault like a file that `mamplus protect` named: what is no open
(rename, unlink, chmod) is noticed and undone, unless one of the rule's programs did it; then
what it left is what is kept. A name that is new in a guarded directory, and was not opened
there (a link, a rename into it), is not seen.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from mamplus_host.collector.lineage import Task
from mamplus_host.config import Config
from mamplus_host.errors import VaultError
from mamplus_host.events import File, FileChange
from mamplus_host.executor.vault.vault import FAILURES, Vault
from mamplus_host.files import write_whole
from mamplus_host.kernel import responder
from mamplus_host.kernel.fileguards import FileGuards, State
from mamplus_host.kernel.filewatch import FileWatcher, records
from mamplus_host.policy.files import FileRules, is_below, is_of_the_system

LOG = logging.getLogger("mamplus")
_TICKS_PER_WALK = 12  # a minute
_SYSTEM = "opens of it are not refused on this kernel: the system's own must wait for nobody; changes are put back"
_TOO_MANY = "there is no mark for them: opens there are not refused; changes are put back"
_KEPT = "guarded.json"  # in the state directory: what the policy, and no person, put into the vault


class Guarding:
    """The rules in force, and the files that the vault keeps for them."""

    def __init__(
        self,
        config: Config,
        pins: Path,
        remember: Callable[[File, str], None],
        vault: Vault,
        *,
        lineage: Callable[[int], list[Task]],
    ) -> None:
        """`lineage` returns what is known of a process and its ancestors, nearest first."""
        self._config, self._vault, self._lineage = config, vault, lineage
        self._guards = FileGuards(config, pins, remember)
        self._watcher = None if self._guards.is_enforced else FileWatcher(responder.files_base(config, pins))
        self._ticks = 0
        self._kept = _read(config.state / _KEPT)  # guarded path -> what of it the vault keeps for us
        self._faults: dict[str, str] = {}  # guarded path -> why the vault does not keep it
        self._rules: FileRules | None = None

    @property
    def is_enforced(self) -> bool:
        return self._guards.is_enforced

    def follow(self, rules: FileRules) -> list[str]:
        """Have `rules` in force, and return the paths that are to be watched from now on."""
        if rules == self._rules:
            return []
        self._guards.apply(rules)
        self._rules = rules
        self._watch()
        return self._keep()

    def tick(self) -> list[str]:
        """Look again at what may have come, gone or been replaced; return the paths to be watched from now on."""
        self._guards.tick()
        self._watch()
        return self._keep()

    def fileno(self) -> int:
        """Return a descriptor that is readable when `read` has something; -1: the kernel's ring tells."""
        return self._watcher.fileno() if self._watcher else -1

    def read(self) -> list[bytes]:
        """Return records (struct mamplus_access) of what the responder refused."""
        return self._watcher.read() if self._watcher else []

    def allows(self, change: FileChange) -> bool:
        """Say whether a program that a rule names made this change."""
        if not any(is_below(change.path, path) for paths in self._kept.values() for path in paths):
            return False
        return bool(change.tgid) and self._guards.may(change.path, self._hashes(change.tgid))

    def state(self) -> State:
        """Return what `mamplus status` shows."""
        state = self._guards.state()
        if self.is_enforced:
            return state
        kept = sum(len(paths) for paths in self._kept.values())
        opens = "fanotify: opens are refused; " if self._is_watched() else ""
        return msgspec.structs.replace(
            state, tier=f"{opens}changes are noticed and put back ({kept} files): {state.tier}",
            unresolved={**state.unresolved, **self._faults, **self._not_covered()},
        )  # fmt: skip

    def close(self) -> None:
        self._guards.leave()
        if self._watcher is not None:
            self._watcher.close()

    # --- inside ------------------------------------------------------------------------------

    def _hashes(self, tgid: int) -> list[str]:
        """Return the hashes of a process's program and of its ancestors', "" for what is not known."""
        found = [task.sha256 for task in self._lineage(tgid)] or [""]
        if not found[0]:
            with contextlib.suppress(OSError), open(f"/proc/{tgid}/exe", "rb") as program:
                found[0] = hashlib.file_digest(program, "sha256").hexdigest()
        return found

    def _watch(self) -> None:
        """Hand the rules to the responder; again now and then, for directories that are new below them."""
        if self._watcher is None or self._rules is None:
            return
        self._ticks += 1
        guarded, folders, writers = self._guards.watched()
        self._watcher.put(records(guarded, folders, writers))
        if self._ticks % _TICKS_PER_WALK == 0 and (guarded or folders):
            self._watcher.again()

    def _is_watched(self) -> bool:
        return self._watcher is not None and self._watcher.in_force > 0

    def _not_covered(self) -> dict[str, str]:
        """Return what this tier leaves out: path -> what is not done for it."""
        rules = self._rules or FileRules()
        left = {one.path: _SYSTEM for one in rules.guarded if is_of_the_system(os.path.realpath(one.path))}
        if self._watcher is not None and self._watcher.unmarked:
            left[f"{self._watcher.unmarked} directories or files"] = _TOO_MANY
        folders = [one.path for one in rules.readable if not self._is_watched() or is_of_the_system(one.path)]
        return {**left, **dict.fromkeys(folders, "reads are not refused on this kernel")}

    def _keep(self) -> list[str]:
        """Bring the vault in line with the rules where the kernel does not refuse; return what is new in it."""
        wanted = [] if self.is_enforced else self._guards.guarded_paths()
        gone = [path for path in self._kept if path not in wanted]
        for path in gone:
            self._release(path)
        new: list[str] = []
        for path in wanted:
            if not self._is_kept(path) and os.path.exists(path):
                new += self._take(path)
        if new or gone:
            write_whole(self._config.state / _KEPT, msgspec.json.encode(self._kept))
        return new

    def _is_kept(self, path: str) -> bool:
        """Say whether the vault has it: a writer may have taken it away, or the vault been lost."""
        return path in self._kept and bool(self._vault.paths(os.path.realpath(path)))

    def _take(self, path: str) -> list[str]:
        """Have the vault keep what lies at `path` now; what a person protected already stays theirs."""
        before = set(self._vault.paths())
        try:
            taken = [one for one in self._vault.protect(Path(os.path.realpath(path))) if one not in before]
        except FAILURES as error:
            if self._faults.get(path) != str(error):
                LOG.warning("%s; changes of it are not undone", error)
            self._faults[path] = str(error)
            return []
        self._faults.pop(path, None)
        self._kept[path] = taken
        return taken

    def _release(self, path: str) -> None:
        for one in self._kept.pop(path):
            with contextlib.suppress(VaultError):
                self._vault.unprotect(Path(one))


def _read(path: Path) -> dict[str, list[str]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
    except (OSError, msgspec.MsgspecError):
        return {}
