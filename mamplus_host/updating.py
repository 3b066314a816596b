# SPDX-License-Identifier: Apache-2.0
"""Runs `Update_BLE()` in a thread of its own, one at a time; the swap is the loop's business.

Journey: uplink ("generation N exists"), age -> [updating] -> store -> service.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from mamplus_host.ble import update
from mamplus_host.clock import Clock
from mamplus_host.errors import MamplusError

LOG = logging.getLogger("mamplus")
PROOF_EVERY_S = 3600.0  # at most so often is the enterprise asked whether the list is still the newest


class Updater:
    """The one update of this agent."""

    def __init__(self, state: Path, clock: Clock, on_done: Callable[[], object]) -> None:
        """`on_done` is called in the update's thread after one that did not fail."""
        self._state, self._clock, self._on_done = state, clock, on_done
        self._thread: threading.Thread | None = None
        self._asked_ns = 0
        self.fault = ""  # why the newest generation is not taken; "": it is
        self.last_bytes = self.total_bytes = 0  # that the last update cost on the network, and all since the start

    def start(self) -> None:
        """Fetch, verify and install what is newer, unless that is being done already."""
        if self._thread is None or not self._thread.is_alive():
            self._asked_ns = self._clock.boot_ns()
            self._thread = threading.Thread(target=self._update, name="update", daemon=True)
            self._thread.start()

    def prove(self) -> None:
        """Look for a new proof that the list is the newest; at most every PROOF_EVERY_S, also after a failure."""
        if self._clock.boot_ns() - self._asked_ns >= PROOF_EVERY_S * 1e9:
            self.start()

    def _update(self) -> None:
        try:
            result = update.update(self._state)
            self.fault = ""
            self.last_bytes, self.total_bytes = result.bytes, self.total_bytes + result.bytes
            self._on_done()
            if result.note:
                LOG.warning("%s", result.note)
            if result.is_long and update.compact(self._state):
                self._on_done()  # the same entries: only to let go of the files that were merged
        except MamplusError as error:
            LOG.error("%s; keeping the installed generation", error)
            self.fault = str(error)
