# SPDX-License-Identifier: Apache-2.0
"""Follows protected files and trees: what is new in them, and who rewrites them in masses.

Journey: files (watch) -> [protecting] -> pipeline (puts back), vault (keeps).

    brake     stops who is about to rewrite many files, before this does anything; it is judged here (`read`)
    read      what was touched; a family that rewrites many files is stopped before anything else is done (`judging`)
    settle    changes that somebody answers for are kept (`accepting`)
    tick      new files that nobody touched for a while are kept; what no event told is looked at (`overlooked`)

This module restores nothing and decides nothing about alerts.
"""

import logging
import os
import select
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from mamplus_host.clock import Clock
from mamplus_host.collector.files import FileWatch, Touch
from mamplus_host.config import Config
from mamplus_host.errors import NotPossible
from mamplus_host.events import FileChange, MassRewrite
from mamplus_host.executor.processes.stopping import Stopper
from mamplus_host.executor.vault.paths import is_at_or_below, is_kept
from mamplus_host.executor.vault.store import DIRECTORY
from mamplus_host.executor.vault.tree import Step
from mamplus_host.executor.vault.vault import FAILURES, Vault
from mamplus_host.executor.vault.window import BY_MANAGER
from mamplus_host.protected.accepting import Accepting
from mamplus_host.protected.brake import Brake
from mamplus_host.protected.judging import Judging
from mamplus_host.protected.overlooked import Overlooked
from mamplus_host.protected.package_managers import PackageManagers

LOG = logging.getLogger("mamplus")
MAX_PENDING = 4096  # new files that wait until nobody touches them
MAX_NOT_TAKEN = 1000  # new files that are remembered as not kept
_TICKS_PER_TIDYING = 12  # a minute
_BURST_S, _MAX_BURST = 0.0005, 100  # between two removals; reads of one burst
_SETTLE_AFTER_S = 0.5  # without any touch
REMOVING = frozenset({"delete", "moved-away"})
_NS = 1_000_000_000


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
    brake: str  # on, off, or why there is none
    not_braked: int  # files whose changes the brake cannot count


