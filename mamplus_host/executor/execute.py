# SPDX-License-Identifier: Apache-2.0
"""`Trait_alert()`: carries out planned actions, undoes them, and answers for what is in force.

Journey: plan -> [execute] -> runner -> actions/*; outcomes go to outbox and alert log.

What ends an action: a person (`undo`), the enterprise (`resolve_held`: the list says allow, or block), its time
(`expire`), or the agent's leaving for good (`release_all`). What a crash interrupted is finished or undone by
`recover` of the next agent, and what a restart of the device took away is put back in force.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from mamplus_host import systemd
from mamplus_host.clock import ListClock
from mamplus_host.config import Config
from mamplus_host.errors import ActionFailed
from mamplus_host.executor import deeds as registry
from mamplus_host.executor.beside import Aim, Beside, aim_of
from mamplus_host.executor.courses import Ends, Line, at_once
from mamplus_host.executor.disarm import Disarmed
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.inforce import InForce, InForceStore
from mamplus_host.executor.journal import Journal
from mamplus_host.executor.known import Known, Seen
from mamplus_host.executor.olderstate import adopt_held
from mamplus_host.executor.plan import Action, target_of
from mamplus_host.executor.processes import tasks
from mamplus_host.executor.processes.process import Hold
from mamplus_host.executor.recovery import TIME_OVER, Recovery
from mamplus_host.executor.runner import Runner, Work
from mamplus_host.executor.shape import Deed, Facts
from mamplus_host.executor.steps import step
from mamplus_host.executor.vault.vault import Vault
from mamplus_host.ids import new_id
from mamplus_host.policy.actions import KILLS
from mamplus_host.verdicts import ActionKind, Decision, Indicator, Outcome, Verdict

MAX_BATCH = 256  # actions that share one sync of the journal
MAX_ENDING = 256  # that were begun and end by themselves; beyond, their ends come before more is begun
_RETRY_NS = 60 * 10**9  # after a time limit's undoing failed; doubles, up to an hour
_NS = 1_000_000_000
_NOBODY = "nobody answered in time"
_BY_PERSON = "somebody here undid it"
_ALLOWED = "the list now says allow"
Planned = tuple[Decision, Sequence[Action]]


class Executor:
    """One thread only."""

    def __init__(
        self, config: Config, *, journal: Journal, vault: Vault, clock: ListClock, guarded: GuardSet | None = None,
        deeds: dict[ActionKind, Deed] | None = None, disarmed: Disarmed | None = None,
    ) -> None:  # fmt: skip
        """`guarded`: what nothing acts on. Raises ConfigInvalid without a cgroup."""
        guarded = guarded or GuardSet()
        self._config, self._journal, self._vault, self._clock = config, journal, vault, clock
        self._boot = tasks.boot_id()
        self._store = InForceStore(config.state / "actions.json", clock=clock, boot_id=self._boot)
        known = registry.deeds(config, vault, clock, guarded) if deeds is None else deeds
        self._runner = Runner(known, journal=journal, store=self._store, clock=clock, alive=systemd.watchdog)
        self._beside = Beside(self._runner)
        self._ends = Ends()
        self._ending = set[Aim]()
        self._late: Callable[[list[Outcome]], object] = lambda _outcomes: None
        self._tell_overdue: Callable[[str], object] = lambda _action_id: None
        self._is_enforcing = config.agent.mode == "enforce"  # else what is held may only be let go
        self._known = Known(self._store, journal, self._runner)
        self._recovery = Recovery(self._runner, self._beside, self._store, boot=self._boot,
                                  is_enforcing=self._is_enforcing, forget_held=self._forget_held,
                                  late=self._ended_late)  # fmt: skip
        self.disarmed = disarmed or Disarmed(config.state / "rules.json", clock=clock)
        self._later: dict[str, tuple[int, int]] = {}  # what could not be undone in time: how often, and when again
        self.is_stopping = False  # what waits is not begun, and who ordered it may order it again
        self.faults = list[str]()  # what could not be done at the start: a full disk must not keep us from starting
        if self._store.was_damaged:
            self._try(lambda: journal.append("note", "", {"damaged": "actions.json"}))
        if vault.put_aside:
            self._try(lambda: journal.append("note", "", {"damaged": "vault", "kept_as": vault.put_aside}))
        self._try(lambda: adopt_held(config.state / "held.json", self._store, self._boot))

    def _try(self, job: Callable[[], object]) -> None:
        try:
            job()
        except (ActionFailed, OSError) as error:
            self.faults.append(str(error))

    @property
    def counts(self) -> dict[str, int]:
        return {**self._runner.counts, **self._beside.counts}

    def is_damaged(self, path: str) -> bool:
        """Say whether `path` is protected, not suspended, and no longer as it was kept."""
        if not self._vault.is_protected(path) or self._vault.is_suspended(path):
            return False
        return not self._vault.intact(path)

    # --- forward -----------------------------------------------------------------------------

    def answer_all(
        self, batch: Sequence[Planned], then: Callable[[int, list[Outcome]], object], *, waits: bool = False
    ) -> None:
        """Do what answers several decisions, with as few syncs of the journal as may be.

        `then` gets the outcomes of the decision at that place in `batch`: before this returns if it `waits`, else once
        what has got its signal has ended, as `collect` finds. What takes long is "begun" there, and `late` gets what
        came of it; but what a kill waits for is done now, last of all decisions.
        """
        self.collect()
        made = [[self._work(decision, action) for action in actions] for decision, actions in batch]
        lists = [[work for work, _action in works] for works in made]
        awaited = {work.id for works in lists for work in _awaited(works) if self._beside.is_for(work)}
        lists.sort(key=lambda works: any(work.id in awaited for work in works))
        *before, last = _apart([work for works in lists for work in works]) or [[]]
        if len(self._ends) > MAX_ENDING or not self._ending.isdisjoint(
            aim_of(work) for works in lists for work in works
        ):
            self.settle()
        for together in before:
            self._run(together, awaited=awaited)

        def over() -> None:
            for number, works in enumerate(made):
                then(number, [outcome for one in works for outcome in self._with_harder(*one)])

        self._run(last, awaited=awaited, over=over, waits=waits)

    def _work(self, decision: Decision, action: Action) -> tuple[Work, Action]:
        work = Work(
            id=f"{decision.id}-{action.kind}", decision_id=decision.id, kind=action.kind,
            target=target_of(decision, action), indicator=decision.indicator, ttl_s=action.ttl_s, on_end=action.on_end,
            since_ns=action.boot_ns,
        )  # fmt: skip
        why = self.disarmed.take(decision, action)
        if action.dry_run:
            self._runner.close(work, "dry-run", f"would {_words(action)}")
        elif action.kind is ActionKind.REFUSED:
            self._runner.close(work, "done", "refused by the kernel")
        elif why:
            self._runner.close(work, "disarmed", f"{why}; it would {_words(action)}")
        return work, action

    def _run(
        self, works: list[Work], *, awaited: Collection[str] = (), is_ordered: bool = False,
        over: Callable[[], object] = int, waits: bool = True,
    ) -> None:  # fmt: skip
        """Do what takes no time or is awaited (ids), and have the rest done in line; `over`: the former is done."""
        slow = [work for work in works if self._beside.is_for(work) and work.id not in awaited]
        quick = [work for work in works if work not in slow]
        aims = {aim_of(work) for work in quick}
        is_in_line = False

        def ended() -> None:
            self._ending.difference_update(aims)
            for work in quick:
                if work.outcome is None:
                    self._runner.close(work, "failed", "the agent itself failed with it; look at its log")
            if is_in_line:
                over()

        self._ending |= aims
        if quick:
            self._ends.enter(self._runner.doing(quick), ended)
        for work in slow:
            self._beside.do(work, is_ordered=is_ordered)
        is_in_line = True
        if all(work.outcome is not None for work in quick):
            over()
        elif waits:
            self.settle()

    def ends(self) -> int:
        """Return a descriptor that is readable when `collect` has something to do."""
        return self._ends.fileno()

    def collect(self) -> None:
        """Take in what has ended meanwhile."""
        self._ends.collect()

    def settle(self) -> None:
        """Wait until all that was begun and ends by itself is over."""
        self._ends.settle()

    def _with_harder(self, work: Work, action: Action) -> list[Outcome]:
        """Return the outcome; where a mild action failed, that of the harder ones that were tried after it."""
        if work.outcome is None:
            self._beside.when_over([work], partial(self._over_late, work))
            return [Outcome(decision_id=work.decision_id, action=work.kind, state="begun", detail="it takes long")]
        outcomes = [work.outcome]
        for kind in action.otherwise:
            if outcomes[-1].state != "failed":
                break
            harder = Work(id=f"{work.decision_id}-{kind}", decision_id=work.decision_id, kind=kind, target=work.target,
                          indicator=work.indicator, since_ns=work.since_ns)  # fmt: skip
            at_once(self._runner.doing([harder]))
            assert harder.outcome is not None
            outcomes.append(harder.outcome)
        return outcomes

    def _over_late(self, work: Work) -> None:
        if (ended := work.outcome) is not None and ended.state != "undone":  # that, whoever forgot it tells
            self._late([ended])

    def start(self, kind: ActionKind, target: dict[str, Any], *, ttl_s: int = 0, why: str = "") -> Outcome:
        """As `begin`, of what takes no time while the agent runs; return its outcome."""
        return self.begin(kind, target, ttl_s=ttl_s, why=why).result(0)

    def begin(
        self, kind: ActionKind, target: dict[str, Any], *, ttl_s: int = 0, why: str = ""
    ) -> "Future[Outcome]":  # fmt: skip
        """Do one action on a person's word; `undo` takes its outcome's `decision_id`. ActionFailed when it fails."""
        decision_id = new_id(self._clock.wall_s())
        self.settle()
        target = {"alert": decision_id, "reason": why, "boot_ns": self._clock.boot_ns(), **target}
        work = Work(id=f"{decision_id}-{kind}", decision_id=decision_id, kind=kind, target=target, ttl_s=ttl_s)
        answer: Future[Outcome] = Future()
        self._run([work], is_ordered=True)
        self._beside.when_over([work], partial(_settle, answer, work))
        return answer

    # --- back --------------------------------------------------------------------------------

    def undo(self, name: str) -> list[Outcome]:
        """As `begin_undo`, of what takes no time while the agent runs; return the outcomes."""
        return self.begin_undo(name).result(0)

    def begin_undo(self, name: str) -> "Future[list[Outcome]]":
        """Do the inverse of what was done about a decision, last first; or of one action, by its id.

        Raises ActionFailed when nothing can be undone: killed, refused, undone before, or unknown.
        """
        self.settle()
        decision_id, _, kind = name.partition("-")
        entries = [entry for entry in reversed(self._store.of(decision_id)) if kind in ("", entry.kind)]
        works = [Work.of(entry) for entry in entries]
        forgotten = self._beside.forget(
            lambda work: work.decision_id == decision_id and kind in ("", work.kind), _BY_PERSON
        )
        known = {one.kind for one in works} | {one.action for one in forgotten}
        passing, why = self._known.undoable(decision_id, kind, known)
        works += passing
        if not works and not forgotten:
            raise ActionFailed(f"nothing of {name!r} can be undone: {'; '.join(why) or 'no action succeeded'}")
        answer: Future[list[Outcome]] = Future()
        self._beside.undo(works, _BY_PERSON)
        self._beside.when_over(works, lambda: answer.set_result(forgotten + _outcomes(works)))
        return answer

    # --- what is in force --------------------------------------------------------------------

    def resolve_held(self, lookup: Callable[[Indicator], Verdict]) -> list[Outcome]:
        """Ask `lookup` about everything in force: ALLOW and GUARD undo it, BLOCK ends a program that is held."""
        self.settle()
        allowed = list[InForce]()
        outcomes = self._beside.forget(
            lambda work: work.indicator is not None and lookup(work.indicator) >= Verdict.ALLOW, _ALLOWED
        )
        for entry in self._store.all():
            verdict = Verdict.NOTHING if entry.indicator is None else lookup(entry.indicator)
            if verdict is Verdict.BLOCK and entry.kind is ActionKind.FREEZE and self._is_enforcing:
                outcomes += self._end(entry, "the list now says block")
            elif verdict >= Verdict.ALLOW:
                allowed.append(entry)
        return outcomes + self._undo_now(allowed, _ALLOWED)

    def expire(self) -> list[Outcome]:
        """End everything whose time is over, as was declared for it."""
        outcomes = list[Outcome]()
        for entry in self._store.all():
            if self._store.left_s(entry) == 0 and self._is_due(entry.id):
                ended = self._end_in_time(entry)
                if ended:  # else it is ended later, and how often that failed stays known
                    self._note_failure(entry.id, ended)
                outcomes += ended
        with suppress(ActionFailed):  # a full disk: what was ended is told all the same, and the next tick writes
            self._store.tick()
        for action_id in self._beside.overdue():
            self._tell_overdue(action_id)
        return outcomes

    def _end_in_time(self, entry: InForce) -> list[Outcome]:
        if self._store.get(entry.id) is None:
            return []  # ended with another one
        if entry.on_end == "kill" and self._is_enforcing:
            return self._end(entry, _NOBODY)
        return self._undo_now([entry], _NOBODY if entry.kind is ActionKind.FREEZE else TIME_OVER)

    def _is_due(self, action_id: str) -> bool:
        _times, not_before_ns = self._later.get(action_id, (0, 0))
        return self._clock.boot_ns() >= not_before_ns

    def _note_failure(self, action_id: str, outcomes: list[Outcome]) -> None:
        times, _ = self._later.pop(action_id, (0, 0))
        is_left = self._store.get(action_id) is not None  # it has ended, and a full disk keeps the note of it
        if is_left or any(outcome.state == "failed" for outcome in outcomes):
            wait_ns = min(_RETRY_NS << min(times, 6), 3600 * _NS)
            self._later[action_id] = (times + 1, self._clock.boot_ns() + wait_ns)

    def release_all(self, why: str) -> list[Outcome]:
        """Undo everything in force: the agent is taken off this device."""
        self.settle()
        return self._undo_now(list(reversed(self._store.all())), why)

    def _undo_now(self, entries: Iterable[InForce], why: str) -> list[Outcome]:
        """Undo what is in force; return what came of it. `late` gets that of what takes long."""
        works = [Work.of(entry) for entry in entries if entry.id not in self._beside.undoing]
        for work in self._beside.undo(works, why):
            self._beside.when_over([work], partial(self._ended_late, work))
        return _outcomes(works)

    def _ended_late(self, work: Work) -> None:
        self._note_failure(work.id, _outcomes([work]))
        self._late(_outcomes([work]))

    def _end(self, entry: InForce, why: str) -> list[Outcome]:
        """End everything that a freezing holds."""
        work = Work(id=f"{entry.decision_id}-{ActionKind.KILL}", decision_id=entry.decision_id, kind=ActionKind.KILL,
                    target={"hold": entry.facts["hold"], "why": why}, indicator=entry.indicator)  # fmt: skip
        at_once(self._runner.doing([work]))
        assert work.outcome is not None
        if work.outcome.state == "done":
            self._forget_held(work.facts)
        return [work.outcome]

    def _forget_held(self, facts: Facts) -> None:
        place = msgspec.convert(facts["hold"], Hold).cgroup
        step("forget what was held")
        self._runner.forget(self._store.sharing(ActionKind.FREEZE, place))

    @property
    def held(self) -> list[InForce]:
        """Everything that stands still because of us."""
        return [entry for entry in self._store.all() if entry.kind is ActionKind.FREEZE]

    def in_force(self) -> list[dict[str, Any]]:
        """Return what `mamplus actions` shows, oldest first."""
        return self._known.in_force()

    def verify(self, name: str) -> list[Seen]:
        """Look at the device for every action about a decision, or for one action, by its id; ActionFailed for none."""
        return self._known.verify(name)

    # --- start and stop ----------------------------------------------------------------------

    def adopt(self, standing: Mapping[str, tuple[Facts, int]]) -> None:
        """Count what stands on the device among what is in force, where a damaged `actions.json` took that away.

        `standing`: facts and time limit by the action's id. Else nobody could take it back. Call before `recover`.
        """
        self._recovery.adopt(standing, self._clock.wall_s())

    def recover(self, begun: Callable[[str, str], object] = lambda _decision_id, _action: None) -> list[Outcome]:
        """Finish or undo what a crash interrupted; call once, before the first event. Returns what was done at once.

        Then what is in force is looked at: what a restart of the device took away is done again, and what
        cannot be (a process has ended) is no longer in force.

        Monitor mode does not act: what a crash interrupted is taken back, or told as failed where it has no inverse,
        and what a restart took away stays noted until the agent enforces. A wipe that was begun by the enterprise's
        order is finished all the same, for half of one helps nobody.

        `begun` is told what was interrupted: decision and action.
        """
        interrupted = self._journal.open_intents()
        for record in interrupted:
            begun(record.id, str(record.data.get("action", "")))
        outcomes = [one for record in interrupted for one in self._recovery.finish(record)]
        outcomes += self.expire()
        return outcomes + [one for entry in self._store.all() for one in self._recovery.reinstate(entry)]

    def work_beside(
        self, line: Line, late: Callable[[list[Outcome]], object], overdue: Callable[[str], object] = lambda _id: None
    ) -> None:  # fmt: skip
        """Have what takes long done in `line` from now on, and what `recover` finishes, too.

        `late` gets what ended by itself, `overdue` the id of what takes so long that it may never end.
        """
        self._late, self._tell_overdue = late, overdue
        self._beside.begin(line)

    def stop(self) -> None:
        """End what runs beside the loop, and begin no more of it."""
        self.is_stopping = True
        self.settle()
        self._beside.stop()


def _settle(answer: "Future[Outcome]", work: Work) -> None:
    assert work.outcome is not None
    if work.outcome.state == "done":
        answer.set_result(work.outcome)
    else:
        answer.set_exception(ActionFailed(work.outcome.detail))


def _awaited(works: list[Work]) -> list[Work]:
    """Return those of one decision that a kill comes after: there is no evidence of a program that has ended."""
    kills = [number for number, work in enumerate(works) if work.kind in KILLS and work.outcome is None]
    before = works[: kills[-1]] if kills else []
    return [work for work in before if work.kind is not ActionKind.NOTIFY]


def _outcomes(works: Iterable[Work]) -> list[Outcome]:
    return [work.outcome for work in works if work.outcome is not None]


def _apart(works: list[Work]) -> list[list[Work]]:
    """Split into parts in which no two actions have one target: the later one has to see what the earlier one did."""
    parts = list[list[Work]]()
    seen = set[Aim]()
    for work in works:
        aim = aim_of(work)
        if not parts or aim in seen or len(parts[-1]) >= MAX_BATCH:
            parts.append([])
            seen = set()
        parts[-1].append(work)
        seen.add(aim)
    return parts


def _words(action: Action) -> str:
    if action.path:
        return f"{action.kind.value} {action.path!r}"
    return f"{action.kind.value} process {action.tgid}" if action.tgid else action.kind.value
