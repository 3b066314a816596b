# SPDX-License-Identifier: Apache-2.0
"""What each layer may say, whoever signed it: checked at the enterprise before it signs, and on the device.

`ble-emergency` and `ble-feeds` are signed by keys that lie on a server. Who steals one can add
refusals for a while; not allow anything, not write a rule of another kind, not block for good, and not
block the Internet by one entry: 256 entries of /8 would, so the guard, the shadow load and the
dead-man timer stand behind. `ble-enterprise` has no limit but the format's.
"""

from dataclasses import dataclass

from mamplus_host.ble._file import ffi, lib
from mamplus_host.ble.format import KEY_SIZE, Generation, Section
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.native import reading
from mamplus_host.errors import BleInvalid
from mamplus_host.verdicts import Verdict

EMERGENCY_ENTRIES = 10_000
FEED_DAYS = 90  # an entry of a feed ends at most so long after its list was made
_REFUSALS = frozenset({Verdict.BLOCK, Verdict.SUSPECT})
_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What `struct mamplus_ble_limits` says, in words."""

    entries: int = _MAX
    verdicts: frozenset[Verdict] = _REFUSALS
    sections: frozenset[Section] = frozenset(Section)
    life_s: int = 0
    prefix4: int = 0
    prefix6: int = 0


LIMITS = {
    Layer.EMERGENCY: Limits(entries=EMERGENCY_ENTRIES),
    Layer.FEEDS: Limits(
        sections=frozenset({Section.SHA256, Section.IP4, Section.IP6, Section.NET, Section.DOMAIN}),
        life_s=FEED_DAYS * 86_400, prefix4=8, prefix6=16,
    ),
}  # fmt: skip
_WORDS = {
    "verdict": "a verdict other than block and suspect",
    "kind": "a kind that feeds may not have; want sha256, ip, cidr or domain",
    "end": f"no end, or one more than {FEED_DAYS} days after the list was made",
    "size of network": "a port, or a network shorter than /8 (IPv6: /16)",
    "number of entries": "more entries than it may",
}


def check_limits(part: Generation, layer: Layer) -> None:
    """Raise BleInvalid when an entry of `part`, a list or a delta of `layer`, is more than its key may say."""
    limits = LIMITS.get(layer)
    if limits is None:
        return
    if part.total > limits.entries:  # a delta's is what stands after it; installing holds it to that
        raise BleInvalid(f"{layer.role} holds {part.total} entries, want at most {limits.entries}")
    wanted = ffi.new("struct mamplus_ble_limits *")
    wanted.entries, wanted.life_s, wanted.prefix4, wanted.prefix6 = (
        limits.entries, limits.life_s, limits.prefix4, limits.prefix6,
    )  # fmt: skip
    wanted.verdicts, wanted.sections = _bits(limits.verdicts), _bits(limits.sections)
    fault = ffi.new("struct mamplus_ble_fault *")
    with reading(part.buffer) as data:
        if lib.mamplus_ble_within(data, len(part.buffer), wanted, fault):
            raise BleInvalid(_said(part, layer, fault))


def _bits(numbers: "frozenset[Verdict] | frozenset[Section]") -> int:
    return sum(1 << int(number) for number in numbers)


def _said(part: Generation, layer: Layer, fault: "ffi.CData") -> str:
    what = ffi.string(fault.what).decode()
    words = _WORDS.get(what, f"a {what} that does not fit")
    if fault.section not in KEY_SIZE:
        return f"{layer.role} holds {words}: its key may not say that"
    view = part.sections[Section(fault.section)]
    kind, value = part.value(view.first + fault.index)
    return f"{layer.role} holds {kind.name.lower()} {value[:200]!r} with {words}: its key may not say that"
