# SPDX-License-Identifier: Apache-2.0
"""Notices that our iptables rules are gone, without reading them at every look.

The number of entries and bytes of each filter table is asked at every look (two system calls a namespace). When
one is another than before, and every FULL_EVERY_S anyway, the rules themselves are to be read: netfilter_keeper.
"""

import socket

from mamplus_host.config import Config
from mamplus_host.kernel._native import ffi, lib

FULL_EVERY_S = 600.0  # a rule may be replaced by one of the same size; the helper takes 0.2 s of a core
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Sizes:
    """How large the filter tables of the scope's namespaces are."""

    def __init__(self, config: Config) -> None:
        places = [f"/run/netns/{name}" for name in config.scope.netns] or [""]
        self._sockets = [
            (int(family), number)
            for place in places
            for family in _FAMILIES
            if (number := lib.mamplus_rules_socket(place.encode(), family)) >= 0
        ]
        self._entries, self._bytes = ffi.new("uint32_t *"), ffi.new("uint32_t *")

    def now(self) -> list[tuple[int, int]]:
        """Return entries and bytes of each; (0, -errno) for one that cannot be asked."""
        found = []
        for family, number in self._sockets:
            error = lib.mamplus_rules_about(number, family, self._entries, self._bytes)
            found.append((0, error) if error else (self._entries[0], self._bytes[0]))
        return found

    def close(self) -> None:
        for _family, number in self._sockets:
            socket.close(number)
        self._sockets = []


class Rules:
    """The filter tables of the scope's namespaces."""

    def __init__(self, config: Config) -> None:
        self._sizes = Sizes(config)
        self._seen = self._sizes.now()
        self._full_s = 0.0

    def look(self, now_s: float) -> bool:
        """Whether the rules are to be read now; `now_s` is of a monotonic clock."""
        seen, self._full_s = self._sizes.now(), self._full_s or now_s  # the start has just written them
        if seen == self._seen and now_s - self._full_s < FULL_EVERY_S:
            return False
        self._seen, self._full_s = seen, now_s
        return True

    def settle(self) -> None:
        """Take the tables as they are: we have just written them."""
        self._seen = self._sizes.now()

    def close(self) -> None:
        self._sizes.close()
