# SPDX-License-Identifier: Apache-2.0
"""`Trait_alert()`: carries out planned actions, undoes them, and answers for what is in force.

Journey: plan -> [execute] -> runner -> actions/*; outcomes go to outbox and alert log.

What ends an action: a person (`undo`), the enterprise (`resolve_held`: the list says allow, or block), its time
(`expire`), or the agent's leaving for good (`release_all`). What a crash interrupted is finished or undone by
`recover` of the next agent, and what a restart of the device took away is put back in force.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from mamplus_host import systemd
from mamplus_host.clock import ListClock
from mamplus_host.config import Config
from mamplus_host.errors import ActionFailed
from mamplus_host.executor import deeds as registry
from mamplus_host.executor import tasks
from mamplus_host.executor.actions.freeze import hold_of
from mamplus_host.executor.actions.kill import NO_INVERSE
from mamplus_host.executor.actions.refuse import refusal_of
from mamplus_host.executor.disarm import Disarmed
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.inforce import InForce, InForceStore
from mamplus_host.executor.journal import Journal, Record
from mamplus_host.executor.network import words
from mamplus_host.executor.olderstate import adopt_held, finish_old
from mamplus_host.executor.plan import Action, target_of
from mamplus_host.executor.process import Hold
from mamplus_host.executor.runner import FAILURES, Runner, Work, reopened
from mamplus_host.executor.shape import Deed, Facts, State
from mamplus_host.executor.steps import step
from mamplus_host.executor.vault import Vault
from mamplus_host.ids import new_id
from mamplus_host.verdicts import ActionKind, Decision, Indicator, Outcome, Verdict

MAX_BATCH = 256  # actions that share one sync of the journal
_RETRY_NS = 60 * 10**9  # after a time limit's undoing failed; doubles, up to an hour
_NS = 1_000_000_000
_NOBODY = "nobody answered in time"
_TIME_OVER = "its time is over"
_ONLY_WATCHES = "the agent only watches (monitor mode)"
Planned = tuple[Decision, Sequence[Action]]


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What `mamplus actions verify` says of one action."""

    id: str
    action: ActionKind
    wanted: str  # by the journal: done, undone
    seen: str  # on the device: done, undone, between; or why nothing can be told

    @property
    def is_right(self) -> bool:
        return self.wanted == self.seen


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
        self.disarmed = disarmed or Disarmed(config.state / "rules.json", clock=clock)
        self._later: dict[str, tuple[int, int]] = {}  # what could not be undone in time: how often, and when again
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
    def _is_enforcing(self) -> bool:
        """Whether more may be done about what is held since the agent enforced than to let it go."""
        return self._config.agent.mode == "enforce"

    @property
    def counts(self) -> dict[str, int]:
        return dict(self._runner.counts)

    def is_damaged(self, path: str) -> bool:
        """Say whether `path` is protected, not suspended, and no longer as it was kept."""
        if not self._vault.is_protected(path) or self._vault.is_suspended(path):
            return False
        return not self._vault.intact(path)

    # --- forward -----------------------------------------------------------------------------

    def carry_out(self, decision: Decision, actions: Iterable[Action]) -> list[Outcome]:
        """Do `actions`, in order; return one outcome for each that was tried."""
        (outcomes,) = self.carry_out_all([(decision, tuple(actions))])
        return outcomes

    def carry_out_all(
        self, batch: Sequence[Planned], *, meanwhile: Callable[[], object] = int
    ) -> list[list[Outcome]]:  # fmt: skip
        """Do what answers several decisions, with as few syncs of the journal as may be; outcomes by decision.

        `meanwhile` is called while what was begun ends by itself.
        """
        made = [[self._work(decision, action) for action in actions] for decision, actions in batch]
        for together in _apart([work for works in made for work in works]):
            self._run([work for work, _action in together], meanwhile)
        return [[outcome for one in works for outcome in self._with_harder(*one)] for works in made]

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

    def _run(self, works: list[Work], meanwhile: Callable[[], object] = int) -> None:
        for work in works:
            if work.outcome is None:
                self._runner.prepare(work)
        self._runner.run([work for work in works if work.outcome is None], meanwhile)

    def _with_harder(self, work: Work, action: Action) -> list[Outcome]:
        """Return the outcome; where a mild action failed, that of the harder ones that were tried after it."""
        assert work.outcome is not None
        outcomes = [work.outcome]
        for kind in action.otherwise:
            if outcomes[-1].state != "failed":
                break
            harder = Work(id=f"{work.decision_id}-{kind}", decision_id=work.decision_id, kind=kind, target=work.target,
                          indicator=work.indicator, since_ns=work.since_ns)  # fmt: skip
            self._run([harder])
            assert harder.outcome is not None
            outcomes.append(harder.outcome)
        return outcomes

    def start(self, kind: ActionKind, target: dict[str, Any], *, ttl_s: int = 0, why: str = "") -> Outcome:
        """Do one action on a person's word; `undo` takes its outcome's `decision_id`. ActionFailed when it fails."""
        decision_id = new_id(self._clock.wall_s())
        target = {"alert": decision_id, "reason": why, "boot_ns": self._clock.boot_ns(), **target}
        work = Work(id=f"{decision_id}-{kind}", decision_id=decision_id, kind=kind, target=target, ttl_s=ttl_s)
        self._run([work])
        assert work.outcome is not None
        if work.outcome.state != "done":
            raise ActionFailed(work.outcome.detail)
        return work.outcome

    # --- back --------------------------------------------------------------------------------

    def undo(self, name: str) -> list[Outcome]:
        """Do the inverse of what was done about a decision, last first; or of one action, by its id.

        Raises ActionFailed when nothing can be undone: killed, refused, undone before, or unknown.
        """
        decision_id, _, kind = name.partition("-")
        entries = [entry for entry in reversed(self._store.of(decision_id)) if kind in ("", entry.kind)]
        works = [Work.of(entry) for entry in entries]
        passing, why = self._undoable(decision_id, kind, {work.kind for work in works})
        works += passing
        if not works:
            raise ActionFailed(f"nothing of {name!r} can be undone: {'; '.join(why) or 'no action succeeded'}")
        self._runner.undo(works, "somebody here undid it")
        return [work.outcome for work in works if work.outcome is not None]

    def _undoable(self, decision_id: str, kind: str, in_force: set[ActionKind]) -> tuple[list[Work], list[str]]:
        """Return what the journal alone knows and can be undone, and why the rest cannot; ActionFailed for nothing."""
        records = self._journal.of(decision_id)
        done = [record for record in records if record.kind == "outcome" and record.data.get("state") == "done"]
        if not in_force and not any(record.kind == "outcome" for record in records):
            raise ActionFailed(f"nothing is known to have been done about {decision_id!r}; `mamplus alerts` lists ids")
        undone = {record.data["action"] for record in records if record.data.get("state") == "undone"}
        works, why = list[Work](), list[str]()
        for record in reversed(done):
            action = ActionKind(record.data["action"])
            if action in in_force or kind not in ("", action) or any(work.kind == action for work in works):
                continue
            facts = _facts_of(records, action) if self._runner.is_passing(action) else None
            reason = "it was undone before" if action.value in undone else self._no_inverse(action, facts)
            if reason or facts is None:
                why.append(f"{action.value}: {reason}")
            else:
                works.append(Work(id=f"{decision_id}-{action}", decision_id=decision_id, kind=action, facts=facts))
        return works, why

    def _no_inverse(self, action: ActionKind, facts: Facts | None) -> str:
        """Return why an action that was done and is not in force cannot be undone; "" when it can."""
        if action is ActionKind.REFUSED:
            return "the kernel refused it before it happened; an allow entry on the list lets it pass next time"
        if not self._runner.has_inverse(action):
            is_kill = action in (ActionKind.KILL, ActionKind.KILL_TREE, ActionKind.KILL_CGROUP)
            return NO_INVERSE if is_kill else "it has no inverse"
        return "it is no longer in force" if facts is None else ""

    # --- what is in force --------------------------------------------------------------------

    def resolve_held(self, lookup: Callable[[Indicator], Verdict]) -> list[Outcome]:
        """Ask `lookup` about everything in force: ALLOW and GUARD undo it, BLOCK ends a program that is held."""
        works = list[Work]()
        outcomes = list[Outcome]()
        for entry in self._store.all():
            verdict = Verdict.NOTHING if entry.indicator is None else lookup(entry.indicator)
            if verdict is Verdict.BLOCK and entry.kind is ActionKind.FREEZE and self._is_enforcing:
                outcomes += self._end(entry, "the list now says block")
            elif verdict >= Verdict.ALLOW:
                works.append(Work.of(entry))
        self._runner.undo(works, "the list now says allow")
        return outcomes + [work.outcome for work in works if work.outcome is not None]

    def expire(self) -> list[Outcome]:
        """End everything whose time is over, as was declared for it."""
        outcomes = list[Outcome]()
        for entry in self._store.all():
            if self._store.left_s(entry) == 0 and self._is_due(entry.id):
                ended = self._end_in_time(entry)
                self._note_failure(entry.id, ended)
                outcomes += ended
        with suppress(ActionFailed):  # a full disk: what was ended is told all the same, and the next tick writes
            self._store.tick()
        return outcomes

    def _end_in_time(self, entry: InForce) -> list[Outcome]:
        if self._store.get(entry.id) is None:
            return []  # ended with another one
        if entry.on_end == "kill" and self._is_enforcing:
            return self._end(entry, _NOBODY)
        return self._undo_now([entry], _NOBODY if entry.kind is ActionKind.FREEZE else _TIME_OVER)

    def _is_due(self, action_id: str) -> bool:
        _times, not_before_ns = self._later.get(action_id, (0, 0))
        return self._clock.boot_ns() >= not_before_ns

    def _note_failure(self, action_id: str, outcomes: list[Outcome]) -> None:
        times, _ = self._later.pop(action_id, (0, 0))
        if any(outcome.state == "failed" for outcome in outcomes):
            wait_ns = min(_RETRY_NS << min(times, 6), 3600 * _NS)
            self._later[action_id] = (times + 1, self._clock.boot_ns() + wait_ns)

    def release_all(self, why: str) -> list[Outcome]:
        """Undo everything in force: the agent is taken off this device."""
        return self._undo_now(list(reversed(self._store.all())), why)

    def _undo_now(self, entries: Iterable[InForce], why: str) -> list[Outcome]:
        works = [Work.of(entry) for entry in entries]
        self._runner.undo(works, why)
        return [work.outcome for work in works if work.outcome is not None]

    def _end(self, entry: InForce, why: str) -> list[Outcome]:
        """End everything that a freezing holds."""
        work = Work(id=f"{entry.decision_id}-{ActionKind.KILL}", decision_id=entry.decision_id, kind=ActionKind.KILL,
                    target={"hold": entry.facts["hold"], "why": why}, indicator=entry.indicator)  # fmt: skip
        self._run([work])
        assert work.outcome is not None
        if work.outcome.state == "done":
            self._forget_held(work.facts)
        return [work.outcome]

    def _forget_held(self, facts: Facts) -> None:
        place = msgspec.convert(facts["hold"], Hold).cgroup
        step("forget what was held")
        self._store.drop(entry.id for entry in self._store.sharing(ActionKind.FREEZE, place))

    @property
    def held(self) -> list[InForce]:
        """Everything that stands still because of us."""
        return [entry for entry in self._store.all() if entry.kind is ActionKind.FREEZE]

    def in_force(self) -> list[dict[str, Any]]:
        """Return what `mamplus actions` shows, oldest first."""
        return [
            {
                "id": entry.id, "alert": entry.decision_id, "action": entry.kind.value, "since": entry.since_s,
                "left_s": self._store.left_s(entry), "on_end": entry.on_end if entry.ttl_s else "", "on": _on(entry),
            }
            for entry in self._store.all()
        ]  # fmt: skip

    def verify(self, name: str) -> list[Seen]:
        """Look at the device for every action about a decision, or for one action, by its id; ActionFailed for none."""
        decision_id, _, kind = name.partition("-")
        found = {entry.id: (entry.kind, entry.facts, "done") for entry in self._store.of(decision_id)}
        records = self._journal.of(decision_id)
        for record in records:
            if record.kind == "outcome" and record.data.get("state") in ("done", "undone") and record.data.get("id"):
                action = ActionKind(record.data["action"])
                facts = _facts_of(records, action)
                if record.data["id"] not in {entry.id for entry in self._store.of(decision_id)} and facts is not None:
                    found[record.data["id"]] = (action, facts, record.data["state"])
        wanted = [(key, one) for key, one in found.items() if kind in ("", one[0])]
        if not wanted:
            raise ActionFailed(f"no action of {name!r} can be looked at; `mamplus actions` lists ids")
        return [self._seen(key, *one) for key, one in wanted]

    def _seen(self, action_id: str, kind: ActionKind, facts: Facts, wanted: str) -> Seen:
        try:
            state = self._runner.verify(kind, facts).value
        except FAILURES as error:
            state = str(error)
        return Seen(id=action_id, action=kind, wanted=wanted, seen=state)

    # --- after a crash -----------------------------------------------------------------------

    def adopt(self, standing: Mapping[str, tuple[Facts, int]]) -> None:
        """Count what stands on the device among what is in force, where a damaged `actions.json` took that away.

        `standing`: facts and time limit by the action's id. Else nobody could take it back. Call before `recover`.
        """
        lost = list[InForce]()
        for action_id, (facts, ttl_s) in standing.items():
            decision_id, _, kind = action_id.partition("-")
            if self._store.get(action_id) is None and kind in set(ActionKind):
                entry = InForce(id=action_id, decision_id=decision_id, kind=ActionKind(kind), facts=facts, ttl_s=ttl_s,
                                since_s=self._clock.wall_s())  # fmt: skip
                lost.append(self._store.stamped(entry))
        self._store.put(lost)

    def recover(self) -> list[Outcome]:
        """Finish or undo what a crash interrupted; call once, before the first event. Returns what was done.

        Then what is in force is looked at: what a restart of the device took away is done again, and what
        cannot be (a process has ended) is no longer in force.

        Monitor mode does not act: what a crash interrupted is taken back, or told as failed where it has no inverse,
        and what a restart took away stays noted until the agent enforces. A wipe that was begun by the enterprise's
        order is finished all the same, for half of one helps nobody.
        """
        outcomes = [self._finish_alone(record) for record in self._journal.open_intents()]
        outcomes += self.expire()
        return outcomes + [outcome for entry in self._store.all() for outcome in self._reinstate(entry)]

    def _finish_alone(self, record: Record) -> Outcome:
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
            self._runner.undo([work], "as was begun before a restart")
        elif entry is not None and self._store.left_s(entry) == 0:
            self._runner.undo([work], _TIME_OVER)
        elif not self._is_enforcing and work.kind is not ActionKind.WIPE:
            self._leave(work)
        else:
            if not work.facts:
                self._runner.prepare(work)
            self._runner.run([work])
            if work.kind is ActionKind.KILL and "hold" in work.facts and work.outcome is not None:
                self._forget_held(work.facts)

    def _leave(self, work: Work) -> None:
        """Take back what was begun before monitor mode, where that can be."""
        if work.facts and self._runner.has_inverse(work.kind) and not self._runner.is_passing(work.kind):
            self._runner.undo([work], _ONLY_WATCHES)
        else:
            self._runner.close(work, "failed", f"it was interrupted and not finished: {_ONLY_WATCHES}")

    def _reinstate(self, entry: InForce) -> list[Outcome]:
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
        self._runner.run([work])
        assert work.outcome is not None
        return [work.outcome]


