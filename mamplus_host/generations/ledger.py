# SPDX-License-Identifier: Apache-2.0
"""Keeps the standing of this device's generations on disk, and tells of it: journal, alerts.

Journey: generations, aging -> [ledger] -> journal, alert log, outbox.

A decision is written before it is acted upon; what is to be told of it is written with it, and handed on after.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mamplus_host.ble import standing
from mamplus_host.ble.standing import Standing
from mamplus_host.clock import Clock
from mamplus_host.errors import MamplusError
from mamplus_host.ids import new_id
from mamplus_host.telling import Telling, escalation
from mamplus_host.verdicts import Escalation, Severity

LOG = logging.getLogger("mamplus")


class Ledger:
    """The standing, and what is told of it. One thread."""

    def __init__(
        self, state: Path, *, clock: Clock, boot_id: str, tell: Callable[[Escalation], None],
        journal: Callable[[dict[str, Any]], object],
    ) -> None:  # fmt: skip
        """`tell` sends an alert, at once or later, and must take the same one twice; `journal` writes a note."""
        self._state, self._clock, self._tell, self._journal = state, clock, tell, journal
        kept, fault = standing.read(state)
        if fault:
            LOG.error("%s", fault)
        self.standing = standing.in_boot(kept, boot_id)

    def keep(self, changed: Standing) -> None:
        """Make `changed` the standing, for good; NotPossible when there is no room."""
        if changed != self.standing:
            standing.write(self._state, changed)
            self.standing = changed

    def telling(
        self, rule: str, severity: Severity, summary: str, generation: int, evidence: dict[str, Any]
    ) -> Telling:
        """Return what to keep with a decision, so that it is told."""
        at_s = self._clock.wall_s()
        return Telling(
            id=new_id(at_s), at=at_s, boot_ns=self._clock.boot_ns(), rule=rule, severity=severity, summary=summary,
            generation=generation, evidence=evidence,
        )  # fmt: skip

    def note(self, what: str, **facts: Any) -> None:
        """Journal a step. A full disk must not undo what was decided: it is logged then."""
        LOG.warning("%s: %s", what, ", ".join(f"{name} {value}" for name, value in facts.items()))
        try:
            self._journal({"what": what, **facts})
        except MamplusError as error:
            LOG.error("%s; %s is not in the journal", error, what)

    def hand_on(self) -> None:
        """Send what has been decided and not been told yet."""
        for telling in self.standing.untold:
            self._tell(escalation(telling))
            self.keep(standing.told(self.standing, telling.id))
