# SPDX-License-Identifier: Apache-2.0
"""What this device used lately: programs, destinations, names. A bounded memory for the shadow load.

Journey: past, /proc -> [recent] -> ble/shadow.

What the ring told lies in C until somebody asks (`collector/past.py`).

Of DNS names the kernel says only which were refused, so those of the last minutes are read from its memory, too.
Distinct values, the least recently used go first. What was suspected or refused is not remembered, and is
forgotten when it is: that a list blocks it is no surprise. Nothing here leaves the device but as what a held
generation would have blocked.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from mamplus_host.analyzer.verify import asked
from mamplus_host.ble.entry import Kind
from mamplus_host.ble.paths import spelled_path
from mamplus_host.ble.shadow import Use
from mamplus_host.events import Connect, DnsQuery, Event, Exec
from mamplus_host.verdicts import Indicator, Verdict

MAX_VALUES = {Kind.SHA256: 1024, Kind.PATH: 1024, Kind.IP: 256, Kind.DOMAIN: 256, Kind.USER: 1024, Kind.GROUP: 1024}
_QUIET = (Verdict.NOTHING, Verdict.ALLOW)


class Recent:
    """The uses of this device. One thread."""

    def __init__(self, newer: Callable[[], Iterable[Event]] = tuple) -> None:
        """`newer`: takes out the events that tell of uses since it was called last."""
        self._newer = newer
        self._uses: dict[Kind, OrderedDict[str, Use]] = {kind: OrderedDict() for kind in MAX_VALUES}

    def __len__(self) -> int:
        self._catch_up()
        return sum(len(uses) for uses in self._uses.values())

    def __iter__(self) -> Iterator[Use]:
        """Yield the uses, the latest of each kind first."""
        self._catch_up()
        for uses in self._uses.values():
            yield from reversed(uses.values())

    def note(self, event: Event) -> None:
        """Remember what `event` used, when nothing was said against it."""
        if not isinstance(event, Exec | Connect | DnsQuery) or event.head.verdict not in _QUIET:
            return
        if isinstance(event, Exec):
            if event.sha256:
                self._put(Use(Kind.SHA256, event.sha256, event.path))
            if event.path.startswith("/"):
                self._put(Use(Kind.PATH, spelled_path(event.path), event.path))
            return
        kind, value = asked(event)
        self._put(Use(kind, value, event.head.comm))

    def sample(self, uses: Iterable[Use]) -> None:
        """Remember what is in use now, as a look at /proc has it."""
        self._catch_up()
        for use in uses:
            self._put(use)

    def forget(self, indicator: Indicator | None) -> None:
        """Forget a value that has become suspicious, and every port of an address."""
        if indicator is None or indicator.kind not in ("sha256", "path", "ip", "domain"):
            return
        self._catch_up()
        uses = self._uses[Kind[indicator.kind.upper()]]
        uses.pop(indicator.value, None)
        if indicator.kind == "ip":
            for value in [
                value for value in uses if value.startswith((f"{indicator.value}:", f"[{indicator.value}]:"))
            ]:
                del uses[value]

    def _catch_up(self) -> None:
        for event in self._newer():
            self.note(event)

    def _put(self, use: Use) -> None:
        kind = Kind.IP if use.kind in (Kind.CIDR, Kind.PORT) else use.kind
        uses = self._uses[kind]
        key = f"{use.value}\0{use.by}" if kind in (Kind.USER, Kind.GROUP) else use.value  # each program under it
        uses[key] = use
        uses.move_to_end(key)
        if len(uses) > MAX_VALUES[kind]:
            uses.popitem(last=False)
