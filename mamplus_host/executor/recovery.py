# SPDX-License-Identifier: Apache-2.0
"""What an agent before us left: a crash interrupted it, or a restart of the device took it away.

Journey: execute -> [recovery] -> runner. All of it is done at the agent's start, at once.
"""

from collections.abc import Callable, Mapping

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.courses import at_once
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
        self, runner: Runner, store: InForceStore, *, boot: str, is_enforcing: bool,
        forget_held: Callable[[Facts], None],
    ) -> None:  # fmt: skip
        """`is_enforcing`: whether more may be done than to take back. `forget_held` is told of what held no more."""
        self._runner, self._store, self._boot = runner, store, boot
        self._is_enforcing, self._forget_held = is_enforcing, forget_held

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

    def finish(self, record: Record) -> Outcome:
        """One action that cannot be finished must not keep the agent from starting: it has failed, and is told."""
        work = Work(id=str(record.data.get("id", "")), decision_id=record.id, kind=ActionKind.REFUSED)
        try:
            work.kind = ActionKind(record.data["action"])
            work = reopened(record.data, record.id) if "facts" in record.data else finish_old(record, self._store, work)
            self._finish(work, is_undo=bool(record.data.get("undo")))
        except FAILURES as error:
            self._runner.close(work, "failed", f"it could not be finished: {error}")
        assert work.outcome is not None
        return work.outcome

    def _finish(self, work: Work, *, is_undo: bool) -> None:
        entry = self._store.get(work.id)
        if work.outcome is not None:
            return
        if is_undo:
            at_once(self._runner.undoing([work], "as was begun before a restart"))
        elif entry is not None and self._store.left_s(entry) == 0:
            at_once(self._runner.undoing([work], TIME_OVER))
        elif not self._is_enforcing and work.kind is not ActionKind.WIPE:
            self._leave(work)
        else:
            at_once(self._runner.doing([work]))
            if work.kind is ActionKind.KILL and "hold" in work.facts and work.outcome is not None:
                self._forget_held(work.facts)

    def _leave(self, work: Work) -> None:
        """Take back what was begun before monitor mode, where that can be."""
        if work.facts and self._runner.has_inverse(work.kind) and not self._runner.is_passing(work.kind):
            at_once(self._runner.undoing([work], _ONLY_WATCHES))
        else:
            self._runner.close(work, "failed", f"it was interrupted and not finished: {_ONLY_WATCHES}")

    def reinstate(self, entry: InForce) -> list[Outcome]:
        """Do again what a restart of the device took away; what cannot be (a process has ended) is not in force."""
        work = Work.of(entry)
        if entry.facts.get("boot", self._boot) != self._boot:
            try:
                self._store.drop([entry.id])
            except ActionFailed:
                return []  # a full disk: nothing of it stands, and the next start says so
            self._runner.close(work, "undone", "the device restarted, and what was held ended with it")
            return [work.outcome] if work.outcome else []
        try:
            if self._runner.verify(entry.kind, entry.facts) is State.DONE:
                return []
        except FAILURES:
            return []  # nothing here can tell, or do it again: it stays noted, and a person may undo it
        if not self._is_enforcing:
            return []
        at_once(self._runner.doing([work]))
        assert work.outcome is not None
        return [work.outcome]
