# SPDX-License-Identifier: Apache-2.0
"""What the agent has to say without an event: about itself, its list, and how what it had begun has ended.

Journey: generations, age, executor -> [telling] -> alert log, outbox (`Send_alert`).

A telling is kept with the decision that it is about (`ble/standing.py`) before it is handed on,
and has its id from then on: after a crash it is handed on again, and known again.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from mamplus_host.clock import Clock
from mamplus_host.ids import new_id
from mamplus_host.verdicts import Escalation, Finding, Outcome, Severity

KIND = "list"  # Escalation.kind: the alert is about the list, not about an event
END = "outcome"  # Escalation.kind: the alert says how actions about an earlier one have ended


class Telling(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to tell."""

    id: str  # as `ids.new_id` makes them
    at: float  # seconds since the epoch, by the device's clock
    boot_ns: int
    rule: str  # list-age, shadow-load, dead-man
    severity: Severity
    generation: int  # that is in force
    summary: str
    evidence: dict[str, Any] = {}


def escalation(telling: Telling) -> Escalation:
    """Return what goes to the enterprise. Suspected: whether it was meant is for people to say."""
    return Escalation(
        id=telling.id, kind=KIND, finding=Finding.SUSPECTED, severity=telling.severity, at=telling.at,
        boot_ns=telling.boot_ns, generation=telling.generation, rule=telling.rule, summary=telling.summary,
        evidence=telling.evidence,
    )  # fmt: skip


@dataclass(slots=True)
class Begun:
    """What of a decision was told as begun."""

    repeats: str  # the alert that it was told under; "": its own
    waits: set[str] = field(default_factory=set)
    ended: list[Outcome] = field(default_factory=list)

    def is_over(self, outcome: Outcome) -> bool:
        """Take in an end; say whether it was the last one."""
        if outcome.action.value in self.waits:
            self.waits.discard(outcome.action.value)
            self.ended.append(outcome)
        return not self.waits


def end_of(alert_id: str, ended: list[Outcome], clock: Clock) -> Escalation:
    """Return what goes to the enterprise about actions that were over only after their alert was told."""
    at_s = clock.wall_s()
    words = "; ".join(f"{outcome.action.value} {outcome.state}" for outcome in ended)
    has_failed = any(outcome.state == "failed" for outcome in ended)
    return Escalation(
        id=new_id(at_s), kind=END, finding=Finding.CONFIRMED, at=at_s, boot_ns=clock.boot_ns(), generation=0, rule=END,
        severity=Severity.HIGH if has_failed else Severity.INFORMATIONAL, evidence={"alert": alert_id},
        summary=f"what was begun about alert {alert_id} is over: {words}", actions=views(ended),
    )  # fmt: skip


def views(outcomes: list[Outcome]) -> list[dict[str, str]]:
    """Return outcomes as an escalation says them."""
    return [{"action": one.action.value, "state": one.state, "detail": one.detail} for one in outcomes]
