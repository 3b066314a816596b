# SPDX-License-Identifier: Apache-2.0
"""`Trait_alert()`: carries out planned actions, undoes them, and answers for what is held.

Journey: plan -> [execute] -> process and vault; outcomes go to outbox and alert log.

Every action is journalled before it begins and after it ended. What a crash interrupted is
finished by `recover` of the next agent: each action may be done twice with the same result.
An action that fails is an outcome that says so; it never stops the ones after it.
"""

import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from mamplus_host.clock import Clock
from mamplus_host.config import Config
from mamplus_host.errors import ActionFailed, MamplusError
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.held import Held, HeldStore
from mamplus_host.executor.journal import Journal, Record
from mamplus_host.executor.plan import Action
from mamplus_host.executor.process import Processes
from mamplus_host.executor.tasks import boot_id
from mamplus_host.executor.vault import Vault
from mamplus_host.verdicts import ActionKind, Decision, Indicator, Outcome, Verdict

MAX_RESTORES = 60  # of one path in RESTORE_WINDOW_NS; one more, and it waits for an administrator
RESTORE_WINDOW_NS = 60 * 10**9
_MAX_WATCHED_PATHS = 4096  # of which recent restorations are remembered

Done = tuple[str, dict[str, Any]]  # detail for people, data for the journal