class Protecting:
    """Protected files, as the service's loop follows them."""

    def __init__(
        self, config: Config, vault: Vault, *, clock: Clock, boot_id: str, stopper: Stopper, brake: Brake,
        managers: PackageManagers, ancestors: Callable[[int], list[int]], covers: Callable[[int], bool],
        note: Callable[[dict[str, object]], object], told: Callable[[str, str], object],
        allows: Callable[[FileChange], bool] = lambda _change: False,
        packaged: Callable[[str], str] = lambda _path: "",
    ) -> None:  # fmt: skip
        """`ancestors` of a process, nearest first, as far as they may be acted on.

        `covers`, `allows` and `packaged` say whose changes are kept (`accepting`). `note` writes to the journal;
        `told` sends an alert: what it is about, and one sentence.
        """
        self._config, self._vault, self._clock = config, vault, clock
        self._stopper, self._ancestors = stopper, ancestors
        self.brake = brake
        self._trees = vault.trees()
        self._pending: dict[str, tuple[int, int]] = {}  # new path -> when it was touched last (CLOCK_BOOTTIME), by whom
        self._not_taken: dict[str, str] = {}
        self._ticks = 0
        self._touched_ns = 0  # when something was told last, CLOCK_BOOTTIME
        self.files = FileWatch.open(vault.paths(), self._tree_directories(), brake.count)
        self.files.at_once = self._glance
        self.accepting = Accepting(
            vault, config.state, clock=clock, boot_id=boot_id, managers=managers, covers=covers, allows=allows,
            packaged=packaged, kept=self._note_kept, not_kept=self._note_not_taken, journal=note, told=told,
        )  # fmt: skip
        self.judging = Judging(
            config, vault, clock=clock, stopper=stopper, managers=managers, ancestors=ancestors,
            who=self.accepting.who,
        )  # fmt: skip
        self._overlooked = Overlooked(
            vault, self.files, clock, rewatch=self.rewatch, waits=self.accepting.waits, told=told
        )
        self._overlooked.note_mounts(vault.paths(), self._tree_directories())
        vault.on_placed = self._note_placed
        self.brake.hand_over(stopper.adopt)
        self.let_go()
        self.brake.refresh()
        self._turn_brake()

    # --- what people ask for -----------------------------------------------------------------

    def protect(self, path: Path) -> list[str]:
        """Protect a file, or a directory and what comes into it later; return the paths. NotPossible: not watched."""
        kept = self._vault.protect(path, follow=True)
        self._trees = self._vault.trees()
        self._watch(kept)
        self._overlooked.note_mounts(kept, self._tree_directories())
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
        self.accepting.forget(gone)
        return gone

    def open_window(self, minutes: float, by: str) -> None:
        """Keep changes for a while; where the kernel says who writes, the package manager needs no window."""
        if by == BY_MANAGER and self.files.names_writers:
            return
        self.accepting.open_window(minutes, by)
        self._turn_brake()

    def close_window(self, by: str) -> None:
        """Close what `by` opened, and keep what was changed until now."""
        self.accepting.close_window(by)
        self._turn_brake()

    def window_state(self) -> dict[str, object]:
        window = self.accepting.window
        return {"open_for_s": round(window.left_s()), "by": window.opened_by()}

    def put(self, steps: list[Step]) -> list[str]:
        """Do a part of a person's plan; return what could not be done, in words."""
        failed = []
        for step in steps:
            try:
                self._vault.do(step)
            except FAILURES as error:
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
        """Return what is to be treated: a mass rewrite before anything else, and without the changes that are its.

        Whoever the brake stopped is among the mass rewrites, or goes on with `let_go`.
        """
        self._turn_brake()
        self.brake.hand_over(self._stopper.adopt)
        changes = self.files.read()
        if any(change.tgid and not REMOVING.isdisjoint(change.changes) for change in changes):
            changes += self._rest_of_a_burst()
        now = self._clock.boot_ns()
        if changes:
            self._touched_ns = now
            self.judging.look_at_families()
        suspects = self.judging.take()
        found: list[FileChange | MassRewrite] = [*suspects]
        heads = [one.tgid for one in suspects if one.tgid]
        rewritten = {path for one in suspects for path in one.paths}
        for change in changes:
            if self._overlooked.is_covered(change.path):
                continue
            if self._is_new(change):
                self._note_new(change)
            elif change.path not in rewritten:
                found.append(change)
        for head in heads:
            self._drop_pending_of(head)
        return found

    def settle(self) -> None:
        """Finish what waited until nothing was to be put back."""
        self._vault.settle()
        self.accepting.settle()

    def settle_in_s(self) -> float | None:
        """Return after how long `settle` is due, None when there is nothing to settle.

        It waits for the disk; so it waits until nobody is at work who may have to be stopped.
        """
        if not self._vault.unsettled and not self.accepting.is_waiting:
            return None
        return max(0.0, _SETTLE_AFTER_S - (self._clock.boot_ns() - self._touched_ns) / _NS)

    def tick(self, treated_ns: int = 0) -> list[FileChange]:
        """Do what no event asks for; return what is to be looked at.

        `treated_ns`: all that happened until then was read and is treated; 0: all that was read.
        """
        self.brake.refresh()
        self._turn_brake()
        self._take_pending()
        self._overlooked.look_at_mounts()
        self.accepting.tick(treated_ns or self.files.empty_ns)
        if self._ticks % _TICKS_PER_TIDYING == 0:
            self.settle()  # though somebody goes on touching files
            self._vault.tidy()
        self._ticks += 1
        return self._overlooked.look()

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

    def close(self) -> None:
        """Watch nothing and hold nobody any more."""
        self.brake.turn(False)
        self.brake.hand_over(self._stopper.adopt)
        self.let_go()
        self.brake.close()
        self.files.close()

    def state(self) -> State:
        return State(
            tier=self.files.tier, protected=self._vault.count(), trees=self._trees,
            unwatched=self.files.unwatched, covered=self._overlooked.covered, pending=len(self._pending),
            not_taken=dict(list(self._not_taken.items())[:10]), accepted=self.accepting.accepted,
            window=self.accepting.window_in_words(), versions_not_kept=self._vault.not_kept,
            brake=self.brake.state(), not_braked=self.brake.uncounted,
        )  # fmt: skip

    def _rest_of_a_burst(self) -> list[FileChange]:
        """Read on while more is removed: it takes longer to put one back than to remove a hundred."""
        found: list[FileChange] = []
        for _number in range(_MAX_BURST):
            if not select.select([self.files], [], [], _BURST_S)[0]:
                break
            found += self.files.read()
        return found

    # --- who rewrites many -------------------------------------------------------------------

    def _turn_brake(self) -> None:
        """Have nobody stopped whom nobody would judge, or for whose changes somebody answers."""
        may_stop = self.files.names_writers and self._config.agent.mode != "monitor"
        self.brake.turn(may_stop and not self.accepting.who(0, self._clock.boot_ns()))

    def _glance(self, touches: list[Touch]) -> None:
        """Look at a batch of the queue while the rest of it is still to be read."""
        self.judging.glance([touch for touch in touches if self.files.knows(touch[0])])

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
            except FAILURES as error:
                self._note_not_taken(path, str(error))
                self._pending[path] = (now, 0)
        self._watch(taken)

    def _note_placed(self, path: str) -> None:
        if self.files.knows(path):
            self.rewatch(path)

    def _note_kept(self, path: str) -> None:
        self._not_taken.pop(path, None)
        if self._vault.is_protected(path):
            self.rewatch(path)
        else:
            self.files.remove(path)

    def _watch(self, paths: Iterable[str]) -> None:
        wanted = list(paths)
        self.files.add_all(wanted)
        self.files.add_directories([path for path in wanted if self._tree_of(path) and _is_directory(path)])


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path, follow_symlinks=False).st_mode)
    except OSError:
        return False
