# SPDX-License-Identifier: Apache-2.0
"""The age ladder: fresh, stale, old, very old; and what the policy has each of them do.

Journey: clock, policy -> [age] -> posture of the kernel, alert.

The age is the time since the enterprise last proved, by a signature that this device verified, what its newest list
is (`DeviceClock.age_s`). An old list enforces as a fresh one does; what changes is how much is made of doubt.
"""

from enum import IntEnum

import msgspec

from mamplus_host.config import ExecPolicy
from mamplus_host.policy.policy import AgeLadder, Effect

REPORT: Effect = "report"
SUSPECT_AS_BLOCK: Effect = "suspect-as-block"
REFUSE_UNKNOWN: Effect = "refuse-unknown"
_DAY_S, _HOUR_S = 86_400, 3600


class Step(IntEnum):
    """How old the list is. The greater, the older."""

    FRESH = 0
    STALE = 1
    OLD = 2
    VERY_OLD = 3

    @property
    def label(self) -> str:
        return self.name.lower().replace("_", " ")


class Aged(msgspec.Struct, frozen=True, kw_only=True):
    """Where on the ladder the list is, and what follows."""

    step: Step = Step.FRESH
    effects: tuple[Effect, ...] = ()

    @property
    def suspect_as_block(self) -> bool:
        return SUSPECT_AS_BLOCK in self.effects

    def declared(self, configured: ExecPolicy) -> ExecPolicy:
        """Return the declared answers of the exec control that hold now."""
        if REFUSE_UNKNOWN not in self.effects:
            return configured
        return msgspec.structs.replace(configured, on_responder_down="refuse", on_deadline="refuse")


def aged(age_s: float, ladder: AgeLadder) -> Aged:
    """Return where a list of that age stands."""
    if age_s >= ladder.very_old_s:
        return Aged(step=Step.VERY_OLD, effects=ladder.very_old)
    if age_s >= ladder.old_s:
        return Aged(step=Step.OLD, effects=ladder.old)
    if age_s >= ladder.stale_s:
        return Aged(step=Step.STALE, effects=ladder.stale)
    return Aged()


def refresh_after_s(ladder: AgeLadder) -> float:
    """Return the age at which a device that is connected asks for a new proof: twice before the list is stale."""
    return min(ladder.stale_s / 3, _DAY_S)


def in_words(seconds: float) -> str:
    """Return a length of time as people say it."""
    for unit, size in (("days", _DAY_S), ("hours", _HOUR_S), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
