# SPDX-License-Identifier: Apache-2.0
"""Whose changes of protected files are kept, and keeping them.

Journey: protecting, pipeline -> [accepting] -> vault.

A change is answered for by an open window, a maintenance window, the package manager, or a program that the policy
names. What is kept is what lies there a moment later, and on this tier nobody can be kept from writing meanwhile. So a
change that nobody answers for has what waits to be kept put back instead (`may`); and when it may be in what was kept
already, the version before that is what should be there again (`doubt`). For a program nothing is kept while the file
is open for writing, by whomever: else a write that is told much later could be in it.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mamplus_host.analyzer.mass import REWRITING
from mamplus_host.clock import Clock
from mamplus_host.collector.files import OVERFLOW
from mamplus_host.events import FileChange
from mamplus_host.executor.vault.vault import FAILURES, Vault
from mamplus_host.executor.vault.window import VaultWindow
from mamplus_host.protected.package_managers import PackageManagers

_THE_POLICYS = "a program that the policy names"
_DOUBT_NS = 2_000_000_000  # a write is seen in the file before its event is in the queue: by the time of a preemption


@dataclass(slots=True)
class _Path:
    """What is remembered of a path, until nothing of it is."""

    who: str = ""  # answers for what lies there, which is to be kept; "": nothing is
    is_late: bool = False  # it could not be kept: tried again within a minute, or with others
    is_told: bool = False  # it could not be kept twice, and was told
    taken: tuple[int, int] = (0, 0)  # when it was kept for its writer a moment ago, and the version before
    right: int = 0  # the version that should be there, and could not be declared so yet


_NOTHING = _Path()


class Accepting:
    """The changes that somebody answers for."""

    def __init__(
        self, vault: Vault, state: Path, *, clock: Clock, boot_id: str, managers: PackageManagers,
        covers: Callable[[int], bool], allows: Callable[[FileChange], bool], packaged: Callable[[str], str],
        kept: Callable[[str], object], not_kept: Callable[[str, str], object],
        journal: Callable[[dict[str, object]], object], told: Callable[[str, str], object],
    ) -> None:  # fmt: skip
        """`covers`: does a maintenance window; `allows`: does the policy, by the program that did it.

        `packaged`: the package of which a path is what the package manager's own list says, "" when it is not.
        `kept` and `not_kept` are told of each path.
        """
        self._vault, self._clock, self._managers = vault, clock, managers
        self._covers, self._allows, self._packaged = covers, allows, packaged
        self._kept, self._not_kept, self._journal, self._told = kept, not_kept, journal, told
        self.window = VaultWindow(state, clock, boot_id)
        self._paths = defaultdict[str, _Path](_Path)
        self.accepted = 0

    @property
    def is_waiting(self) -> bool:
        return any(one.who and not one.is_late for one in self._paths.values())

    def waits(self, path: str) -> bool:
        """Say whether what lies at `path` is to be kept."""
        return bool(self._paths.get(path, _NOTHING).who)

    def who(self, tgid: int, boot_ns: int) -> str:
        """Return who answers for what a process (0: an unknown one) does to any file; "" when nobody does."""
        if self.window.is_open():
            return f"a window of the {self.window.opened_by()[0]}"
        if self._covers(boot_ns):
            return "a maintenance window"
        return self._managers.at_work(tgid) if tgid else ""

    def may(self, change: FileChange) -> bool:
        """Say whether somebody answers for a change; then what it left is kept, at once or a moment later."""
        path = change.path
        if OVERFLOW in change.changes and self.waits(path):
            return True  # it was looked at, and is known to be changed
        if self._allows(change):
            self._keep([path], _THE_POLICYS, is_by_writer=True)
            return True
        # dpkg may have ended before it was looked at who wrote; what it unpacked is in its lists by then.
        who = self.who(change.tgid, change.boot_ns) or self._packaged(path)
        if who or path in self._paths:
            known = self._paths[path]
            known.who, known.is_late = who, False
        return bool(who)

    def doubt(self, change: FileChange) -> None:
        """Have the version before be what a path should be, when what was kept of it may be another's.

        Of who wrote after it was kept, the file tells by itself: it differs, and is put back. One writing is told in
        parts, the last of them when the file is back; so the first part decides.
        """
        known = self._paths.get(change.path, _NOTHING)
        taken_ns, before = known.taken
        if not before or not change.tgid or REWRITING.isdisjoint(change.changes):
            return
        if change.since_ns - taken_ns > _DOUBT_NS or self._allows(change) or self.who(change.tgid, change.boot_ns):
            return
        known.taken = _NOTHING.taken
        if self._vault.intact(change.path):
            known.right = before
            self._declare_right()

    def settle(self) -> None:
        """Keep what waits to be kept; what cannot be kept now waits on, as it is."""
        todo = {path: one.who for path, one in self._paths.items() if one.who}
        for who in dict.fromkeys(todo.values()):
            paths = [path for path, one in todo.items() if one == who]
            self._keep(paths, who, is_by_writer=not self.window.is_open())

    def forget(self, paths: list[str]) -> None:
        """Treat what is no longer protected as never changed."""
        for path in paths:
            self._paths.pop(path, None)

    def tick(self, treated_ns: int) -> None:
        """`treated_ns`: all that happened until then was read and is treated."""
        self._declare_right()
        for known in self._paths.values():
            if treated_ns - known.taken[0] > _DOUBT_NS:
                known.taken = _NOTHING.taken
        for path in [path for path, known in self._paths.items() if known == _NOTHING]:
            del self._paths[path]

    # --- a person's window -------------------------------------------------------------------

    def open_window(self, minutes: float, by: str) -> None:
        """Keep changes for a while, by whomever."""
        self.window.open(minutes, by)
        self._tell(f"changes to protected files are kept for {minutes:g} minutes: opened by the {by}")

    def close_window(self, by: str) -> None:
        """Close what `by` opened, and keep what was changed until now."""
        who = self.who(0, self._clock.boot_ns())
        if who:
            differing = (path for path in self._vault.paths() if not self._vault.intact(path, quick=True))
            for path in differing:
                self._paths[path].who = who
            self.settle()
        if self.window.close(by):
            self._tell(f"changes to protected files are put back again: the {by}'s window is closed")

    def window_in_words(self) -> str:
        left_s = self.window.left_s()
        opened = f"open for {left_s:.0f} s, by the {' and the '.join(self.window.opened_by())}"
        return opened if left_s else "closed"

    # --- inside ------------------------------------------------------------------------------

    def _declare_right(self) -> None:
        """Have the versions be right that are; on a full disk the next tick tries again."""
        for path, known in [(path, one) for path, one in self._paths.items() if one.right]:
            try:
                self._vault.make_golden(path, known.right)
            except FAILURES as error:
                self._not_kept(path, str(error))
                continue
            known.right = 0
            self._journal({"what": "another wrote before a change was kept: what was before is right", "paths": [path]})

    def _tell(self, text: str) -> None:
        self._journal({"what": text})
        self._told("vault-window", text)

    def _keep(self, paths: list[str], who: str, *, is_by_writer: bool) -> None:
        kept = [path for path in paths if self._keep_one(path, who, is_by_writer)]
        if kept:
            self.accepted += len(kept)
            self._journal({"what": f"{len(kept)} changed files are kept as they are: {who}", "paths": kept[:20]})

    def _keep_one(self, path: str, who: str, is_by_writer: bool) -> bool:
        """Keep what is at `path`; return whether it is another than before."""
        try:
            before = self._vault.latest(path).id
            is_new = self._vault.accept(path, closed=is_by_writer)
        except FAILURES as error:
            self._note_failed(path, who, str(error))
            return False
        taken = self._paths.pop(path, _NOTHING).taken
        if is_new:
            taken = (self._clock.boot_ns(), before) if is_by_writer else _NOTHING.taken
        if taken != _NOTHING.taken:
            self._paths[path] = _Path(taken=taken)
        self._kept(path)
        return is_new

    def _note_failed(self, path: str, who: str, why: str) -> None:
        """Tell of what cannot be kept: once, and not of what could with the second try."""
        known = self._paths[path]
        known.who = who
        self._not_kept(path, why)
        if known.is_late and not known.is_told:
            known.is_told = True
            self._told("vault-not-kept", f"a change of {path!r} cannot be kept ({why}); it stays, and is tried again")
        known.is_late = True
