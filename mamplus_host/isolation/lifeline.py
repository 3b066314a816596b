# SPDX-License-Identifier: Apache-2.0
"""The dead-man timer of isolation: when the lifeline does not reach the enterprise, isolation gives way as declared.

Journey: uplink -> [lifeline] -> executor/network/refusals.

Isolated, the uplink makes its connections anew, so that an answer proves the lifeline. Silence for `dead_man_s`
loosens the isolation:

    trial    it lets go for `trial_s`. The enterprise is reached then: isolation was in its way, and is over. It is
             silent all the same (switched off, no network): isolation was not the cause, takes hold again, and the
             next trial waits twice as long, up to a day.
    lift     it is over at once.

Where the device belongs to no enterprise there is none to lose, and no timer. docs/decisions/0024.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from mamplus_host.clock import Clock
from mamplus_host.executor.network.refusals import Network
from mamplus_host.files import write_whole
from mamplus_host.policy.isolation import Isolation

_NS = 1_000_000_000
MOST_S = 86_400
GRACE_S = 60  # for the uplink to try again, after a suspend or a start, before the timer may act
_GAP_S = 30  # between two looks: the device slept
_WRITE_EVERY_S = 600


class Reach(Protocol):
    """What is asked of the uplink."""

    def is_reachable(self) -> bool:
        """Whether the enterprise answered when it was asked last."""

    def reached_ns(self) -> int:
        """Return when the newest connection that brought an answer was made, CLOCK_BOOTTIME; 0: none did."""

    def renew(self) -> None:
        """Have both connections made anew."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """`state/isolation.json`. Times in nanoseconds of CLOCK_BOOTTIME, of boot `boot_id`."""

    action: str = ""  # id of the isolation that is meant
    boot_id: str = ""
    there_ns: int = 0  # when the enterprise was known to be there last; at first, when the isolation began
    loosened_ns: int = 0  # 0: not loosened
    trials: int = 0  # in vain


class Lifeline:
    """The one timer of this device. One thread."""

    def __init__(
        self, state: Path, clock: Clock, network: Network, *, boot_id: str, reach: Callable[[], Reach | None],
        lift: Callable[[str, str], object],
    ) -> None:  # fmt: skip
        """`lift(id, why)` takes an isolation back for good, and tells."""
        self._path, self._clock, self._network, self._boot_id = state / "isolation.json", clock, network, boot_id
        self._reach, self._lift = reach, lift
        self._kept = self._written = self._read()
        self._is_proved = False  # a connection of after the isolation brought an answer
        self._awake_ns = self._looked_ns = clock.boot_ns()

    def look(self, rules: Isolation) -> None:
        """Let the timer run; with every tick."""
        now_ns = self._clock.boot_ns()
        if now_ns - self._looked_ns > _GAP_S * _NS:
            self._awake_ns = now_ns  # the device slept
        self._looked_ns = now_ns
        found, reach, kept = self._network.isolation(), self._reach(), self._kept
        if found is None or reach is None:
            self._keep(Kept())
        elif (found[0], self._boot_id) != (kept.action, kept.boot_id):
            self._begin(found[0], reach, trials=kept.trials if found[0] == kept.action else 0)
        elif kept.loosened_ns:
            self._end_trial(reach, rules, now_ns)
        elif self._is_there(reach):
            self._keep(msgspec.structs.replace(kept, there_ns=now_ns, trials=0))
        elif now_ns - max(self._awake_ns + GRACE_S * _NS, kept.there_ns + self.patience_s(rules) * _NS) >= 0:
            self._loosen(rules, now_ns)

    def patience_s(self, rules: Isolation) -> int:
        """Return how long a silence is borne now."""
        return int(min(rules.dead_man_s * 2 ** min(self._kept.trials, 16), MOST_S))

    def left_s(self, rules: Isolation) -> float | None:
        """Return when the timer runs out, or a trial ends; None: it does not run."""
        if not self._kept.action or self._reach() is None:
            return None
        since_ns, limit_s = self._kept.there_ns, self.patience_s(rules)
        if self._kept.loosened_ns:
            since_ns, limit_s = self._kept.loosened_ns, rules.trial_s
        return max(0.0, limit_s - (self._clock.boot_ns() - since_ns) / _NS)

    def _is_there(self, reach: Reach) -> bool:
        self._is_proved = self._is_proved or reach.reached_ns() > self._kept.there_ns
        return self._is_proved and reach.is_reachable()

    def _begin(self, action: str, reach: Reach, *, trials: int) -> None:
        self._is_proved = False
        self._network.loosen(action, False)
        self._keep(Kept(action=action, boot_id=self._boot_id, there_ns=self._clock.boot_ns(), trials=trials))
        reach.renew()

    def _loosen(self, rules: Isolation, now_ns: int) -> None:
        kept, silent_s = self._kept, (now_ns - self._kept.there_ns) / _NS
        if rules.on_silence == "lift":
            self._keep(Kept())
            self._lift(kept.action, f"the enterprise was not reached through the lifeline for {silent_s:.0f} s")
            return
        self._keep(msgspec.structs.replace(kept, loosened_ns=now_ns))
        self._network.loosen(kept.action, True)

    def _end_trial(self, reach: Reach, rules: Isolation, now_ns: int) -> None:
        kept = self._kept
        if reach.is_reachable() and reach.reached_ns() > kept.loosened_ns:
            self._keep(Kept())
            self._lift(kept.action, "the enterprise was reached only when isolation let go: it was in the way")
        elif now_ns - kept.loosened_ns >= rules.trial_s * _NS:
            self._begin(kept.action, reach, trials=kept.trials + 1)

    def _keep(self, kept: Kept) -> None:
        """Take `kept`; on the disk what a start must know, and how long the silence lasts only now and then."""
        self._kept = kept
        spent = kept.there_ns - self._written.there_ns
        if msgspec.structs.replace(kept, there_ns=0) != msgspec.structs.replace(self._written, there_ns=0) or (
            spent >= _WRITE_EVERY_S * _NS
        ):
            write_whole(self._path, msgspec.json.encode(kept))
            self._written = kept

    def _read(self) -> Kept:
        """Return what is kept; a damaged file begins the timer anew."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Kept)
        except (OSError, msgspec.MsgspecError):
            return Kept()
