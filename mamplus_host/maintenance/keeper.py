# SPDX-License-Identifier: Apache-2.0
"""Carries a maintenance window out: the kernel's guard lets go, the journal and the enterprise are told.

Journey: control socket, command line -> [keeper] -> guard, journal, outbox.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mamplus_host.clock import DeviceClock
from mamplus_host.ids import new_id
from mamplus_host.maintenance.window import Window
from mamplus_host.verdicts import Escalation, Finding, Severity

KIND, RULE = "maintenance", "maintenance"


class Keeper:
    """The window of this device, as the agent keeps it; the command line while there is no agent."""

    def __init__(
        self, state: Path, clock: DeviceClock, *, open_guard: Callable[[int], object],
        journal: Callable[[dict[str, Any]], object], tell: Callable[[Escalation], object],
    ) -> None:  # fmt: skip
        """`open_guard` takes when the window ends, CLOCK_BOOTTIME, 0 for at once; `tell` sends an alert."""
        self._window, self._clock = Window(state, clock), clock
        self._open_guard, self._journal, self._tell = open_guard, journal, tell
        self._code = self._window.opened_by()  # of the window that is open as far as we have told

    def begin(self, code: str) -> dict[str, Any]:
        """Open the window that `code` grants; CodeRejected says why it does not."""
        granted = self._window.open(code)
        self._code = granted.id
        self._open_guard(self._window.until_ns())
        self._note(f"a maintenance window is open for {granted.minutes} minutes (code {granted.id})", granted.id)
        return self.status()

    def end(self) -> dict[str, Any]:
        """Close the window before its time."""
        self._window.end()
        self.look()
        return self.status()

    def look(self) -> None:
        """Tell the guard when the window ends, and everybody when it has ended; with every tick."""
        code = self._window.opened_by()
        self._open_guard(self._window.until_ns())
        if self._code and not code:
            self._note(f"the maintenance window is closed (code {self._code})", self._code)
        self._code = code

    def covers(self, boot_ns: int) -> bool:
        """Whether a window was open at `boot_ns`, CLOCK_BOOTTIME."""
        return self._window.covers(boot_ns)

    def status(self) -> dict[str, Any]:
        return {"open_for_s": round(self._window.left_s()), "code": self._window.opened_by() or "none"}

    def _note(self, summary: str, code: str) -> None:
        self._journal({"what": summary, "code": code})
        at_s = self._clock.wall_s()
        self._tell(
            Escalation(
                id=new_id(at_s), kind=KIND, finding=Finding.CONFIRMED, severity=Severity.LOW, at=at_s,
                boot_ns=self._clock.boot_ns(), generation=0, rule=RULE, summary=summary, evidence={"code": code},
            )
        )  # fmt: skip