class Executor:
    """One thread only."""

    def __init__(
        self, config: Config, *, journal: Journal, vault: Vault, clock: Clock, guarded: frozenset[int] = frozenset()
    ) -> None:
        """`guarded`: process ids that nothing acts on; `guard` changes them. Raises ConfigInvalid without a cgroup."""
        self._config, self._journal, self._vault, self._clock = config, journal, vault, clock
        self._guarded = guarded
        self._processes = Processes.of(config, GuardSet(lambda: self._guarded))
        self._boot = boot_id()
        self._held = HeldStore(config.state / "held.json", boot_id=self._boot)
        self._restores: dict[str, deque[int]] = {}
        self.counts: Counter[str] = Counter(done=0, failed=0, undone=0, suspended=0)
        if self._held.was_damaged:
            journal.append("note", "", {"damaged": "held.json"})

    def guard(self, guarded: frozenset[int]) -> None:
        """Replace the process ids that nothing acts on: a responder was started anew, say."""
        self._guarded = guarded

    def is_damaged(self, path: str) -> bool:
        """Say whether `path` is protected, not suspended, and no longer as it was kept."""
        if not self._vault.is_protected(path) or self._vault.is_suspended(path):
            return False
        return not self._vault.intact(path)

    # --- forward -----------------------------------------------------------------------------

    def carry_out(self, decision: Decision, actions: Iterable[Action]) -> list[Outcome]:
        """Do `actions`, in order; return one outcome for each."""
        return [self._one(decision.id, decision.indicator, action) for action in actions]

    def _one(self, decision_id: str, indicator: Indicator | None, action: Action) -> Outcome:
        def do() -> Done:
            if action.kind is ActionKind.FREEZE:
                return self._freeze(decision_id, indicator, action)
            if action.kind is ActionKind.KILL:
                self._processes.kill(action.tgid, action.boot_ns)
                return f"killed process {action.tgid}", {}
            return self._restore(action.path)

        if action.dry_run:
            return self._close(decision_id, action.kind, "dry-run", f"would {_words(action)}", {}, action.boot_ns)
        if action.kind is ActionKind.REFUSED:
            return self._close(decision_id, action.kind, "done", "refused by the kernel", {}, action.boot_ns)
        data = {
            "action": action.kind.value, "boot_ns": action.boot_ns, "tgid": action.tgid, "path": action.path,
            "indicator": msgspec.to_builtins(indicator), "boot": self._boot,
        }  # fmt: skip
        return self._journalled(decision_id, action.kind, "done", data, do, action.boot_ns)

    def _freeze(self, decision_id: str, indicator: Indicator | None, action: Action) -> Done:
        hold = self._processes.where(action.tgid, action.boot_ns, decision_id)
        shared = self._held.sharing(hold.cgroup)
        if shared:  # held for another reason already: whoever lets go last moves it back
            hold = msgspec.structs.replace(hold, origin=shared[0].hold.origin)
        deadline_ns = self._clock.boot_ns() + self._config.suspicion.deadline_s * 10**9
        held = Held(decision_id=decision_id, indicator=indicator, hold=hold, deadline_ns=deadline_ns)
        self._held.put(held)
        try:
            settled = self._processes.freeze(hold)
        except ActionFailed:
            self._let_go(held)
            raise
        detail = f"froze {hold.cgroup!r} because of process {hold.tgid}"
        return detail + ("" if settled else "; some of its tasks still wait in the kernel"), {"cgroup": hold.cgroup}

    def _restore(self, path: str) -> Done:
        if self._vault.is_suspended(path):
            raise ActionFailed(f"{path!r} is not restored until an administrator says `mamplus vault restore`")
        if self._vault.intact(path):
            return f"{path!r} is as it was kept", {"path": path}
        self._count_restore(path)
        restored = self._vault.put_back(path, self._vault.latest(path).id)
        detail = f"put {path!r} back" + (f"; {restored.note}" if restored.note else "")
        return detail, {"path": path, "version": restored.version, "replaced": restored.replaced}

    def _count_restore(self, path: str) -> None:
        """Loop guard: raise ActionFailed when `path` was restored too often of late, and suspend it."""
        now = self._clock.boot_ns()
        recent = self._restores.setdefault(path, deque(maxlen=MAX_RESTORES))
        if len(recent) == MAX_RESTORES and now - recent[0] < RESTORE_WINDOW_NS:
            self._vault.suspend(path)
            self.counts["suspended"] += 1
            raise ActionFailed(
                f"{path!r} was restored {MAX_RESTORES} times in {RESTORE_WINDOW_NS // 10**9} s and is damaged again:"
                " something fights for it, so it now waits for an administrator (`mamplus vault restore`)"
            )
        recent.append(now)
        if len(self._restores) > _MAX_WATCHED_PATHS:
            self._restores.pop(next(iter(self._restores)))

    # --- back --------------------------------------------------------------------------------

    def undo(self, decision_id: str) -> list[Outcome]:
        """Do the inverse of what was done about a decision, last first.

        Thawing for FREEZE; for RESTORE the replaced content comes back and is the golden one from
        now on, for undoing says that the change was right. Raises ActionFailed when nothing can
        be undone: killed, refused, undone before, or unknown.
        """
        done = [record for record in self._journal.of(decision_id) if record.kind == "outcome"]
        if not done:
            raise ActionFailed(f"nothing is known to have been done about {decision_id!r}; `mamplus alerts` lists ids")
        undone = {record.data["action"] for record in done if record.data["state"] == "undone"}
        outcomes, why = [], []
        for record in reversed(done):
            action = ActionKind(record.data["action"])
            if record.data["state"] != "done":
                continue
            reason = "it was undone before" if action in undone else self._no_inverse(decision_id, action, record)
            if reason:
                why.append(f"{action.value}: {reason}")
            else:
                undone.add(action)
                outcomes.append(self._undo_one(decision_id, action, record))
        if not outcomes:
            raise ActionFailed(f"nothing of {decision_id!r} can be undone: {'; '.join(why) or 'no action succeeded'}")
        return outcomes

    def _no_inverse(self, decision_id: str, action: ActionKind, record: Record) -> str:
        """Return why an action that was done cannot be undone; "" when it can."""
        if action is ActionKind.KILL:
            return "a killed process cannot be brought back; start it again"
        if action is ActionKind.REFUSED:
            return "the kernel refused it before it happened; an allow entry on the list lets it pass next time"
        if action is ActionKind.FREEZE:
            return "" if self._held.get(decision_id) else "it is no longer held"
        return "" if record.data.get("replaced") else "nothing of what stood there was kept"

    def _undo_one(self, decision_id: str, action: ActionKind, record: Record) -> Outcome:
        held = self._held.get(decision_id)
        if action is ActionKind.FREEZE and held is not None:
            return self._release(held, "an administrator undid it")
        data = {"action": action.value, "undo": True, "boot": self._boot, **_kept(record, "path", "replaced")}
        return self._journalled(decision_id, action, "undone", data, lambda: self._unrestore(data))

    def _unrestore(self, data: dict[str, Any]) -> Done:
        path, version = str(data["path"]), int(data["replaced"])
        self._vault.put_back(path, version)
        self._vault.make_golden(path, version)
        return f"{path!r} has its changed content again, which is the protected one from now on", {"path": path}

    # --- what is held ------------------------------------------------------------------------

    def resolve_held(self, lookup: Callable[[Indicator], Verdict]) -> list[Outcome]:
        """Ask `lookup` about everything that is held: BLOCK ends it, ALLOW and GUARD let it go on."""
        outcomes = []
        for held in self._held.all():
            verdict = Verdict.NOTHING if held.indicator is None else lookup(held.indicator)
            if verdict is Verdict.BLOCK:
                outcomes.append(self._end(held, "the list now says block"))
            elif verdict >= Verdict.ALLOW:
                outcomes.append(self._release(held, "the list now says allow"))
        return outcomes

    def expire(self) -> list[Outcome]:
        """Give the declared answer for everything that nobody answered in time."""
        now = self._clock.boot_ns()
        late = [held for held in self._held.all() if held.deadline_ns <= now]
        ends = self._config.suspicion.on_deadline == "kill"
        act, why = (self._end if ends else self._release), "nobody answered in time"
        return [act(held, why) for held in late]

    def release_all(self, why: str) -> list[Outcome]:
        """Let go of everything that is held: the agent is taken off this device."""
        return [self._release(held, why) for held in self._held.all()]

    @property
    def next_deadline_ns(self) -> int | None:
        """Return when `expire` has something to do, CLOCK_BOOTTIME; None when nothing is held."""
        return min((held.deadline_ns for held in self._held.all()), default=None)

    @property
    def held(self) -> list[Held]:
        return self._held.all()

    def _release(self, held: Held, why: str) -> Outcome:
        def do() -> Done:
            self._let_go(held)
            return f"{held.hold.cgroup!r} goes on: {why}", {}

        data = {"action": ActionKind.FREEZE.value, "undo": True, "boot": self._boot, "why": why}
        return self._journalled(held.decision_id, ActionKind.FREEZE, "undone", data, do)

    def _end(self, held: Held, why: str) -> Outcome:
        def do() -> Done:
            self._processes.kill_held(held.hold)
            for one in self._held.sharing(held.hold.cgroup):
                self._held.drop(one.decision_id)
            return f"ended everything in {held.hold.cgroup!r}: {why}", {}

        data = {"action": ActionKind.KILL.value, "held": True, "boot": self._boot, "why": why}
        return self._journalled(held.decision_id, ActionKind.KILL, "done", data, do)

    def _let_go(self, held: Held) -> None:
        """Thaw, unless another decision holds the same cgroup; then take the entry away."""
        if len(self._held.sharing(held.hold.cgroup)) <= 1:
            self._processes.thaw(held.hold)
        self._held.drop(held.decision_id)

    # --- after a crash -----------------------------------------------------------------------

    def recover(self) -> list[Outcome]:
        """Finish what a crash interrupted; call once, before the first event. Returns what was finished."""
        return [self._finish_alone(record) for record in self._journal.open_intents()]

    def _finish_alone(self, record: Record) -> Outcome:
        """One action that cannot be finished must not keep the agent from starting: it has failed, and is told."""
        try:
            return self._finish(record)
        except (MamplusError, OSError, ValueError, KeyError, sqlite3.Error) as error:
            action = ActionKind(record.data["action"])
            return self._close(record.id, action, "failed", f"it could not be finished: {error}", {})

    def _finish(self, record: Record) -> Outcome:
        data, action = record.data, ActionKind(record.data["action"])
        held = self._held.get(record.id)
        if data.get("boot") != self._boot and action is not ActionKind.RESTORE:
            return self._close(record.id, action, "failed", "the device restarted before it was done", {})
        if action is ActionKind.RESTORE:
            self._vault.sweep(str(data["path"]))
            if data.get("undo"):
                return self._journalled(record.id, action, "undone", data, lambda: self._unrestore(data))
        elif data.get("undo") or data.get("held"):
            if held is None:
                return self._close(record.id, action, "undone" if data.get("undo") else "done", "nothing is held", {})
            return self._end(held, str(data["why"])) if data.get("held") else self._release(held, str(data["why"]))
        planned = Action(kind=action, boot_ns=data["boot_ns"], tgid=data["tgid"], path=data["path"])
        indicator = msgspec.convert(data["indicator"], Indicator | None)
        return self._one(record.id, indicator, planned)

    # --- journal -----------------------------------------------------------------------------

    def _journalled(
        self,
        decision_id: str,
        action: ActionKind,
        success: str,
        data: dict[str, Any],
        do: Callable[[], Done],
        since_ns: int = 0,
    ) -> Outcome:
        """Write the intent, do it, write the outcome. What cannot be journalled is not done."""
        try:
            self._journal.append("intent", decision_id, data)
            detail, more = do()
        except (MamplusError, OSError, ValueError, sqlite3.Error) as error:
            return self._close(decision_id, action, "failed", str(error), {})
        return self._close(decision_id, action, success, detail, more, since_ns)

    def _close(
        self, decision_id: str, action: ActionKind, state: str, detail: str, more: dict[str, Any], since_ns: int = 0
    ) -> Outcome:
        took_ns = max(0, self._clock.boot_ns() - since_ns) if since_ns else 0
        self.counts[state] += 1
        data = {"action": action.value, "state": state, "detail": detail, **more}
        try:
            self._journal.append("outcome", decision_id, data)
        except MamplusError as error:  # done is done: say so, and that the line is missing
            self.counts["unjournalled"] += 1
            detail = f"{detail}; {error}"
        return Outcome(decision_id=decision_id, action=action, state=state, detail=detail, took_ns=took_ns)


def _words(action: Action) -> str:
    if action.kind is ActionKind.RESTORE:
        return f"put {action.path!r} back"
    return f"{action.kind.value} process {action.tgid}"


def _kept(record: Record, *names: str) -> dict[str, Any]:
    return {name: record.data[name] for name in names}
