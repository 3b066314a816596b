# SPDX-License-Identifier: Apache-2.0
"""What no list can block: the way to the enterprise, and what policy adds.

Principle 1: a device is never locked out of its own enterprise. The kernel asks this
set before it asks the BLE; here it is made, and entries that it overrules are told apart.
Pure: addresses in, addresses out.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from mamplus_host.ble import guarded
from mamplus_host.ble.endpoint import Endpoint, endpoint
from mamplus_host.ble.entry import Entry, Kind, address_key, canonical, unmapped
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import Verdict

MAX_GUARDS = 64  # MAMPLUS_GUARD_MAX of mamplus_tables.h
EVERY_PORT = 0
_SYSTEM = frozenset({"root", "uid:0", "gid:0"})  # without whose programs there is no device

Guard = tuple[IPv4Address | IPv6Address, int]  # port 0: every port


def guards(addresses: Sequence[str], port: int, policy: Iterable[Guard] = ()) -> tuple[Guard, ...]:
    """Return the never-block set: the enterprise's `addresses` with its `port` (1-65535), then `policy`.

    `addresses` are what the enterprise's name resolved to at enrolment. ConfigInvalid when
    more than MAX_GUARDS come together: the kernel holds no more.
    """
    chosen = dict.fromkeys([(unmapped(ip_address(text)), port) for text in addresses])
    chosen |= dict.fromkeys((unmapped(address), port) for address, port in policy)
    if len(chosen) > MAX_GUARDS:
        raise ConfigInvalid(
            f"{len(chosen)} addresses are never to be blocked, want at most {MAX_GUARDS}: shorten the policy"
        )
    return tuple(chosen)


def is_guarded(entry: Entry, never: Iterable[Guard], host: str = "") -> bool:
    """Whether `entry` would refuse something of the set `never`, or the enterprise's name `host`, and so is overruled.

    A guard with one port overrules an entry for that port only; the entry stands for the others.
    """
    if entry.verdict is Verdict.ALLOW:
        return False
    if entry.kind in (Kind.IP, Kind.CIDR, Kind.PORT):
        at = endpoint(entry.kind, entry.value)
        return any(_covers(at, address, port) for address, port in never)
    if is_system(entry.kind, entry.value):
        return True
    if entry.kind is Kind.PATH:
        return bool(guarded.covered(entry.value))
    if entry.kind is Kind.DOMAIN and host:
        name, value = host.lower().rstrip("."), entry.value
        return name == value.removeprefix("=") or (not value.startswith("=") and name.endswith("." + value))
    return False


def is_system(kind: Kind, value: str) -> bool:
    """Say whether a canonical value is the user or group that the device itself runs by."""
    return kind in (Kind.USER, Kind.GROUP) and value in _SYSTEM


def _covers(at: Endpoint, address: IPv4Address | IPv6Address, port: int) -> bool:
    if at.port and port and at.port != port:
        return False
    number = int.from_bytes(address_key(str(address)), "big")
    is_family = at.prefix >= 96 or address.version == 6 or (at.port and not at.prefix)
    return bool(is_family) and (number ^ int.from_bytes(at.addr, "big")) >> (128 - at.prefix) == 0


def names(host: str) -> tuple[str, ...]:
    """Return the DNS names that no list can block: the enterprise's, when it is named and not numbered."""
    try:
        return (canonical(Kind.DOMAIN, host),) if host else ()
    except ConfigInvalid:  # an address, or a name without a dot: no list can hold it
        return ()
