# SPDX-License-Identifier: Apache-2.0
"""Has the controls tried when something changed: by a process that ends, started from a thread, one at a time.

Journey: service (tick) -> [examiner] -> helper -> `state/controls.json`, alerts, the report to the enterprise.

The loop never waits: it asks `wanted` at its ticks, and takes the result when `on_done` was called.
"""

import logging
import platform
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from mamplus_host import __version__
from mamplus_host.clock import DeviceClock
from mamplus_host.config import Config
from mamplus_host.doctor import asking, kept
from mamplus_host.doctor.kept import Kept, Situation
from mamplus_host.doctor.trial import STATES, Trial
from mamplus_host.errors import MamplusError
from mamplus_host.ids import new_id
from mamplus_host.telling import Telling, escalation
from mamplus_host.verdicts import Escalation, Finding, Severity

LOG = logging.getLogger("mamplus")
KIND = "control"  # Escalation.kind: the alert is about a control of the device itself
RULE = "control-worse"
_NS = 1_000_000_000


class Examiner:
    """The trials of this agent. One thread calls it; the trials run in another, and in their own process."""

    def __init__(
        self, config: Config, *, clock: DeviceClock, on_done: Callable[[], object],
        try_all: Callable[..., list[Trial]] = asking.examine_aside,
    ) -> None:  # fmt: skip
        """`on_done` is called in the trials' thread; the loop calls `finish` then. `try_all`: as `examine_aside`."""
        self._config, self._clock, self._on_done, self._try_all = config, clock, on_done, try_all
        self._thread: threading.Thread | None = None
        self._began_ns = clock.boot_ns()
        self._not_before_ns = self._began_ns + int(config.agent.examine_after_s * _NS)
        self._is_fresh = False
        self._helper_pid = 0
        self._done: tuple[str, Situation, list[Trial]] | None = None
        self._failed = ""
        self.kept, self.fault = kept.read(config.state)

    def attached_anew(self) -> None:
        """The probes were attached by this agent, and not adopted."""
        self._is_fresh = True

    @property
    def tries_as(self) -> int:
        """The process that tries controls now; 0: none does. What it and its children do is no attack."""
        return self._helper_pid

    def begin_if_due(self, generation: int, list_state: str) -> str:
        """Start trials when something asks for them; return what did, "" for nothing."""
        if self._thread is not None or self._clock.boot_ns() < self._not_before_ns:
            return ""
        now = self._situation(generation, list_state)
        why = kept.why_now(self.kept, now, self._clock.boot_ns(), is_fresh=self._is_fresh)
        if why:
            self._begin(why, now)
        return why

    def finish(self) -> bool:
        """Take what the trials came to, once they have ended; False when that was nothing."""
        thread = self._thread
        if thread is None:
            return False
        thread.join()
        self._thread, self._helper_pid = None, 0
        if self._done is None:
            self.fault = self._failed
            self._not_before_ns = self._clock.boot_ns() + int(kept.RETRY_S * _NS)
            LOG.error("%s; the last result stands", self.fault)
            return False
        self._keep(*self._done)
        self._is_fresh, self.fault = False, ""
        return True

    def hand_on(self, tell: Callable[[Escalation], None]) -> None:
        """Send what has been decided and not been told yet; `tell` must take the same alert twice."""
        for telling in self.kept.untold if self.kept is not None else ():
            tell(_alert(telling))
            assert self.kept is not None
            self._write(kept.told(self.kept, telling.id))

    def report(self) -> dict[str, Any] | None:
        """Return what the enterprise is told of the controls; None before they were tried."""
        return kept.report(self.kept) if self.kept is not None else None

    def status(self) -> dict[str, Any]:
        return kept.status(self.kept, self.fault, self._clock.boot_id, self._clock.wall_s())

    def _situation(self, generation: int, list_state: str) -> Situation:
        return Situation(
            boot_id=self._clock.boot_id, kernel=platform.release(), agent=__version__, list_state=list_state,
            generation=generation,
        )  # fmt: skip

    def _begin(self, why: str, now: Situation) -> None:
        self._done, self._failed = None, ""
        self._thread = threading.Thread(target=self._try, args=(why, now), name="doctor", daemon=True)
        self._thread.start()

    def _try(self, why: str, now: Situation) -> None:
        try:
            found = self._try_all(
                self._config, kernel=kept.is_whole(why), agent=True, on_started=self._note_helper
            )  # fmt: skip
            self._done = (why, now, found)
        except Exception as error:  # the thread's edge: what it is, is said, and the trials are made again later
            self._failed = str(error) or type(error).__name__
        self._on_done()

    def _note_helper(self, pid: int) -> None:
        self._helper_pid = pid

    def _keep(self, why: str, situation: Situation, found: list[Trial]) -> None:
        before = self.kept
        controls = kept.merged(before.controls if before else (), found, whole=kept.is_whole(why))
        worse = kept.worsened(before.controls if before else (), controls)
        untold = before.untold if before else ()
        if worse:
            untold = (*untold, self._telling(worse, situation.generation))[-kept.MAX_UNTOLD :]
        self._write(
            Kept(
                situation=situation, why=why, at=self._clock.wall_s(), boot_ns=self._clock.boot_ns(),
                controls=controls, untold=untold,
            )
        )  # fmt: skip
        for one in worse:
            LOG.error("control %r was %s, is %s now: %s", one.control, one.was, one.state, one.reason)
        LOG.info("the controls were tried (%s): %s", why, _counts(controls))

    def _telling(self, worse: list[kept.Worse], generation: int) -> Telling:
        is_lost = any(one.state == STATES[-1] for one in worse)
        at_s = self._clock.wall_s()
        return Telling(
            id=new_id(at_s), at=at_s, boot_ns=self._clock.boot_ns(), rule=RULE,
            severity=Severity.HIGH if is_lost else Severity.MEDIUM, generation=generation,
            summary=kept.summary(worse), evidence={"controls": [_facts(one) for one in worse]},
        )  # fmt: skip

    def _write(self, result: Kept) -> None:
        """A full disk must not undo what was found: it is in force in memory, and said."""
        self.kept = result
        try:
            kept.write(self._config.state, result)
        except (MamplusError, OSError) as error:
            LOG.error("%s; the controls are tried again after the next start", error)


def _facts(one: kept.Worse) -> dict[str, str]:
    return {"control": one.control, "was": one.was, "state": one.state, "tier": one.tier, "reason": one.reason}


def _alert(telling: Telling) -> Escalation:
    """Return what goes to the enterprise. Confirmed: it was tried, and is not suspected."""
    return msgspec.structs.replace(escalation(telling), kind=KIND, finding=Finding.CONFIRMED)


def _counts(controls: tuple[Trial, ...]) -> str:
    return ", ".join(f"{sum(one.state == state for one in controls)} {state}" for state in STATES)
