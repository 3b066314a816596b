# SPDX-License-Identifier: Apache-2.0
"""Which generation is served, and who waits for the next one, or for an order.

inotify on timestamp.json: whoever publishes, in this process or another, wakes every
waiting device at once; on `ordered/`: whoever orders something wakes that device. Belongs to one event loop.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from inotify_simple import INotify, flags

from mamplus_enterprise.ble import repository
from mamplus_enterprise.errors import EnterpriseError
from mamplus_enterprise.home import Home

_log = logging.getLogger(__name__)


class Waiter:
    """One long poll."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self.is_ordered = False


class News:
    """The newest generation. Start it in a running loop, and close it there."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.current = repository.current(home)
        self._waiters: dict[str, list[Waiter]] = {}  # by device: the last one is the connection that it listens to
        self._closed = False
        self._inotify = INotify()

    def start(self) -> None:
        # Watch, then look: what is published between is seen by one of the two.
        self._inotify.add_watch(str(self._home.metadata), flags.MOVED_TO)
        self._home.ordered.mkdir(exist_ok=True)
        self._orders = self._inotify.add_watch(str(self._home.ordered), flags.CLOSE_WRITE)
        asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._on_event)
        self._look()

    def close(self) -> None:
        """Let every waiter go, with what there is."""
        asyncio.get_running_loop().remove_reader(self._inotify.fileno())
        self._inotify.close()
        self._closed = True
        self._wake_all()

    @contextmanager
    def listening(self, device_id: str) -> Iterator[Waiter]:
        """Have a device woken by what comes from now on."""
        waiter = Waiter()
        waiters = self._waiters.setdefault(device_id, [])
        waiters.append(waiter)
        try:
            yield waiter
        finally:
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[device_id]

    async def newer_than(self, generation: int, wait_s: float, waiter: Waiter) -> int:
        """Return the newest generation: once it is greater than `generation`, with an order, or after `wait_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while self.current.generation <= generation and not waiter.is_ordered and not self._closed:
                    waiter.woken.clear()
                    await waiter.woken.wait()
        return self.current.generation

    def _on_event(self) -> None:
        events = self._inotify.read(timeout=0)
        if any(event.name in ("timestamp.json", "") for event in events):  # "": the queue overflowed, or a watch ended
            self._look()
        for event in events:
            if event.wd == self._orders and event.name in self._waiters:
                waiter = self._waiters[event.name][-1]
                waiter.is_ordered = True
                waiter.woken.set()

    def _look(self) -> None:
        try:
            self.current = repository.current(self._home)
        except EnterpriseError as error:
            _log.error("%s; still announcing generation %d", error, self.current.generation)
            return
        self._wake_all()

    def _wake_all(self) -> None:
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.woken.set()
