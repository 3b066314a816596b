# SPDX-License-Identifier: Apache-2.0
"""What an agent before us left: a crash interrupted it, or a restart of the device took it away.

Journey: execute -> [recovery] -> beside, runner. Done at the agent's start: at once, or in line where it takes long.
"""

from collections.abc import Callable, Mapping
from functools import partial

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.beside import Beside
from mamplus_host.executor.courses import Course, at_once
from mamplus_host.executor.inforce import InForce, InForceStore
from mamplus_host.executor.journal import Record
from mamplus_host.executor.olderstate import finish_old
from mamplus_host.executor.runner import FAILURES, Runner, Work, reopened
from mamplus_host.executor.shape import Facts, State
from mamplus_host.verdicts import ActionKind, Outcome

TIME_OVER = "its time is over"
_ONLY_WATCHES = "the agent only watches (monitor mode)"


class Recovery:
    """Takes up what there is."""

    def __init__(
        self, runner: Runner, beside: Beside, store: InForceStore, *, boot: str, is_enforcing: bool,
        forget_held: Callable[[Facts], None], late: Callable[[Work], object],
    ) -> None:  # fmt: skip
        """`is_enforcing`: whether more may be done than to take back. `forget_held` is told of what held no more.

        `late` gets what was done in line, once it is over.
        """
        self._runner, self._beside, self._store, self._boot = runner, beside, store, boot
        self._is_enforcing, self._forget_held, self._late = is_enforcing, forget_held, late

    def adopt(self, standing: Mapping[str, tuple[Facts, int]], wall_s: float) -> None:
        """Count what stands on the device among what is in force, since now; see `Executor.adopt`."""
        lost = list[InForce]()
        for action_id, (facts, ttl_s) in standing.items():
            decision_id, _, kind = action_id.partition("-")
            if self._store.get(action_id) is None and kind in set(ActionKind):
                entry = InForce(id=action_id, decision_id=decision_id, kind=ActionKind(kind), facts=facts, ttl_s=ttl_s,
                                since_s=wall_s)  # fmt: skip
                lost.append(self._store.stamped(entry))
        self._store.put(lost)

    def finish(self, record: Record) -> list[Outcome]:
        """Finish or undo an action; return its outcome, if it is over.

        One that cannot be finished must not keep the agent from starting: it has failed, and is told.
        """
        work = Work(id=str(record.data.get("id", "")), decision_id=record.id, kind=ActionKind.REFUSED)
        try:
            work.kind = ActionKind(record.data["action"])
            work = reopened(record.data, record.id) if "facts" in record.data else finish_old(record, self._store, work)
            self._finish(work, is_undo=bool(record.data.get("undo")))
        except FAILURES as error:
            self._runner.close(work, "failed", f"it could not be finished: {error}")
        return self._outcome(work)

    def _outcome(self, work: Work) -> list[Outcome]:
        if work.outcome is not None:
            return [work.outcome]
        self._beside.when_over([work], partial(self._late, work))
        return []

    def _do(self, work: Work) -> None:
        if self._beside.is_for(work):
            self._beside.do(work, is_ordered=True)
        else:
            at_once(self._runner.doing([work]))

    def _undo(self, work: Work, why: str) -> None:
        self._beside.undo([work], why)

    def _finish(self, work: Work, *, is_undo: bool) -> None:
        entry = self._store.get(work.id)
        if work.outcome is not None:
            return
        if is_undo:
            self._undo(work, "as was begun before a restart")
        elif entry is not None and self._store.left_s(entry) == 0:
            self._undo(work, TIME_OVER)
        elif not self._is_enforcing and work.kind is not ActionKind.WIPE:
            self._leave(work)
        else:
            self._do(work)
            if work.kind is ActionKind.KILL and "hold" in work.facts and work.outcome is not None:
                self._forget_held(work.facts)

    def _leave(self, work: Work) -> None:
        """Take back what was begun before monitor mode, where that can be."""
        if work.facts and self._runner.has_inverse(work.kind) and not self._runner.is_passing(work.kind):
            self._undo(work, _ONLY_WATCHES)
        else:
            self._runner.close(work, "failed", f"it was interrupted and not finished: {_ONLY_WATCHES}")

    def reinstate(self, entry: InForce) -> list[Outcome]:
        """Do again what a restart of the device took away; what cannot be (a process has ended) is not in force."""
        work = Work.of(entry)
        if self._beside.has(entry.id):
            return []  # it is being finished, or undone
        if entry.facts.get("boot", self._boot) != self._boot:
            try:
                self._store.drop([entry.id])
            except ActionFailed:
                return []  # a full disk: nothing of it stands, and the next start says so
            self._runner.close(work, "undone", "the device restarted, and what was held ended with it")
            return [work.outcome] if work.outcome else []
        self._beside.look(work, self._again(work), partial(self._late, work))
        return [work.outcome] if work.outcome else []

    def _again(self, work: Work) -> Course:
        """Do again what is not done any more; it has no outcome where nothing was to be done."""
        try:
            is_done = (yield self._runner.looking(work)) is State.DONE
        except FAILURES:
            return  # nothing here can tell, or do it again: it stays noted, and a person may undo it
        if not is_done and self._is_enforcing:
            yield from self._runner.doing([work])
