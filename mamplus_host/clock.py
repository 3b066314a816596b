# SPDX-License-Identifier: Apache-2.0
"""The two clocks, behind one small type so that tests can move time by hand."""

import time
from typing import Protocol


class Clock(Protocol):
    """What the stages ask of time."""

    def boot_ns(self) -> int:
        """Return CLOCK_BOOTTIME in nanoseconds: never steps, counts suspend, starts anew at boot."""

    def wall_s(self) -> float:
        """Return seconds since the epoch: may be wrong by years and may step."""


class SystemClock:
    """The kernel's clocks."""

    def boot_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def wall_s(self) -> float:
        return time.time()
