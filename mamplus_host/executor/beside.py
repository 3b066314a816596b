# SPDX-License-Identifier: Apache-2.0
"""The actions that take long, and what comes after them: in line, so that the loop goes on.

Journey: execute -> [beside] -> courses, runner.

In line are what takes long itself, and what is aimed at something that is in line before it: a program is ended after
the evidence of it was taken. Telling somebody holds nothing up. Until `begin` everything is done at once.
"""

from collections.abc import Callable
from functools import partial

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.courses import Course, Line, at_once
from mamplus_host.executor.runner import Runner, Work
from mamplus_host.verdicts import ActionKind, Outcome

Aim = tuple[str, ...]
NOTHING: Aim = ("", "", "")


def aim_of(work: Work) -> Aim:
    """Return what tells two targets apart."""
    return tuple(str(work.target.get(name) or "") for name in ("tgid", "path", "address"))


class Beside:
    """To be called in the loop's thread."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._line: Line | None = None
        self._works: list[Work] = []  # in line, the one that runs among them
        self._undoing: set[str] = set()  # ids of actions
        self._waiting: list[tuple[list[Work], Callable[[], object]]] = []

    def begin(self, line: Line) -> None:
        """Have what takes long done in `line` from now on."""
        self._line = line

    @property
    def counts(self) -> dict[str, int]:
        """Return how many are in line, and how many found no place in it."""
        return {"in_line": len(self._works), "no_place": self._line.refused if self._line else 0}

    def is_for(self, work: Work) -> bool:
        """Say whether a work has to be done in line."""
        if self._line is None or work.outcome is not None:
            return False
        return self._runner.is_slow(work.kind) or self._is_after_another(work)

    def _is_after_another(self, work: Work) -> bool:
        aim = aim_of(work)
        before = [one for one in self._works if one.outcome is None and one.kind is not ActionKind.NOTIFY]
        return aim != NOTHING and any(aim_of(one) == aim for one in before)

    def do(self, work: Work) -> None:
        """Do it when its turn comes; without a place in line what takes long has failed, and the rest is done now."""
        course = self._runner.doing([work])
        if self._enter([work], course):
            return
        if self._runner.is_slow(work.kind):
            self._runner.close(work, "failed", f"{len(self._works)} actions that take long wait already: none is added")
        else:
            at_once(course)

    def undo(self, works: list[Work], why: str, then: Callable[[], object]) -> None:
        """Undo when their turn comes; ActionFailed when that is to be done already."""
        ids = {work.id for work in works}
        if twice := sorted(ids & self._undoing):
            raise ActionFailed(f"{twice[0]} is being undone already; wait until it is")
        self._undoing |= ids

        def over() -> None:
            self._undoing -= ids
            then()

        self._enter(works, self._runner.undoing(works, why), over, is_bounded=False)

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
        """End what runs; of the rest do what takes no time, and leave what is to be undone to the next start."""
        if self._line is None:
            return
        self._line.stop()
        self._line = None
        for work in [work for work in self._works if work.id not in self._undoing]:
            if self._runner.is_slow(work.kind):
                self._runner.close(work, "failed", "the agent stopped before it was begun")
            else:
                at_once(self._runner.doing([work]))
        self._over([], int)

    def _enter(
        self, works: list[Work], course: Course, then: Callable[[], object] = int, *, is_bounded: bool = True
    ) -> bool:  # fmt: skip
        assert self._line is not None
        self._works += works
        if self._line.enter(course, partial(self._over, works, then), is_bounded=is_bounded):
            return True
        self._works = self._works[: -len(works)]
        return False

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
