# SPDX-License-Identifier: Apache-2.0
"""How long versions are kept, and which contents are packed.

Journey: vault -> [vault/keeping] -> vault/store, vault/pack.
"""

from mamplus_host.clock import ListClock
from mamplus_host.config import Limits
from mamplus_host.executor.vault.pack import MIN_BYTES, Packing
from mamplus_host.executor.vault.store import Store

_PACKED_AT_ONCE = 64


class Keeping:
    """What is done with every tick, a part at a time."""

    def __init__(self, store: Store, *, limits: Limits, clock: ListClock) -> None:
        self._store, self._limits, self._clock = store, limits, clock
        self._packing: Packing | None = None

    def tidy(self) -> None:
        """Drop versions that are too many or too old, and have what is seldom needed packed; with every tick."""
        limits = self._limits
        if self._packing is not None:
            sizes = self._packing.result()
            if sizes is None:
                return
            self._packing = None
            self._store.note_stored(sizes)
            for sha256 in filter(self._store.is_needed_now, sizes):  # became the newest one meanwhile
                self._store.objects.unpack(sha256)
            return
        # Versions bear the clock's time. One that is ahead of what was signed makes none of them old; nor does the
        # signed time where the clock is behind it.
        now_s = min(self._clock.wall_s(), self._clock.list_s())
        before = now_s - limits.vault_version_days * 86_400
        self._store.retire(most=limits.vault_versions, before=before)
        todo = self._store.seldom_needed(MIN_BYTES, _PACKED_AT_ONCE)
        if todo:
            self._packing = self._store.objects.begin_packing(todo)

    def await_packing(self) -> None:
        """Wait for what `tidy` began, and take it in."""
        if self._packing is not None:
            self._packing.result(wait=True)
            self.tidy()

    def end(self) -> None:
        """Leave what is being packed as it was."""
        if self._packing is not None:
            self._packing.end()