def _facts_of(records: list[Record], action: ActionKind) -> Facts | None:
    """Return the facts of the newest intent to do `action`; of what an older release restored, from its outcome."""
    for record in reversed(records):
        if record.data.get("action") != action.value:
            continue
        if record.kind == "intent" and "facts" in record.data:
            return dict(record.data["facts"])
        if record.kind == "outcome" and record.data.get("replaced"):
            data = record.data
            return {"path": data["path"], "version": data["version"], "newest": int(data["replaced"]) - 1}
    return None


def _apart(works: list[tuple[Work, Action]]) -> list[list[tuple[Work, Action]]]:
    """Split into parts in which no two actions have one target: the later one has to see what the earlier one did."""
    parts = list[list[tuple[Work, Action]]]()
    seen = set[tuple[str, ...]]()
    for work, action in works:
        aim = tuple(str(work.target.get(name, "")) for name in ("tgid", "path", "address"))
        if not parts or aim in seen or len(parts[-1]) >= MAX_BATCH:
            parts.append([])
            seen = set()
        parts[-1].append((work, action))
        seen.add(aim)
    return parts


def _on(entry: InForce) -> str:
    """Say in a word what an action is on."""
    if entry.kind is ActionKind.FREEZE:
        return hold_of(entry.facts).cgroup
    if "refusal" in entry.facts:
        return words([refusal_of(entry.facts)])[0]
    return entry.place or str(
        next((entry.facts[name] for name in ("path", "address", "device") if name in entry.facts), "")
    )


def _words(action: Action) -> str:
    if action.path:
        return f"{action.kind.value} {action.path!r}"
    return f"{action.kind.value} process {action.tgid}" if action.tgid else action.kind.value
