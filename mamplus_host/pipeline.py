# SPDX-License-Identifier: Apache-2.0
"""Joins the stages: an event goes in, and what is done about it comes out the other end.

Journey: collector -> analyzer -> executor -> outbox, in this order, in one thread.

`Trait_alert()` of the original design is `_answer`: the analyzer's answer is acted on, and
journalled, before the escalation is written; a report never comes before what it reports.
Acting is urgent and telling is not: while events come, what was done waits to be told of
(at most MAX_UNTOLD decisions), and is told when nothing else is to be done. It is stored for the enterprise by a
thread of its own (`outbox/spool.py`).
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from mamplus_host.analyzer.accounts import Accounts
from mamplus_host.analyzer.decide import Facts, asks_for_parent, asks_here, decide
from mamplus_host.analyzer.matcher import Matcher
from mamplus_host.analyzer.verify import Answer, asked, verify
from mamplus_host.analyzer.windows import Repeats
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import SAYABLE
from mamplus_host.ble.stack import Stack
from mamplus_host.clock import ListClock
from mamplus_host.collector.lineage import Lineage, Task
from mamplus_host.collector.past import Past
from mamplus_host.collector.programs import program_path
from mamplus_host.collector.sockets import inet_sockets
from mamplus_host.config import Config, cgroup_path
from mamplus_host.events import (
    Connect,
    DnsQuery,
    Event,
    Exec,
    Exit,
    FileAccess,
    FileChange,
    FileEvent,
    Fork,
    MassRewrite,
    Packet,
    Tamper,
)
from mamplus_host.executor.alertlog import AlertLog
from mamplus_host.executor.evidence.picture import collect
from mamplus_host.executor.execute import Executor
from mamplus_host.executor.plan import plan
from mamplus_host.ids import new_id
from mamplus_host.outbox.spool import Spool
from mamplus_host.outbox.store import Outbox
from mamplus_host.policy.actions import ActionRules
from mamplus_host.recent import Recent
from mamplus_host.telling import Begun, end_of, views
from mamplus_host.verdicts import ActionKind, Decision, Escalation, Finding, Indicator, Outcome, Verdict

LOG = logging.getLogger("mamplus")
MAX_TOGETHER = 128  # decisions that are acted on at once: they share a sync of the journal, and wait for each other
MAX_UNTOLD = 256  # decisions that were acted on and wait to be told of; beyond, telling comes before acting
TELL_AT_ONCE = 4  # of them, at least, or a quarter: what happens meanwhile waits for that
_REPLACING = {"moved-away", "moved-over", "created", "delete"}  # of FileChange.changes
NETWORK_ANCESTORS = 2  # how far up a network-facing parent is looked for


class Pipeline:
    """Everything between an event and its escalation. One thread only."""

    def __init__(
        self,
        *,
        config: Config,
        clock: ListClock,
        executor: Executor,
        outbox: Outbox,
        alerts: AlertLog,
        guarded: Callable[[], frozenset[int]],
        rules: Callable[[], ActionRules] = ActionRules,
        on_escalation: Callable[[], None],
        on_restored: Callable[[str], None],
        may_change: Callable[[FileChange], bool] = lambda _change: False,
        is_expected: Callable[[Tamper], bool] = lambda _tamper: False,
        trying: Callable[[], int] = lambda: 0,
    ) -> None:
        """`is_expected`: whether hands on the agent are what an open maintenance window allows, or its own.

        `trying`: the process that tries the controls now, 0: none does. What its family meets is no alert.
        """
        self._config, self._clock = config, clock
        self._executor, self._outbox, self._alerts = executor, outbox, alerts
        self._spool = Spool(outbox, on_escalation)
        self._guarded, self._on_restored = guarded, on_restored
        self._rules = rules
        self._may_change = may_change  # asked of a change that left a file other than it was kept
        self._is_expected, self._trying = is_expected, trying
        self._repeats = Repeats()
        self._scope = cgroup_path(config)
        self._ble: Stack | None = None
        self._accounts = Accounts()
        self._matcher: Matcher | None = None
        self._untold: deque[tuple[Decision, list[Outcome]]] = deque()
        self._begun: dict[str, Begun] = {}  # by the decision's id, what was told before it was over
        self.past = Past(tasks=config.limits.lineage_tasks, events=config.limits.recent_events)
        self.lineage, self.in_use = Lineage(self.past), Recent(self.past.uses)
        self._publish: Callable[[Event], None] | None = None
        self._counts = {"ring_events": 0, "alerts": 0, "faults": 0, "trials": 0}
        self.unresolved = 0  # starts whose path could not be told: the process was gone and the path relative
        self.phantoms = 0  # kernel hits that the list does not hold: identities of 62 bits that collide

    @property
    def counts(self) -> dict[str, int]:
        spool, counted = self._spool, self._counts
        of_spool = {"escalations": spool.stored, "escalations_failed": spool.lost}
        seen = counted["ring_events"] + self.past.unseen
        return {**counted, **of_spool, "ring_events": seen, "faults": counted["faults"] + spool.faults}

    @property
    def folded(self) -> int:
        return self._repeats.folded

    @property
    def untold(self) -> int:
        """Return how many decisions were acted on and are not told of yet."""
        return len(self._untold)

    @property
    def unstored(self) -> int:
        """Return how many escalations a full disk keeps out."""
        return self._spool.unstored

    def use(self, ble: Stack | None) -> list[Outcome]:
        """Take a new generation: ask again about everything that is held, and act on the answers."""
        self._tell_each()
        self._ble, self._matcher = ble, Matcher.of(ble, self._accounts)
        self._wish()
        self._repeats.forget()
        outcomes = self._executor.resolve_held(self.ask)
        self.note_late(outcomes)
        return outcomes

    def follow(self, publish: Callable[[Event], None] | None) -> None:
        """Have `publish` called with every event; None: nobody follows any more."""
        self._publish = publish
        self._wish()

    def _wish(self) -> None:
        """Have the ring hand on what is followed, and the starts that the list asks about here."""
        self.past.wish(everything=self._publish is not None, starts=self._matcher is not None)

    def ask(self, indicator: Indicator) -> Verdict:
        """Return what the installed generation says of `indicator`."""
        globs = self._matcher.globs if self._matcher else None
        kind, now_s = Kind[indicator.kind.upper()], self._clock.list_s()
        return verify(self._ble, kind, indicator.value, now_s=now_s, globs=globs).verdict

    def ask_start(self, path: str, uid: int) -> Verdict:
        """Return what the installed generation says of a program at `path` that `uid` runs, its content aside."""
        answer = self._matcher.about(path, uid, self._clock.list_s()) if self._matcher else None
        return answer.verdict if answer else Verdict.NOTHING

    def take(self, events: Iterable[Event]) -> None:
        """Run events through all stages, in order."""
        self.act(events)
        self.tell_all()

    def act(self, events: Iterable[Event], *, is_noted: bool = False) -> None:
        """Run events through all stages but the last: `tell_some` is for when nothing more urgent is there.

        Decisions that follow each other share a sync of the journal. `is_noted`: `past` has the events already.
        """
        decided = list[Decision]()
        for event in events:
            if isinstance(event, FileEvent):  # whether it is damaged depends on what was done before
                self._answer(decided)
                self._executor.settle()
            self._counts["ring_events"] += not isinstance(event, FileEvent) and not _is_noticed(event)
            if not is_noted:
                self.past.note(event)
            if self._publish is not None:
                self._publish(event)
            if not self._is_quiet(event) or (self._matcher is not None and isinstance(event, Exec)):
                decided += self._decided_alone(event)
            if decided and (isinstance(event, FileEvent) or len(decided) >= MAX_TOGETHER):
                self._answer(decided)
        self._answer(decided)

    @staticmethod
    def _is_quiet(event: Event) -> bool:
        """Most events: nothing was said by the kernel and no local rule can fire. As `is_quiet` of past.c."""
        if isinstance(event, FileEvent | Tamper):
            return False
        if isinstance(event, Fork | Exit):
            return True
        return event.head.verdict in (Verdict.NOTHING, Verdict.ALLOW) and event.head.flags == 0

    def _decided_alone(self, event: Event) -> list[Decision]:
        """Decide about one event so that nothing which goes wrong with it can end the agent or touch the next one."""
        try:
            decision = self._decided(event)
        except Exception:  # whatever it is, it is counted, told with its place, and the next event is treated
            self._note_fault(event)
            return []
        return [decision] if decision is not None else []

    def _note_fault(self, event: Event) -> None:
        self._counts["faults"] += 1
        LOG.exception("an event could not be treated: %r", event)

    def _decided(self, event: Event) -> Decision | None:
        """Return the analyzer's answer where there is one to act on."""
        if isinstance(event, FileChange) and _REPLACING & set(event.changes):
            self._on_restored(event.path)  # the directory may be another one by now: look at that one
        if isinstance(event, FileChange) and not self._executor.is_damaged(event.path):
            return None  # touched and still as it was kept: our own restoration, or a mere reader
        if isinstance(event, FileChange) and self._may_change(event):
            return None
        if self._is_a_trial(event):
            self._counts["trials"] += 1
            return None
        here = self._asked_here(event)
        if here is None and self._is_quiet(event):
            return None
        decision = decide(event, self._facts(event, here))
        if decision.finding is Finding.NOTHING:
            return None
        self._counts["alerts"] += 1
        self.in_use.forget(decision.indicator)  # that a list blocks it is no surprise
        return decision

    def _answer(self, decided: list[Decision]) -> None:
        """`Trait_alert()`: act on what was decided, all of it; `decided` is empty after it."""
        if not decided:
            return
        batch, guarded, rules = list(decided), self._guarded(), self._rules()
        decided.clear()
        waiting = dict(enumerate(batch))

        def over(number: int, outcomes: list[Outcome]) -> None:
            if number in waiting:  # else it was told without
                decision = waiting.pop(number)
                if isinstance(decision.event, FileChange):
                    self._on_restored(decision.event.path)
                self._untold.append((decision, outcomes))

        try:
            self._executor.answer_all(
                [(decision, plan(decision, self._config, guarded=guarded, rules=rules)) for decision in batch],
                over, waits=isinstance(batch[0].event, FileEvent),  # who damages goes on meanwhile
            )  # fmt: skip
        except Exception:  # likewise; the report goes out all the same
            self._note_fault(batch[0].event)
            for number in list(waiting):
                over(number, [])
        while len(self._untold) > MAX_UNTOLD:
            self.tell_some()

    def tell_all(self) -> None:
        """Report everything that was acted on; it is on the disk after this, if there is room."""
        self._tell_each()
        self._spool.settle()

    def _tell_each(self) -> None:
        self._executor.settle()
        while self._untold:
            self.tell_some()

    def note_late(self, outcomes: list[Outcome]) -> None:
        """Add what was over only after its alert was told, or ended by itself, to that alert."""
        self._tell_each()
        for outcome in outcomes:
            begun = self._begun.get(outcome.decision_id)
            self._alerts.note_outcomes([outcome], under=begun.repeats if begun else "")
            if begun is not None and begun.is_over(outcome) and not begun.repeats:
                del self._begun[outcome.decision_id]
                self._spool.hand([end_of(outcome.decision_id, begun.ended, self._clock)])

    def note_begun(self, decision_id: str, action: str, *, repeats: str = "") -> None:
        """Have the enterprise hear how an action ends: it was told as begun, perhaps before a restart interrupted it.

        `repeats`: the alert that it was told under instead, which has it all.
        """
        self._begun.setdefault(decision_id, Begun(repeats)).waits.add(action)
        while len(self._begun) > MAX_UNTOLD:
            del self._begun[next(iter(self._begun))]

    def tell_some(self) -> None:
        """Report what was acted on longest ago: into the alert log, and on its way to the enterprise."""
        told = list[Escalation]()
        for _ in range(min(max(TELL_AT_ONCE, len(self._untold) // 4), len(self._untold))):
            decision, outcomes = self._untold.popleft()
            try:
                told += self._reported(decision, outcomes)
            except Exception:  # likewise
                self._note_fault(decision.event)
        self._spool.hand(told)
        try:
            self._alerts.flush()
        except Exception:  # acting goes on
            self._counts["faults"] += 1
            LOG.exception("the alert log cannot be written")

    def _reported(self, decision: Decision, outcomes: list[Outcome]) -> list[Escalation]:
        """Note an alert; return what is to be sent of it: nothing, when it is one more of the same."""
        begun = [outcome for outcome in outcomes if outcome.state == "begun"]
        first_id = self._repeats.first(_sameness(decision), decision.id, boot_ns=self._clock.boot_ns())
        if first_id != decision.id:
            self._alerts.note_repeat(first_id)
            self._alerts.note_outcomes([o for o in outcomes if o.action is not ActionKind.REFUSED], under=first_id)
            for outcome in begun:
                self.note_begun(decision.id, outcome.action.value, repeats=first_id)
            return []
        for outcome in begun:
            self.note_begun(decision.id, outcome.action.value)
        escalation = self._escalation(decision, outcomes)
        self._alerts.put(decision, escalation)
        return [escalation]

    def _is_a_trial(self, event: Event) -> bool:
        """Whether the event is of the family of the process that tries the controls."""
        tries_as = self._trying()
        if not tries_as or isinstance(event, FileEvent):
            return False
        family = {event.head.tgid, event.head.ppid, *(task.tgid for task in self.lineage.ancestry(event.head.tgid))}
        return tries_as in family

    def _asked_here(self, event: Event) -> Answer | None:
        """What the list says of a start in the kinds that the kernel does not ask about; not of our own helpers."""
        if self._matcher is None or not isinstance(event, Exec) or not asks_here(event):
            return None
        if event.head.ppid in self._guarded():
            return None
        path = program_path(event) if self._matcher.wants_paths else ""
        self.unresolved += self._matcher.wants_paths and not path
        return self._matcher.about(path, event.head.uid, self._clock.list_s())

    def _facts(self, event: Event, here: Answer | None) -> Facts:
        now_s = self._clock.list_s()
        alert_id = new_id(self._clock.wall_s())
        if isinstance(event, FileEvent):
            return Facts(alert_id=alert_id, writer=self._writer(event.tgid))
        if isinstance(event, Tamper):
            return Facts(alert_id=alert_id, is_expected=self._is_expected(event))
        assert not isinstance(event, Fork | Exit)
        answer = None
        if asks_for_parent(event) and isinstance(event, Exec):
            answer = verify(self._ble, Kind.SHA256, event.sha256, now_s=now_s)
        return Facts(
            alert_id=alert_id,
            answer=answer,
            entry=self._entry(event, now_s),
            here=here,
            parent_sockets=self._parent_sockets(event.head.ppid) if asks_for_parent(event) else 0,
        )

    def _entry(self, event: Exec | FileAccess | Connect | Packet | DnsQuery, now_s: float) -> Entry | None:
        """The entry behind a kernel verdict; None when its generation has been replaced meanwhile."""
        head = event.head
        if head.verdict not in SAYABLE or self._ble is None or self._ble.number != head.generation:
            return None
        kind, value = asked(event)
        for at_s in (now_s, 0):  # 0: with entries that ended since they were loaded
            found = verify(self._ble, kind, value, now_s=at_s)
            if found.verdict is head.verdict:
                return found.entry
        self.phantoms += 1
        LOG.warning("the kernel's tables say %s of %s %r, the list does not", head.verdict.name, kind.name, value)
        return None

    def _parent_sockets(self, ppid: int) -> int:
        found = 0
        for tgid in [ppid] + [task.ppid for task in self.lineage.ancestry(ppid, limit=NETWORK_ANCESTORS - 1)]:
            found += len(inet_sockets(tgid, limit=8)) if tgid > 1 else 0
        return found

    def _writer(self, tgid: int) -> str:
        """Name whoever touched a file: mostly it has ended already, so lineage comes first."""
        task = self.lineage.task(tgid)
        if task is not None:
            return f"{task.path or task.comm!r} (pid {tgid}, uid {task.uid})"
        try:
            return f"{Path(f'/proc/{tgid}/comm').read_text().strip()!r} (pid {tgid})" if tgid else ""
        except OSError:
            return f"pid {tgid}, which has ended already"

    def _escalation(self, decision: Decision, outcomes: list[Outcome]) -> Escalation:
        return Escalation(
            id=decision.id, kind=event_kind(decision.event), finding=decision.finding, severity=decision.severity,
            at=self._clock.wall_s(), boot_ns=self._clock.boot_ns(), generation=decision.generation, rule=decision.rule,
            summary=decision.reason, indicator=decision.indicator, evidence=self._evidence(decision),
            actions=views(outcomes),
        )  # fmt: skip

    def _evidence(self, decision: Decision) -> dict[str, Any]:
        event = decision.event
        tgid = event.tgid if isinstance(event, FileEvent) else event.head.tgid
        lineage = [_task_facts(task) for task in self.lineage.ancestry(tgid)]
        try:
            return {"lineage": lineage, **collect(decision, self._scope)}
        except OSError as error:  # the process ended under our eyes: what lineage knows is what there is
            return {"lineage": lineage, "incomplete": str(error)}

    def tell(self, escalation: Escalation) -> None:
        """Send an alert that comes from no event, at once; one that was sent before is not sent again."""
        if self._outbox.state_of(escalation.id) == "":
            self._alerts.note(escalation)
            self._spool.hand([escalation])
            self._spool.settle()

    def flush(self) -> None:
        """Try again to store what a full disk kept out, oldest first; called at every tick."""
        self._alerts.flush()
        self._spool.retry()

    def close(self) -> None:
        """Tell everything, and end the thread that stores it. Before outbox and alert log are closed."""
        self.tell_all()
        self._spool.close()


def event_kind(event: Event) -> str:
    """Return the name of the event's kind, as in escalations and in `mamplus events`."""
    if isinstance(event, FileEvent):
        return "file"
    if isinstance(event, FileAccess):
        return "access"
    name = type(event).__name__.lower()
    return {"dnsquery": "dns", "connect": "sendmsg" if getattr(event, "unconnected", False) else "connect"}.get(
        name, name
    )


def _sameness(decision: Decision) -> tuple[Any, ...]:
    """What makes two decisions one alert: the same rule about the same thing by the same program."""
    event = decision.event
    if isinstance(event, FileChange):
        return (decision.rule, event.path, event.tgid, time.monotonic_ns())  # each restoration is told
    if isinstance(event, MassRewrite):
        return (decision.rule, event.paths, event.tgid, time.monotonic_ns())  # likewise
    if isinstance(event, Tamper):
        return (decision.rule, event.op, event.target, event.argument, event.detail, event.head.comm)
    return (
        decision.rule,
        decision.finding,
        event_kind(event),
        decision.indicator,
        event.head.comm,
        event.head.cgroup_id,
    )


def _is_noticed(event: Event) -> bool:
    """Whether a tampering was noticed in user space: it never was in the ring."""
    return isinstance(event, Tamper) and bool(event.detail)


def _task_facts(task: Task) -> dict[str, Any]:
    return {k: v for k, v in msgspec.to_builtins(task).items() if k not in ("file", "flags")}
