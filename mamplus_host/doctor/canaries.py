# SPDX-License-Identifier: Apache-2.0
"""Values of the list in force that can be tried without harm: what the kernel must refuse here and now."""

import time
from collections.abc import Iterator
from pathlib import Path

from mamplus_host.analyzer.verify import verify
from mamplus_host.ble.entry import Kind
from mamplus_host.ble.format import Generation, Section
from mamplus_host.ble.stack import Stack
from mamplus_host.ble.store import BleStore
from mamplus_host.verdicts import Verdict

SECTIONS = {Section.SHA256: Kind.SHA256, Section.IP4: Kind.IP, Section.IP6: Kind.IP, Section.DOMAIN: Kind.DOMAIN}
MAX_EACH = 3  # of a kind: one may be above the memory that is granted to the list, or guarded by the policy
_MAX_SLOTS = 2000  # looked at in one section of one file
_SOON_S = 60.0


def canaries(state: Path, generation: int) -> dict[Kind, list[str]]:
    """Return values that `generation`, which the kernel asks, blocks; at most MAX_EACH of a kind."""
    store = BleStore(state)
    record = next((one for one in store.records() if one.number == generation), None)
    ble = store.open_state(record.state) if record is not None else None
    if ble is None:
        return {}
    with ble:
        return blocked(ble, time.time())


def blocked(ble: Stack, now_s: float) -> dict[Kind, list[str]]:
    """Return values that `ble` blocks as a whole, and still will in a minute."""
    found: dict[Kind, list[str]] = {}
    for part in ble.parts():
        for section, kind in SECTIONS.items():
            for value in _values(part, section):
                values = found.setdefault(kind, [])
                if len(values) >= MAX_EACH:
                    break
                if value not in values and _is_blocked(ble, kind, value, now_s):
                    values.append(value)
    return found


def _values(part: Generation, section: Section) -> Iterator[str]:
    view = part.sections.get(section)
    if view is not None:
        for slot in range(view.first, view.first + min(view.count, _MAX_SLOTS)):
            yield part.value(slot)[1]


def _is_blocked(ble: Stack, kind: Kind, value: str, now_s: float) -> bool:
    name = value.removeprefix("=")
    return all(verify(ble, kind, name, now_s=at_s).verdict is Verdict.BLOCK for at_s in (now_s, now_s + _SOON_S))
