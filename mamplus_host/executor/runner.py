# SPDX-License-Identifier: Apache-2.0
"""Carries deeds out so that a power cut at any moment leaves them to be finished or undone, never both.

Journey: execute -> [runner] -> actions/*, journal, inforce.

    forward   prepare -> intents (one sync for all) -> noted as in force -> do -> outcomes
    back      intents (one sync for all) -> undo -> verify -> taken off what is in force -> outcomes

Both are courses (`courses.py`): what a deed does may take long and then be another thread's; what is written is ours.
Whatever a step finds done already is done again to the same result. An action that fails is taken back at once
and told as failed; it never stops the ones beside it.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import msgspec

from mamplus_host.clock import ListClock
from mamplus_host.errors import ActionFailed, MamplusError
from mamplus_host.executor.courses import Course, Job, ending
from mamplus_host.executor.inforce import InForce, InForceStore
from mamplus_host.executor.journal import Journal
from mamplus_host.executor.shape import Deed, Facts, FoundAgain, Hastened, Passing, Shared, Slow, State
from mamplus_host.executor.steps import step
from mamplus_host.verdicts import ActionKind, Indicator, Outcome

FAILURES = (MamplusError, OSError, ValueError, KeyError, TypeError, sqlite3.Error)


@dataclass(slots=True, kw_only=True)
class Work:
    """One action on its way; `outcome` ends it."""

    id: str
    decision_id: str
    kind: ActionKind
    target: dict[str, Any] = field(default_factory=dict)
    facts: Facts = field(default_factory=dict)
    indicator: Indicator | None = None
    ttl_s: int = 0
    on_end: Literal["undo", "kill"] = "undo"
    since_ns: int = 0  # CLOCK_BOOTTIME of the event; 0: none
    is_fresh: bool = False  # what it is on was looked at a moment ago, by us
    ended_ns: int = 0
    outcome: Outcome | None = None

    @classmethod
    def of(cls, entry: InForce) -> "Work":
        """Return the work of undoing, or of doing again, what is in force."""
        return cls(id=entry.id, decision_id=entry.decision_id, kind=entry.kind, facts=entry.facts,
                   indicator=entry.indicator, ttl_s=entry.ttl_s, on_end=entry.on_end)  # fmt: skip


class Runner:
    """One thread only."""

    def __init__(
        self, deeds: dict[ActionKind, Deed], *, journal: Journal, store: InForceStore, clock: ListClock,
        alive: Callable[[], object] = int,
    ) -> None:  # fmt: skip
        """`alive` is called before each action: the watchdog must not end the agent because there are many."""
        self.alive = alive
        self._deeds, self._journal, self._store, self._clock = deeds, journal, store, clock
        self._hastened = {kind: deed for kind, deed in deeds.items() if isinstance(deed, Hastened)}
        self._slow = {kind for kind, deed in deeds.items() if isinstance(deed, Slow) and deed.is_slow}
        self._shared = {kind: deed for kind, deed in deeds.items() if isinstance(deed, Shared)}
        passing = {kind for kind, deed in deeds.items() if isinstance(deed, Passing) and deed.is_passing}
        self._kept = {kind for kind, deed in deeds.items() if deed.has_inverse} - passing
        self.counts: Counter[str] = Counter(done=0, failed=0, undone=0)

    # --- forward -----------------------------------------------------------------------------

    def doing(self, works: Iterable[Work]) -> Course:
        """Look, where that was not done before, and do; every work has its outcome after this."""
        wanted = [work for work in works if work.outcome is None]
        for work in wanted:
            if not work.facts:
                yield from self._prepared(work)
        wanted = self._noted(self._intended([work for work in wanted if work.outcome is None], is_undo=False))
        if ends := self._hastened_of(wanted):
            yield ending(ends)
        failed = list[Work]()
        words = dict[str, str]()
        for work in wanted:
            self.alive()
            step("do")
            try:
                words[work.id] = yield self._job(work, partial(self._deeds[work.kind].do, work.facts))
                work.ended_ns = work.ended_ns or self._clock.boot_ns()
            except FAILURES as error:
                back = yield self._job(work, partial(self._take_back, work, self._others(work)))
                words[work.id] = f"{_words(error)}{back}"
                failed.append(work)
        step("outcomes")
        self.forget(work for work in failed if "could not be taken back" not in words[work.id])
        self.close_all([(work, "failed" if work in failed else "done", words[work.id]) for work in wanted])

    def _prepared(self, work: Work) -> Course:
        """Look; one that cannot be done has its outcome after this."""
        deed = self._deeds.get(work.kind)
        try:
            if deed is None:
                raise ActionFailed(f"this device has nothing that could do {work.kind.value!r}")
            target = {**work.target, "ttl_s": work.ttl_s}
            work.facts = yield self._job(work, partial(deed.prepare, work.id, target))
            work.facts = self._shared_facts(work)
            work.is_fresh = True
        except FAILURES as error:
            if work.outcome is None:  # else it was taken back meanwhile
                self.close(work, "failed", _words(error))

    def _job(self, work: Work, run: Callable[[], Any]) -> Job:
        return Job(run, work.kind in self._slow)

    def is_slow(self, kind: ActionKind) -> bool:
        """Say whether an action of this kind may take seconds."""
        return kind in self._slow

    def _shared_facts(self, work: Work) -> Facts:
        """Return the facts of whoever has the same effect in force already: what is seen now is its work."""
        others = self._store.sharing(work.kind, self._place(work.kind, work.facts))
        return others[0].facts if others else work.facts

    def _hastened_of(self, works: list[Work]) -> dict[int, Callable[[], object]]:
        """Begin what ends by itself, all of it; return what notes when each has ended, by a descriptor for that."""
        ends: dict[int, Callable[[], object]] = {}
        for work in works:
            if work.is_fresh and work.kind in self._hastened:
                step("hasten")
                descriptor = self._hastened[work.kind].hasten(work.facts)
                if descriptor >= 0:
                    ends[descriptor] = partial(self._note_end, work)
        return ends

    def _note_end(self, work: Work) -> None:
        work.ended_ns = self._clock.boot_ns()

    def _noted(self, works: list[Work]) -> list[Work]:
        """Put what will be in force on the disk; return what may be done."""
        kept = [work for work in works if work.kind in self._kept]
        step("in force")
        try:
            self._store.put([self._entry(work) for work in kept])
            return works
        except ActionFailed as error:
            for work in kept:
                self.close(work, "failed", str(error))
            return [work for work in works if work not in kept]

    def _entry(self, work: Work) -> InForce:
        known = self._store.get(work.id)
        if known is not None:  # begun before a crash: its time runs since then
            return known
        place = self._place(work.kind, work.facts)
        entry = InForce(id=work.id, decision_id=work.decision_id, kind=work.kind, facts=work.facts, place=place,
                        indicator=work.indicator, ttl_s=work.ttl_s, on_end=work.on_end,
                        since_s=self._clock.wall_s())  # fmt: skip
        return self._store.stamped(entry)

    def _place(self, kind: ActionKind, facts: Facts) -> str:
        deed = self._shared.get(kind)
        return deed.effect(facts) if deed is not None else ""

    def _take_back(self, work: Work, others: list[InForce]) -> str:
        """Undo what a `do` that failed may have done; return how that went, as the end of a sentence."""
        deed = self._deeds[work.kind]
        if work.kind not in self._kept or others:
            return ""
        try:
            if deed.verify(work.facts) is not State.UNDONE:
                step("take back")
                deed.undo(work.facts)
        except FAILURES as error:
            return f"; what of it was done could not be taken back: {_words(error)}"
        return ""

    # --- back --------------------------------------------------------------------------------

    def undoing(self, works: Iterable[Work], why: str = "") -> Course:
        """Do the inverse of what was done; every work has its outcome after this."""
        wanted = self._intended([work for work in works if work.outcome is None], is_undo=True)
        for work in wanted:
            self.alive()
            step("undo")
            try:
                detail = yield self._job(work, partial(self._undo_one, work, self._others(work)))
                step("undone")
                self._store.drop([work.id])
            except FAILURES as error:
                self.close(work, "failed", f"it could not be undone: {_words(error)}")
                continue
            step("outcome")
            self.close(work, "undone", f"{detail}: {why}" if why else detail)

    def _undo_one(self, work: Work, others: list[InForce]) -> str:
        deed = self._deeds[work.kind]
        if others:
            return f"it stays in force for alert {others[0].decision_id}"
        detail = deed.undo(work.facts)
        seen = deed.verify(work.facts)
        if seen is not State.UNDONE:
            raise ActionFailed(f"it was undone, and the device is seen as {seen.value!r}, want 'undone'")
        return detail

    def _others(self, work: Work) -> list[InForce]:
        place = self._place(work.kind, work.facts)
        return [entry for entry in self._store.sharing(work.kind, place) if entry.id != work.id]

    # --- looking -----------------------------------------------------------------------------

    def verify(self, kind: ActionKind, facts: Facts) -> State:
        """Return what the device shows of an action; ActionFailed when nothing here can tell."""
        deed = self._deeds.get(kind)
        if deed is None:
            raise ActionFailed(f"this device has nothing that could look at {kind.value!r}")
        return deed.verify(facts)

    def looking(self, work: Work) -> Job:
        """Return the job of `verify`."""
        return self._job(work, partial(self.verify, work.kind, work.facts))

    def has_inverse(self, kind: ActionKind) -> bool:
        return kind in self._deeds and self._deeds[kind].has_inverse

    def _is_found_again(self, kind: ActionKind) -> bool:
        deed = self._deeds[kind]
        return isinstance(deed, FoundAgain) and deed.is_found_again

    def is_passing(self, kind: ActionKind) -> bool:
        return self.has_inverse(kind) and kind not in self._kept

    # --- journal -----------------------------------------------------------------------------

    def _intended(self, works: list[Work], *, is_undo: bool) -> list[Work]:
        """Write the intents; what cannot be journalled is not done. Returns what may be done."""
        if not works:
            return []
        try:
            intents = [(work.decision_id, _intent(work, is_undo)) for work in works]
            waits = is_undo or any(not self._is_found_again(work.kind) for work in works)
            written = self._journal.append_many("intent", intents, sync=waits)
        except MamplusError as error:
            for work in works:
                self.close(work, "failed", str(error))
            return []
        for work, record in zip(works, written, strict=True):
            if isinstance(record, ActionFailed):
                self.close(work, "failed", str(record))
        return [work for work in works if work.outcome is None]

    def forget(self, ended: Iterable[Work | InForce]) -> None:
        """Have what has ended no longer in force."""
        try:
            self._store.drop(one.id for one in ended)
        except ActionFailed:  # a full disk: what has ended already is ended again, by the next start if not before
            self.counts["unnoted"] += 1

    def close(self, work: Work, state: str, detail: str) -> None:
        """End one work: its outcome is written and counted."""
        self.close_all([(work, state, detail)])

    def close_all(self, ended: Iterable[tuple[Work, str, str]]) -> None:
        """End works: (work, state, words)."""
        listed = list(ended)
        if not listed:
            return
        missing = self._written([(work.decision_id, _outcome(work, state, detail)) for work, state, detail in listed])
        for (work, state, detail), lost in zip(listed, missing, strict=True):
            self.counts[state] += 1
            took_ns = max(0, (work.ended_ns or self._clock.boot_ns()) - work.since_ns) if work.since_ns else 0
            work.outcome = Outcome(decision_id=work.decision_id, action=work.kind, state=state,
                                   detail=f"{detail}; {lost}" if lost else detail, took_ns=took_ns)  # fmt: skip

    def _written(self, outcomes: list[tuple[str, dict[str, Any]]]) -> list[str]:
        """Write outcomes; return for each what is wrong with its line. Done is done, so that stops nothing."""
        try:
            written = self._journal.append_many("outcome", outcomes)
        except MamplusError as error:
            self.counts["unjournalled"] += len(outcomes)
            return [str(error)] * len(outcomes)
        return [str(one) if isinstance(one, ActionFailed) else "" for one in written]


def reopened(data: dict[str, Any], decision_id: str) -> Work:
    """Return the work that an intent of the journal is about; KeyError or ValidationError when it is none of ours."""
    return Work(
        id=data["id"], decision_id=decision_id, kind=ActionKind(data["action"]), facts=data["facts"],
        indicator=msgspec.convert(data.get("indicator"), Indicator | None), ttl_s=data.get("ttl_s", 0),
        on_end=data.get("on_end", "undo"),
    )  # fmt: skip


def _intent(work: Work, is_undo: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"action": work.kind.value, "id": work.id, "facts": work.facts}
    if is_undo:
        return {**found, "undo": True}
    return {**found, "indicator": msgspec.to_builtins(work.indicator), "ttl_s": work.ttl_s, "on_end": work.on_end}


def _outcome(work: Work, state: str, detail: str) -> dict[str, Any]:
    known = {"id": work.id} if work.id else {}
    return {"action": work.kind.value, **known, "state": state, "detail": detail}


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, MamplusError) else f"{type(error).__name__}: {error}"
