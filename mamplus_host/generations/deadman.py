# SPDX-License-Identifier: Apache-2.0
"""The dead-man timer: a swap after which the enterprise is silent is taken back.

Journey: uplink, ledger -> [deadman] -> generations.

Set only where there was contact before the swap: the uplink's, or, of what was installed while no agent ran, that
over which it came. Ended only by an answer on a connection that was made after it:
that an old connection lives on proves nothing about the new list. Written before the swap, carried over restarts and
reboots (`ble/standing.py`). After a rollback, an enterprise that stays silent under the old list, too, acquits the
new one: it is tried again, under a timer, when the enterprise is there.
"""

from collections.abc import Callable
from typing import Protocol

from mamplus_host.ble import standing
from mamplus_host.ble.standing import Known, Watch
from mamplus_host.clock import DeviceClock
from mamplus_host.generations.ledger import Ledger
from mamplus_host.verdicts import Severity

GRACE_S = 30.0  # for the uplink to try again, after a suspend or a start, before the timer may act
SPENT_EVERY_S = 30.0  # writes of a running timer
ACQUITS_S = 120.0  # of silence after a rollback, at least: the uplink tries again within that
_GAP_S = 30.0  # between two looks: the device slept
_NS = 1_000_000_000


class Reach(Protocol):
    """What is asked of the uplink."""

    def is_reachable(self) -> bool:
        """Whether the enterprise answered when it was asked last."""

    def reached_ns(self) -> int:
        """Return when the newest connection that brought an answer was made, CLOCK_BOOTTIME; 0: none did."""


class DeadMan:
    """The one timer of this device. One thread."""

    def __init__(self, *, clock: DeviceClock, ledger: Ledger, reach: Callable[[], Reach | None]) -> None:
        """`reach` returns the uplink, None while there is none."""
        self._clock, self._ledger, self._reach = clock, ledger, reach
        self._awake_ns = self._looked_ns = self._spent_ns = clock.boot_ns()

    def watch(self, new: Known, previous: Known | None, limit_s: int, *, was_fetched: bool = False) -> Watch | None:
        """Return the timer for the swap from `previous` to `new`; None where there is no contact to lose.

        `was_fetched`: `new` came from the enterprise while nobody kept a connection.
        """
        reach = self._reach()
        is_reached = was_fetched or (reach is not None and reach.is_reachable())
        if previous is None or not (is_reached or self._ledger.standing.watch is not None):
            return None
        now_ns = self._clock.boot_ns()
        return Watch(
            number=new.number, state=new.state, previous=previous.number, previous_state=previous.state,
            limit_s=limit_s, boot_id=self._clock.boot_id, since_ns=now_ns, swapped_ns=now_ns,
        )  # fmt: skip

    def look(self) -> bool:
        """Let the timer run; True when it has run out, and what is to be in force again stands in the ledger."""
        now_ns = self._clock.boot_ns()
        if now_ns - self._looked_ns > _GAP_S * _NS:
            self._awake_ns = now_ns
        self._looked_ns = now_ns
        ledger, reach = self._ledger, self._reach()
        watch = ledger.standing.watch
        if watch is None:
            return False
        if reach is not None and reach.reached_ns() > watch.swapped_ns:
            ledger.keep(standing.safe(ledger.standing))
        elif watch.elapsed_s(now_ns) >= watch.limit_s and now_ns - self._awake_ns >= GRACE_S * _NS:
            self._roll_back(watch)
            return True
        elif now_ns - self._spent_ns >= SPENT_EVERY_S * _NS:
            self._spent_ns = now_ns
            ledger.keep(standing.spent(ledger.standing, now_ns))
        return False

    def acquits(self) -> bool:
        """Judge what was rolled back last when the enterprise is reached again; True: it was not the cause."""
        ledger, reach, trial = self._ledger, self._reach(), self._ledger.standing.trial
        if trial is None or reach is None or reach.reached_ns() <= trial.swapped_ns:
            return False
        silent_s = trial.elapsed_s(reach.reached_ns())
        is_guilty = silent_s <= max(trial.limit_s, ACQUITS_S)
        ledger.keep(standing.tried(ledger.standing, is_guilty=is_guilty))
        if not is_guilty:
            ledger.note("acquitted", generation=trial.number, silent_s=round(silent_s))
        return not is_guilty

    def _roll_back(self, watch: Watch) -> None:
        ledger = self._ledger
        why = (
            f"the enterprise was reached before generation {watch.number} was swapped in, and not within"
            f" {watch.limit_s} s after it; generation {watch.previous} is in force again"
        )
        way_out = f"publish a newer generation; on the device: mamplus ble accept {watch.number}"
        evidence = {"rolled_back": watch.number, "way_out": way_out}
        telling = ledger.telling("dead-man", Severity.HIGH, why, watch.previous, evidence)
        ledger.keep(standing.rolled_back(ledger.standing, telling, self._clock.boot_ns()))
        ledger.note("rolled back", generation=watch.number, in_force=watch.previous, why=why)
