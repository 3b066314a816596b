# SPDX-License-Identifier: Apache-2.0
"""Has the outbox store escalations in a thread of its own: whoever acts waits for none of its syncs.

Journey: pipeline -> [spool] -> store (`Send_alert`).

What comes while a sync goes on shares the next one. At most `most` wait in memory: then whoever hands over waits, or,
while the disk is full, the oldest go and are counted.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from mamplus_host.errors import MamplusError
from mamplus_host.outbox.store import Outbox
from mamplus_host.verdicts import Escalation

LOG = logging.getLogger("mamplus")
MAX_UNSTORED = 256
MAX_TOGETHER = 128  # escalations that share a sync


class Spool:
    """To be called in one thread, the loop's."""

    def __init__(self, outbox: Outbox, on_stored: Callable[[], object], *, most: int = MAX_UNSTORED) -> None:
        """`on_stored` is called in the thread of the spool."""
        self._outbox, self._on_stored, self._most = outbox, on_stored, most
        self._changed = threading.Condition()  # guards everything below
        self._waiting: deque[Escalation] = deque()  # the thread takes them away once they are stored
        self._is_full = self._is_over = False  # full: the disk had no room, and nobody said `retry` since then
        self._thread: threading.Thread | None = None  # not before it is needed: it costs memory
        self.stored = self.lost = self.faults = 0

    @property
    def unstored(self) -> int:
        """Return how many a full disk keeps out."""
        with self._changed:
            return len(self._waiting) if self._is_full else 0

    def hand(self, escalations: Sequence[Escalation]) -> None:
        """Have escalations stored, soon."""
        if not escalations:
            return
        with self._changed:
            self._begin()
            for one in escalations:
                self._changed.wait_for(lambda: self._is_full or len(self._waiting) < self._most)
                if len(self._waiting) >= self._most:
                    self._waiting.popleft()
                    self.lost += 1
                self._waiting.append(one)
            self._changed.notify_all()

    def retry(self) -> None:
        """Have what a full disk kept out tried again, oldest first."""
        with self._changed:
            self._is_full = False
            self._changed.notify_all()

    def settle(self) -> None:
        """Wait until all that was handed over is on the disk, or found no room there."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_full or not self._waiting)

    def close(self) -> None:
        """End the thread; what waits is lost. Before the outbox is closed."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="outbox", daemon=True)
            self._thread.start()

    def _serve(self) -> None:
        most = MAX_TOGETHER
        while batch := self._next(most):
            is_over = self._is_done_with(batch)
            most = min(2 * most, MAX_TOGETHER) if is_over else 1  # alone: one that fits, or fails, holds up no other
            with self._changed:
                for _one in batch if is_over else ():
                    self._waiting.popleft()
                self._is_full = not is_over and len(batch) == 1
                self._changed.notify_all()

    def _next(self, most: int) -> list[Escalation]:
        """Wait for something to store; nothing: it is time to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or (self._waiting and not self._is_full))
            return [] if self._is_over else list(islice(self._waiting, most))

    def _is_done_with(self, batch: Sequence[Escalation]) -> bool:
        """Store all or none; say whether they need not be tried again."""
        is_stored = False
        try:
            self._outbox.put_many(batch)
            is_stored = True
            self.stored += len(batch)
            self._on_stored()
        except MamplusError as error:
            LOG.error("%d escalations, %s first, wait in memory: %s", len(batch), batch[0].id, error)
        except Exception:  # whatever it is, it is counted, and the next one is stored
            LOG.exception("%d escalations could not be treated, %s first", len(batch), batch[0].id)
            self.faults += 1
            self.lost += not is_stored and len(batch) == 1
            return is_stored or len(batch) == 1
        return is_stored
