# SPDX-License-Identifier: Apache-2.0
"""`Request_analysis`: the hand-over from collector to analyzer, deduplicated and bounded.

The same refusal repeated within `window_s` becomes one alert with a count, so that a
program that tries an address ten thousand times costs one escalation. What is folded is
counted, never forgotten.
"""

from collections import OrderedDict
from collections.abc import Hashable


class Repeats:
    """Which alerts were raised recently, by what makes two of them the same."""

    def __init__(self, *, window_s: float = 60.0, max_keys: int = 4096) -> None:
        self._window_ns = int(window_s * 1e9)
        self._max_keys = max_keys
        self._seen: OrderedDict[Hashable, tuple[int, str]] = OrderedDict()
        self.folded = 0

    def first(self, key: Hashable, alert_id: str, *, boot_ns: int) -> str:
        """Return `alert_id` when `key` was not seen within the window, else the id it was seen under."""
        known = self._seen.get(key)
        if known is not None and boot_ns - known[0] < self._window_ns:
            self.folded += 1
            return known[1]
        self._seen[key] = (boot_ns, alert_id)
        self._seen.move_to_end(key)
        if len(self._seen) > self._max_keys:
            self._seen.popitem(last=False)
        return alert_id

    def forget(self) -> None:
        """Forget everything: a new generation may say something else about the same things."""
        self._seen.clear()
