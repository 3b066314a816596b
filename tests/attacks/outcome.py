# SPDX-License-Identifier: Apache-2.0
"""What came of an attack, told from two sides: what the attacker saw, and what the agent recorded.

Neither side alone is believed. An attacker that ended without its marker may have broken by itself;
a record of a refusal may be about something that ran all the same.
"""

import errno
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    REFUSED = "refused"  # a system call failed with EPERM or EACCES, and the agent says that it refused
    KILLED = "killed"  # ended by SIGKILL before its first instruction, and the agent says so
    NOTICED = "noticed"  # it was done, and the agent told of it
    NOT_COVERED = "not covered"  # it was done, and the agent knows nothing
    RUNS = "runs"  # it was done, and that is right: nothing of it is listed or guarded


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the attacking program saw."""

    exit: int | None = None  # its exit code, negative for a signal; None: it was not waited for
    errno: int = 0  # of the system call that failed; 0: none did

    def __str__(self) -> str:
        if self.errno:
            return errno.errorcode.get(self.errno, str(self.errno))
        if self.exit is not None and self.exit < 0:
            return signal.Signals(-self.exit).name
        return f"exit {self.exit}"


@dataclass(frozen=True, kw_only=True)
class Told:
    """One thing that the agent recorded of the attack."""

    what: str  # kind of record: exec, held, file, tamper, alert
    is_refusal: bool
    after_ms: float  # since the attack began


class Unexplained(AssertionError):
    """The two sides do not fit: nothing was done, and not because of us."""


REFUSALS = (errno.EPERM, errno.EACCES)


def classify(seen: Seen, is_done: bool, told: Sequence[Told], *, is_innocent: bool = False) -> Outcome:
    """Return the outcome of an attack whose aim was reached or not (`is_done`).

    `is_innocent`: nothing of it is listed or guarded. Unexplained when the sides do not fit each other.
    """
    refusals = [one for one in told if one.is_refusal]
    if is_done:
        if is_innocent and not told:
            return Outcome.RUNS
        return Outcome.NOTICED if told else Outcome.NOT_COVERED
    if refusals and seen.exit in (-signal.SIGKILL, 128 + signal.SIGKILL):  # itself, or its child
        return Outcome.KILLED
    if refusals and seen.errno in (0, *REFUSALS):  # 0: a loader or an interpreter met it, and went on without
        return Outcome.REFUSED
    raise Unexplained(f"the attacker saw {seen}, its aim was not reached, and the agent told {list(told)}")
