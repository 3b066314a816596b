# SPDX-License-Identifier: Apache-2.0
"""What the agent has to say about itself and its list: alerts without an event.

Journey: generations, age -> [telling] -> alert log, outbox (`Send_alert`).

A telling is kept with the decision that it is about (`ble/standing.py`) before it is handed on,
and has its id from then on: after a crash it is handed on again, and known again.
"""

from typing import Any

import msgspec

from mamplus_host.verdicts import Escalation, Finding, Severity

KIND = "list"  # Escalation.kind: the alert is about the list, not about an event


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
