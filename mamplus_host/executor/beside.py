# SPDX-License-Identifier: Apache-2.0
"""The actions that take long, and what comes after them: in line, so that the loop goes on.

Journey: execute -> [beside] -> courses, runner.

In line is what takes long itself, and nothing else: what freezes, refuses or ends a program waits for nobody. What only
tells is bounded apart (its deeds do not do more than a few in ten minutes either), and what a person orders is not
bounded. Until `begin` everything is done at once.

What is ordered to keep a device's content from whoever has it (wipe, lock) has a line of its own: whatever is done to a
file on a dying disk may never end.
"""

import time
from collections.abc import Callable
from functools import partial

from mamplus_host.errors import ActionFailed
from mamplus_host.executor import helper
from mamplus_host.executor.courses import STOP_S, Course, Line, at_once
from mamplus_host.executor.runner import Runner, Work
from mamplus_host.policy.actions import TELLING
from mamplus_host.verdicts import ActionKind, Outcome

Aim = tuple[str, ...]
_FIRST = frozenset({ActionKind.WIPE, ActionKind.CONTAINER_LOCK, ActionKind.LOCK})
OVERDUE_S = 600.0  # of one job; a wipe of a large disk may take longer
MAX_TELLING = 64  # notices and evidence, in line


def aim_of(work: Work) -> Aim:
    """Return what tells two targets apart."""
    return tuple(str(work.target.get(name) or "") for name in ("tgid", "path", "address"))


class Beside:
    """To be called in the loop's thread."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._line: Line | None = None
        self._first_line: Line | None = None  # of what is ordered and must not wait for what is in the other
        self._overdue: tuple[str, str] = ("", "")  # in either line: what was told to take long
        self._works: list[Work] = []  # in line, the one that runs among them
        self.undoing: set[str] = set()  # ids of actions
        self._refused = 0  # found no place in line
        self._late = 0  # took longer than OVERDUE_S
        self._waiting: list[tuple[list[Work], Callable[[], object]]] = []

    def begin(self, line: Line) -> None:
        """Have what takes long done in `line` from now on."""
        self._line, self._first_line = line, line.another()

    @property
    def counts(self) -> dict[str, int]:
        """Return how many are in line, how many found no place in it, and how many took very long."""
        return {"in_line": len(self._works), "no_place": self._refused, "overdue": self._late}

    def overdue(self) -> list[str]:
        """Return the ids of what takes longer than OVERDUE_S, each once: what is in line behind it waits."""
        if self._line is None or self._first_line is None:
            return []
        before, self._overdue = self._overdue, (self._line.overdue(OVERDUE_S), self._first_line.overdue(OVERDUE_S))
        found = [now for was, now in zip(before, self._overdue, strict=True) if now not in ("", was)]
        self._late += len(found)
        return found

    def is_for(self, work: Work) -> bool:
        """Say whether a work has to be done in line."""
        if self._line is None or work.outcome is not None:
            return False
        return self._runner.is_slow(work.kind)

    def do(self, work: Work, *, is_ordered: bool = False) -> None:
        """Do it when its turn comes; without a place in line it has failed. `is_ordered`: by a person; has a place."""
        assert self._line is not None
        is_telling = work.kind in TELLING
        alike = sum((one.kind in TELLING) == is_telling for one in self._works)
        most = min(MAX_TELLING, self._line.most) if is_telling else self._line.most
        if alike < most or is_ordered:
            is_first = is_ordered and work.kind in _FIRST
            self._enter([work], self._runner.doing([work]), line=self._first_line if is_first else self._line)
        else:
            self._refused += 1
            self._runner.close(work, "failed", f"{alike} actions that take long wait already: none is added")

    def undo(self, works: list[Work], why: str) -> list[Work]:
        """Undo now; return what takes long and is undone when its turn comes. ActionFailed: it is to be already."""
        if twice := sorted({work.id for work in works} & self.undoing):
            raise ActionFailed(f"{twice[0]} is being undone already; wait until it is")
        slow = [work for work in works if self.is_for(work)]
        at_once(self._runner.undoing([work for work in works if work not in slow], why))
        for work in slow:
            self.undoing.add(work.id)
            self._enter([work], self._runner.undoing([work], why), partial(self.undoing.discard, work.id))
        return slow

    def look(self, work: Work, course: Course, late: Callable[[], object]) -> None:
        """Run what looks at an action, now or in line; `late` is called when it has an outcome only later."""
        if self.is_for(work):
            assert self._line is not None
            self._line.enter(course, lambda: work.outcome and late(), work.id)
        else:
            at_once(course)

    def has(self, action_id: str) -> bool:
        """Say whether an action is being done, or undone, in line."""
        return any(work.id == action_id for work in self._works)

    def forget(self, is_meant: Callable[[Work], bool], why: str) -> list[Outcome]:
        """End what waits, and was not looked at yet; return what came of it."""
        meant = [work for work in self._works if work.outcome is None and not work.facts and is_meant(work)]
        self._runner.close_all([(work, "undone", f"it was not begun: {why}") for work in meant])
        return [work.outcome for work in meant if work.outcome is not None]

    def when_over(self, works: list[Work], then: Callable[[], object]) -> None:
        """Call `then` once all works have their outcome: now, mostly."""
        if all(work.outcome is not None for work in works):
            then()
        else:
            self._waiting.append((works, then))

    def stop(self) -> None:
        """End what runs, if it ends soon; what was begun, or is to be undone, is the next start's otherwise."""
        lines = [line for line in (self._first_line, self._line) if line is not None]
        until_s = time.monotonic() + STOP_S
        for line in lines:
            line.stop(self._runner.alive, max(1.0, until_s - time.monotonic()))
            if line.thread is not None:
                helper.end_of(line.thread)
        if not lines:
            return
        self._line = self._first_line = None
        for work in self._works:
            if work.id not in self.undoing and not work.facts and work.outcome is None:
                self._runner.close(work, "failed", "the agent stopped before it was begun")
        self._over([], int)

    def _enter(
        self, works: list[Work], course: Course, then: Callable[[], object] = int, *, line: Line | None = None
    ) -> None:  # fmt: skip
        line = self._line if line is None else line
        assert line is not None
        self._works += works
        line.enter(course, partial(self._over, works, then), works[0].id)

    def _over(self, works: list[Work], then: Callable[[], object]) -> None:
        for work in works:
            if work.outcome is None:
                self._runner.close(work, "failed", "the agent itself failed with it; look at its log")
        self._works = [work for work in self._works if work.outcome is None]
        then()
        over = [one for one in self._waiting if all(work.outcome is not None for work in one[0])]
        self._waiting = [one for one in self._waiting if one not in over]
        for _works, whoever in over:
            whoever()
