# SPDX-License-Identifier: Apache-2.0
"""Keeps our iptables rules in place without anybody waiting for iptables: one helper at a time, in a thread.

Journey: service, tamper watch -> [netfilter_keeper] -> netfilter -> netfilter_helper.

Whoever holds the lock of iptables holds up a helper, never the service's loop. What failed is tried again, after
FIRST_RETRY_S, then twice as long, MAX_RETRY_S at most; `status` says why, and when.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from mamplus_host.config import Config
from mamplus_host.errors import MamplusError
from mamplus_host.executor.network import netfilter

LOG = logging.getLogger("mamplus")
FIRST_RETRY_S = 5.0
MAX_RETRY_S = 300.0
Job = Literal["", "apply", "mend"]


class Mended(msgspec.Struct, frozen=True):
    """What a look at the rules found, and what came of it."""

    missing: list[str]  # in words; it was put back unless `fault` says why not
    fault: str


class NetfilterKeeper:
    """Our rules in all namespaces of the scope. One thread calls, another one works."""

    def __init__(
        self, config: Config, packet_pins: Callable[[], tuple[Path, Path]], *, renew: Callable[[], bool],
    ) -> None:  # fmt: skip
        """`packet_pins` returns the pins for "in" and "out"; `renew`: whether other programs lie behind them."""
        self._config, self._packet_pins, self._renew = config, packet_pins, renew
        self._thread: threading.Thread | None = None
        self._next: Job = ""
        self._next_s = 0.0  # monotonic
        self._retry_s = FIRST_RETRY_S
        self._stood = False  # once at least: what is missing later was taken away
        self._is_told = False  # that the rules cannot be looked at
        self._mended: queue.SimpleQueue[Mended] = queue.SimpleQueue()
        self.fault = ""  # why the rules are not what they should be; "": they are

    def apply(self, wait_s: float = 0.0) -> None:
        """Make the rules what they should be, and wait for that no longer than `wait_s`."""
        self._next, self._next_s = "apply", 0.0
        self.tick()
        if self._thread is not None:
            self._thread.join(wait_s)
            if self._thread.is_alive():
                self.fault = "iptables has not answered yet"

    def look(self) -> None:
        """Look soon whether they are in place, where they ever were, and put back what is missing; `take` tells."""
        if self._stood and not self._next:
            self._next, self._next_s = "mend", 0.0
            self.tick()

    def tick(self) -> None:
        """Begin what is due."""
        if self._next and time.monotonic() >= self._next_s and not self._is_busy():
            job, self._next = self._next, ""
            self._thread = threading.Thread(target=self._work, args=(job,), name="netfilter", daemon=True)
            self._thread.start()

    def take(self) -> list[Mended]:
        """Return what the looks found since the last call, where that is worth telling."""
        found = []
        while not self._mended.empty():
            found.append(self._mended.get())
        return found

    def status(self) -> str:
        """Return "kept", or what is in the way and when it is tried again."""
        if not self.fault:
            return "kept"
        left_s = max(0.0, self._next_s - time.monotonic())
        return f"{self.fault}; " + (f"tried again in {left_s:.0f} s" if self._next else "being tried")

    def _is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    # --- in the thread -----------------------------------------------------------------------

    def _work(self, job: Job) -> None:
        missing: list[str] = []
        try:
            missing = self._missing() if job == "mend" else []
            if missing or job == "apply":
                netfilter.apply(self._config, *self._packet_pins(), renew=self._renew())
        except Exception as error:  # whatever it was, the rules are not known to stand, and it is tried again
            self._failed(job, error, missing)
            return
        self._stood, self._is_told, self._retry_s, self.fault = True, False, FIRST_RETRY_S, ""
        if missing:
            self._mended.put(Mended(missing, ""))

    def _missing(self) -> list[str]:
        found = netfilter.check(self._config, *self._packet_pins())
        return [f"{where}: {what}" for where, missing in found.items() for what in missing]

    def _failed(self, job: Job, error: Exception, missing: list[str]) -> None:
        why = str(error) if isinstance(error, MamplusError) else f"{type(error).__name__}: {error}"
        if why != self.fault:
            LOG.error("%s; connections that are open already are not cut", why)
        self.fault = why
        if job == "mend" and not self._is_told:
            self._is_told = True
            self._mended.put(Mended(missing, why))
        self._next_s, self._retry_s = time.monotonic() + self._retry_s, min(2 * self._retry_s, MAX_RETRY_S)
        self._next = job
