# SPDX-License-Identifier: Apache-2.0
"""Follows protected files and trees: who may change them, what is new in them, and who rewrites them in masses.

Journey: files (watch) -> [protecting] -> pipeline (puts back), vault (keeps).

    read      what was touched; a family that rewrites many files is stopped before anything else is done (`mass`)
    may       a change that an open window, a maintenance window or the package manager answers for: it is kept
    tick      new files that nobody touched for a while are kept; mounts over a tree, paths without a watch and a few
              files more are looked at, so that nothing that no event told stays for long

This module restores nothing and decides nothing about alerts.
"""

import logging
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from mamplus_host.analyzer.mass import MassRewrites, Suspect
from mamplus_host.analyzer.scrambled import LOOKED_AT_BYTES, looks_scrambled
from mamplus_host.clock import Clock
from mamplus_host.collector.files import OVERFLOW, FileWatch, Touch
from mamplus_host.collector.mounts import Mounts
from mamplus_host.config import Config
from mamplus_host.errors import ActionFailed, MamplusError, NotPossible
from mamplus_host.events import FileChange, MassRewrite
from mamplus_host.executor import vault_files
from mamplus_host.executor.package_managers import PackageManagers
from mamplus_host.executor.stopping import Stopper
from mamplus_host.executor.vault import Vault, is_at_or_below, is_kept
from mamplus_host.executor.vault_store import DIRECTORY
from mamplus_host.executor.vault_tree import Step
from mamplus_host.executor.vault_window import BY_MANAGER, VaultWindow

