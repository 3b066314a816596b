# SPDX-License-Identifier: Apache-2.0
"""Which generation is served, and who waits for the next one.

inotify on timestamp.json: whoever publishes, in this process or another, wakes every
waiting device at once. Belongs to one event loop.
"""

import asyncio
import logging

from inotify_simple import INotify, flags

from mamplus_enterprise.ble import repository
from mamplus_enterprise.errors import EnterpriseError
from mamplus_enterprise.home import Home

_log = logging.getLogger(__name__)


class News:
    """The newest generation. Start it in a running loop, and close it there."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.current = repository.current(home)
        self._changed = asyncio.Event()
        self._closed = False
        self._inotify = INotify()

    def start(self) -> None:
        # Watch, then look: what is published between is seen by one of the two.
        self._inotify.add_watch(str(self._home.metadata), flags.MOVED_TO)
        asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._on_event)
        self._look()

    def close(self) -> None:
        """Let every waiter go, with what there is."""
        asyncio.get_running_loop().remove_reader(self._inotify.fileno())
        self._inotify.close()
        self._closed = True
        self._changed.set()

    async def newer_than(self, generation: int, wait_s: float) -> int:
        """Return the newest generation: when it is greater than `generation`, or after `wait_s` seconds."""
        try:
            async with asyncio.timeout(wait_s):
                while self.current.generation <= generation and not self._closed:
                    await self._changed.wait()
        except TimeoutError:
            pass
        return self.current.generation

    def _on_event(self) -> None:
        names = {event.name for event in self._inotify.read(timeout=0)}
        if "timestamp.json" in names or "" in names:  # "": the queue overflowed, or the watch ended
            self._look()

    def _look(self) -> None:
        try:
            self.current = repository.current(self._home)
        except EnterpriseError as error:
            _log.error("%s; still announcing generation %d", error, self.current.generation)
            return
        self._changed.set()
        self._changed = asyncio.Event()
