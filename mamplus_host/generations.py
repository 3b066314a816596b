# SPDX-License-Identifier: Apache-2.0
"""Which generation is in force: from the store into the kernel's tables, then to the analyzer.

Journey: store -> [generations] -> kernel tables, analyzer.

Everything here runs in the service's loop. The old generation is in force until the new one's
tables are asked; a list that cannot be loaded changes nothing.
"""

import logging
from collections.abc import Callable
from typing import Any

from mamplus_host.ble import guard
from mamplus_host.ble.format import Generation
from mamplus_host.ble.store import BleStore
from mamplus_host.clock import ListClock
from mamplus_host.config import Config
from mamplus_host.enterprise import load_enterprise
from mamplus_host.kernel.tables import Tables

LOG = logging.getLogger("mamplus")
CLOCK_STEP_S = 60.0  # a clock set back by more than this may have ended entries too early


class Generations:
    """The generation in force, and the way of the next one."""

    def __init__(
        self, config: Config, *, clock: ListClock, tables: Tables, use: Callable[[Generation], object],
    ) -> None:  # fmt: skip
        """`use` gives a generation whose tables are loaded to the analyzer."""
        self._config, self._clock, self._tables, self._use = config, clock, tables, use
        self._store = BleStore(config.state)
        self.ble: Generation | None = None
        self.loaded: dict[str, Any] = {}  # what came of loading it, for `status`
        self._next_end_s = 0  # when the first enforced entry ends; 0: none ends
        self._loaded_at_s = 0.0  # by the time that entries end by

    @property
    def number(self) -> int:
        """The generation in force; 0: none."""
        return self.ble.number if self.ble else 0

    def reload(self) -> bool:
        """Enforce the installed generation: tables first, then the analyzer, then what is held.

        False when it is in force already. KernelRefused or BleInvalid: the old one stays.
        """
        ble = self._store.current()
        if self._store.note:
            LOG.warning("%s", self._store.note)
        if ble is None or (self.ble is not None and self.ble.number == ble.number):
            return False
        self._load(ble)
        previous, self.ble = self.ble, ble
        self._use(ble)
        if previous is not None:
            previous.close()
        LOG.info("enforcing generation %d, %d entries", ble.number, ble.count)
        return True

    def load_again(self) -> None:
        """Build the tables of the generation in force anew: what is guarded, or what has ended, has changed."""
        if self.ble is not None:
            self._load(self.ble)

    def tick(self) -> None:
        """Let go of entries that have reached their date; take those back that a wrong clock had ended."""
        now_s = self._clock.list_s()
        if (self._next_end_s and now_s >= self._next_end_s) or now_s < self._loaded_at_s - CLOCK_STEP_S:
            self.load_again()

    def guard_enterprise(self) -> None:
        """The way to the enterprise is never blocked, whatever the list says (principle 1)."""
        enterprise = load_enterprise(self._config.state)
        if enterprise is not None:
            self._tables.set_guard(guard.guards(enterprise.addresses, enterprise.endpoint.port))

    def _load(self, ble: Generation) -> None:
        self._loaded_at_s = self._clock.list_s()
        report = self._tables.load(ble, self._loaded_at_s, guarded_names=self._guarded_names())
        self.loaded = {
            "enforced": report.entries, "not_enforced": report.not_enforced,
            "load_ms": round(report.took_ns / 1e6, 3),
        }  # fmt: skip
        self.loaded |= {"not_enforced_by_kind": report.by_kind} if report.by_kind else {}
        self._next_end_s = report.next_end_s

    def _guarded_names(self) -> tuple[str, ...]:
        enterprise = load_enterprise(self._config.state)
        return guard.names(enterprise.endpoint.host) if enterprise is not None else ()