LOG = logging.getLogger("mamplus")
MAX_PENDING = 4096  # new files that wait until nobody touches them
MAX_NOT_TAKEN = 1000  # new files that are remembered as not kept
_TICKS_PER_TIDYING = 12  # a minute
_SCANNED_AT_ONCE = 200  # files that are looked at with every tick though nothing told of them
_SETTLE_AFTER_S = 0.5  # without any touch
_SAMPLES = 8  # files of a mass rewrite whose contents are compared, for evidence
_GONE = ("delete", "moved-away")
_NS = 1_000_000_000
_AGAIN_NS, _SELDOM_NS = 10 * _NS, 3600 * _NS  # until one that could not be put back is tried again: at first, at most


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What `mamplus status` shows."""

    tier: str  # fanotify: says who; inotify: does not
    protected: int
    trees: list[str]
    unwatched: dict[str, str]  # path -> why; looked at with every tick instead
    covered: dict[str, str]  # directory or file -> what lies over it; nothing is put back there
    pending: int  # new files that wait until nobody touches them
    not_taken: dict[str, str]  # new files that cannot be kept, and why; the first few
    accepted: int  # changes that were kept because a window or the package manager answered for them
    window: str
    versions_not_kept: int  # replaced contents for which there was no room


class Protecting:
    """Protected files, as the service's loop follows them."""

    def __init__(
        self, config: Config, vault: Vault, *, clock: Clock, boot_id: str, stopper: Stopper,
        managers: PackageManagers, ancestors: Callable[[int], list[int]], covers: Callable[[int], bool],
        note: Callable[[dict[str, object]], object], told: Callable[[str, str], object],
    ) -> None:  # fmt: skip
        """`ancestors` of a process, nearest first, as far as they may be acted on; `covers` of a maintenance window.

        `note` writes to the journal; `told` sends an alert: what it is about, and one sentence.
        """
        self._config, self._vault, self._clock = config, vault, clock
        self._stopper, self._managers, self._ancestors = stopper, managers, ancestors
        self._covers, self._journal, self._told = covers, note, told
        rules = config.vault
        self.window = VaultWindow(config.state, clock, boot_id)
        self._mass = MassRewrites(files=rules.mass_files, window_ns=int(rules.mass_window_s * _NS))
        self._suspects: list[MassRewrite] = []
        self._trees = vault.trees()
        self._pending: dict[str, tuple[int, int]] = {}  # new path -> when it was touched last (CLOCK_BOOTTIME), by whom
        self._accepting: dict[str, str] = {}  # changed path -> who answers for it
        self._not_taken: dict[str, str] = {}
        self._mounts, self._lies_on = Mounts(), dict[str, str]()
        self._covered: dict[str, str] = {}
        self._again: dict[
            str, tuple[int, int]
        ] = {}  # damaged path -> when it is tried again, and for how long not then
        self._scan: list[str] = []
        self.accepted = self._ticks = 0
        self._touched_ns = 0  # when something was told last, CLOCK_BOOTTIME
        self.files = FileWatch.open(vault.paths(), self._tree_directories())
        self.files.at_once = self._glance
        self._note_mounts(vault.paths())

    # --- what people ask for -----------------------------------------------------------------

    def protect(self, path: Path) -> list[str]:
        """Protect a file, or a directory and what comes into it later; return the paths. NotPossible: not watched."""
        kept = self._vault.protect(path, follow=True)
        self._trees = self._vault.trees()
        self._watch(kept)
        self._note_mounts(kept)
        blind = [f"{one!r}: {why}" for one, why in self.files.unwatched.items() if one in set(kept)]
        if blind:
            raise NotPossible(f"kept, but not watched: {'; '.join(blind[:3])}")
        return kept

    def unprotect(self, path: Path) -> list[str]:
        gone = self._vault.unprotect(path)
        self._trees = self._vault.trees()
        for one in gone:
            self.files.remove(one)
        self._pending = {one: at for one, at in self._pending.items() if self._tree_of(one)}
        return gone

    def open_window(self, minutes: float, by: str) -> None:
        """Keep changes for a while; where the kernel says who writes, the package manager needs no window."""
        if by == BY_MANAGER and self.files.names_writers:
            return
        self.window.open(minutes, by)
        text = f"changes to protected files are kept for {minutes:g} minutes: opened by the {by}"
        self._journal({"what": text})
        self._told("vault-window", text)

    def close_window(self, by: str) -> None:
        """Close what `by` opened, and keep what was changed until now."""
        self._catch_up()
        if self.window.close(by):
            text = f"changes to protected files are put back again: the {by}'s window is closed"
            self._journal({"what": text})
            self._told("vault-window", text)

    def window_state(self) -> dict[str, object]:
        return {"open_for_s": round(self.window.left_s()), "by": self.window.opened_by()}

    def put(self, steps: list[Step]) -> list[str]:
        """Do a part of a person's plan; return what could not be done, in words."""
        failed = []
        for step in steps:
            try:
                self._vault.do(step)
            except MamplusError as error:
                failed.append(str(error))
            if self._vault.is_protected(step.path):
                self.rewatch(step.path)
            else:
                self.files.remove(step.path)
        self._vault.settle()
        self._trees = self._vault.trees()
        return failed

    # --- the loop ----------------------------------------------------------------------------

    def read(self) -> list[FileChange | MassRewrite]:
        """Return what is to be treated: a mass rewrite before anything else, and without the changes that are its."""
        changes = self.files.read()
        now = self._clock.boot_ns()
        if changes:
            self._touched_ns = now
            self._judge(self._mass.families(now, self._ancestors), now)
        suspects, self._suspects = self._suspects, []
        found: list[FileChange | MassRewrite] = [*suspects]
        heads = [one.tgid for one in suspects if one.tgid]
        for change in changes:
            if self._is_covered(change.path):
                continue
            if self._is_new(change):
                self._note_new(change)
            elif not suspects:
                found.append(change)
        for head in heads:
            self._drop_pending_of(head)
        return found

    def may(self, change: FileChange) -> bool:
        """Say whether somebody answers for a change; then what it left is kept, a moment later."""
        who = self._who_answers(change.tgid, change.boot_ns)
        if who:
            self._accepting[change.path] = who
        return bool(who)

    def settle(self) -> None:
        """Finish what waited until nothing was to be put back."""
        self._vault.settle()
        if self._accepting:
            self._accept()

    def settle_in_s(self) -> float | None:
        """Return after how long `settle` is due, None when there is nothing to settle.

        It waits for the disk; so it waits until nobody is at work who may have to be stopped.
        """
        if not self._vault.unsettled and not self._accepting:
            return None
        return max(0.0, _SETTLE_AFTER_S - (self._clock.boot_ns() - self._touched_ns) / _NS)

    def tick(self) -> list[FileChange]:
        """Do what no event asks for; return what is to be looked at."""
        self._take_pending()
        if self._mounts.look():
            self._look_at_mounts()
        if self._ticks % _TICKS_PER_TIDYING == 0:
            self._vault.tidy()
        self._ticks += 1
        return self._look_around()

    def rewatch(self, path: str) -> None:
        """After a restoration file and directory may be new ones."""
        with suppress(OSError):  # `status` names what cannot be watched
            self.files.add(path)
        directory = path if os.path.isdir(path) and not os.path.islink(path) else os.path.dirname(path)
        if self._tree_of(directory):
            self.files.add_directories([directory])

    def let_go(self) -> None:
        """What was stopped at once is held by now, or ended, or was not to be."""
        self._stopper.go_on()

    def state(self) -> State:
        left_s = self.window.left_s()
        opened = f"open for {left_s:.0f} s, by the {' and the '.join(self.window.opened_by())}"
        return State(
            tier=self.files.tier, protected=self._vault.count(), trees=self._trees,
            unwatched=self.files.unwatched, covered=self._covered, pending=len(self._pending),
            not_taken=dict(list(self._not_taken.items())[:10]), accepted=self.accepted,
            window=opened if left_s else "closed", versions_not_kept=self._vault.not_kept,
        )  # fmt: skip

    # --- who rewrites many -------------------------------------------------------------------

    def _glance(self, touches: list[Touch]) -> None:
        """Look at a batch of the queue while the rest of it is still to be read, and stop who rewrites many files."""
        known = [touch for touch in touches if self.files.knows(touch[0])]
        now = self._clock.boot_ns()
        self._judge(self._mass.note(known, now, self._differs), now)

    def _judge(self, suspect: Suspect | None, now: int) -> None:
        if suspect is None or self._who_answers(suspect.tgid, now):
            return
        self._mass.forget(suspect.tgid)
        stopped = self._stop(suspect, now)
        evidence = self._scrambled(suspect.paths)
        self._suspects.append(
            MassRewrite(boot_ns=now, paths=suspect.paths, tgid=suspect.tgid, stopped=stopped, scrambled=evidence)
        )

    def _stop(self, suspect: Suspect, now: int) -> str:
        if self._config.agent.mode == "monitor":
            return "not stopped: the agent only watches"
        if not suspect.tgid:
            return "not stopped: this kernel does not say who it was"
        try:
            count = self._stopper.stop(suspect.tgid, now)
        except ActionFailed as error:
            return f"not stopped: {error}"
        return f"{count} processes were stopped after {len(suspect.paths)} files"

    def _differs(self, path: str) -> bool:
        return not self._vault.looks_intact(path)

    def _scrambled(self, paths: Iterable[str]) -> int:
        """Return how many of the first few files look encrypted now."""
        found = 0
        for path in list(paths)[:_SAMPLES]:
            with suppress(OSError, MamplusError):
                descriptor = vault_files.look(path)  # a pipe or a device may stand there by now: opening those acts
                try:
                    after = os.pread(descriptor, LOOKED_AT_BYTES, 0)
                finally:
                    os.close(descriptor)
                found += looks_scrambled(self._vault.beginning(path, LOOKED_AT_BYTES), after)
        return found

    def _who_answers(self, tgid: int, boot_ns: int) -> str:
        """Return whose change it is, when it is one that is not undone; "" for any other."""
        if self.window.is_open():
            return f"a window of the {self.window.opened_by()[0]}"
        if self._covers(boot_ns):
            return "a maintenance window"
        return self._managers.at_work(tgid) if tgid else ""

    # --- what is new, and what is kept -------------------------------------------------------

    def _tree_of(self, path: str) -> str:
        return next((tree for tree in self._trees if is_at_or_below(path, tree)), "")

    def _tree_directories(self) -> list[str]:
        return [
            one.path for tree in self._trees for one in self._vault.newest_below(tree) if one.facts.type == DIRECTORY
        ]

    def _is_new(self, change: FileChange) -> bool:
        return not self.files.knows(change.path) and bool(self._tree_of(change.path))

    def _note_new(self, change: FileChange) -> None:
        """Remember that something new in a tree was touched; a directory is watched from now on."""
        path = change.path
        if not is_kept(path):
            self._pending.pop(path, None)
            return
        if os.path.isdir(path) and not os.path.islink(path):
            for directory, below, names in os.walk(path):
                self.files.add_directories([directory])
                for name in (*below, *names):
                    self._note_pending(os.path.join(directory, name), change)
                if len(self._pending) >= MAX_PENDING:
                    break  # a folder of millions must not hold the loop up
        self._note_pending(path, change)

    def _note_pending(self, path: str, change: FileChange) -> None:
        if not is_kept(path) or self.files.knows(path):
            return
        if len(self._pending) >= MAX_PENDING and path not in self._pending:
            self._note_not_taken(path, f"{MAX_PENDING} new files wait already; `mamplus protect` takes it")
            return
        self._pending[path] = (change.boot_ns, change.tgid)

    def _note_not_taken(self, path: str, why: str) -> None:
        if path in self._not_taken or len(self._not_taken) < MAX_NOT_TAKEN:
            self._not_taken[path] = why

    def _drop_pending_of(self, head: int) -> None:
        """What a family made that was stopped is left where it is, and does not become what should be there."""
        for path, (_at, tgid) in list(self._pending.items()):
            if tgid and (tgid == head or head in self._ancestors(tgid)):
                del self._pending[path]
                self._note_not_taken(path, f"made by the family of process {head}, which was stopped")

    def _take_pending(self) -> None:
        """Keep what is new and was left alone for long enough."""
        quiet_ns = int(self._config.vault.quiet_s * _NS)
        now = self._clock.boot_ns()
        due = sorted(path for path, (at, _tgid) in self._pending.items() if now - at >= quiet_ns)
        taken = []
        for path in due:
            del self._pending[path]
            try:
                self._vault.take_new(path)
                taken.append(path)
                self._not_taken.pop(path, None)
            except FileNotFoundError:
                continue
            except (OSError, MamplusError) as error:
                self._note_not_taken(path, str(error))
                self._pending[path] = (now, 0)
        self._watch(taken)

    def _accept(self) -> None:
        todo, self._accepting = self._accepting, {}
        for who, paths in _by_value(todo).items():
            kept = [path for path in paths if self._accept_one(path)]
            if kept:
                self.accepted += len(kept)
                self._journal({"what": f"{len(kept)} changed files are kept as they are: {who}", "paths": kept[:20]})

    def _accept_one(self, path: str) -> bool:
        try:
            is_new = self._vault.accept(path)
        except (OSError, MamplusError) as error:
            self._note_not_taken(path, str(error))
            return False
        if not self._vault.is_protected(path):
            self.files.remove(path)
        else:
            self.rewatch(path)
        return is_new

    def _catch_up(self) -> None:
        """Look at all files, and keep what differs: the window is about to close."""
        who = self._who_answers(0, self._clock.boot_ns())
        if who:
            self._accepting.update(
                (path, who) for path in self._vault.paths() if not self._vault.intact(path, quick=True)
            )
            self._accept()

    def _watch(self, paths: Iterable[str]) -> None:
        wanted = list(paths)
        self.files.add_all(wanted)
        self.files.add_directories([path for path in wanted if self._tree_of(path) and _is_directory(path)])

    # --- what no event tells -----------------------------------------------------------------

    def _note_mounts(self, paths: Iterable[str]) -> None:
        files, points = set(paths), set(self._mounts.points())
        for place in {os.path.dirname(path) for path in files} | set(self._tree_directories()) | (files & points):
            self._lies_on.setdefault(place, self._mounts.of(place))

    def _look_at_mounts(self) -> None:
        """Tell of a mount that covers a protected directory or file: what is there now is not what is protected."""
        before = self._covered
        over_files = [
            one for one in self._mounts.points() if one not in self._lies_on and self._vault.is_protected(one)
        ]
        self._covered = {
            place: self._mounts.of(place)
            for place, lay_on in [*self._lies_on.items(), *((one, "") for one in over_files)]
            if self._mounts.of(place) != lay_on
        }
        for directory in [one for one in self._covered if one not in before]:
            if os.path.dirname(directory) in self._covered:
                continue  # told with the one above
            what = self._covered[directory]
            self._told("vault-covered", f"a mount covers protected {directory!r} ({what}): nothing is put back there")
        for directory in [one for one in before if one not in self._covered]:
            self._scan = [*self._vault.paths(directory), *self._scan]

    def _is_covered(self, path: str) -> bool:
        if self._mounts.look():
            self._look_at_mounts()
        return bool(self._covered) and (os.path.dirname(path) in self._covered or path in self._covered)

    def _look_around(self) -> list[FileChange]:
        """Look at paths without a watch, and at a few others: all of them in turn."""
        unwatched = [path for path in self.files.unwatched if self._vault.is_protected(path)]
        for path in unwatched:
            self.rewatch(path)
        if not self._scan:
            self._scan = self._vault.paths()
        some, self._scan = self._scan[:_SCANNED_AT_ONCE], self._scan[_SCANNED_AT_ONCE:]
        now = self._clock.boot_ns()
        return [
            FileChange(boot_ns=now, path=path, changes=(OVERFLOW,), tgid=0)
            for path in dict.fromkeys([*unwatched, *some])
            if self._still_differs(path, now)
        ]

    def _still_differs(self, path: str, now: int) -> bool:
        """Say whether a path is damaged; of one that cannot be put back more and more seldom."""
        if self._vault.looks_intact(path) or not self._is_damaged(path):
            self._again.pop(path, None)
            return False
        due, wait = self._again.get(path, (0, _AGAIN_NS))
        if now < due:
            return False
        self._again[path] = (now + wait, min(2 * wait, _SELDOM_NS))
        return True

    def _is_damaged(self, path: str) -> bool:
        if self._is_covered(path) or path in self._accepting or not self._vault.is_protected(path):
            return False
        return not self._vault.intact(path, quick=True)


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _by_value(whose: dict[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path, who in whose.items():
        found.setdefault(who, []).append(path)
    return found
