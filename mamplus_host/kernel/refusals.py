# SPDX-License-Identifier: Apache-2.0
"""The maps that say what actions refuse: apps, hosts, or all but a lifeline. kernel_probes/bpf/refused.h asks them.

Opened for each use: seldom written, and the agent that writes may not be the one that loaded the programs.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import msgspec

from mamplus_host.ble.entry import address_key, unmapped
from mamplus_host.kernel import layout
from mamplus_host.kernel.bpf import Map

UNTIL_UNDONE_NS = (1 << 64) - 1
MOST = layout.REFUSED_MAX
LIFELINE = {"dns": layout.LIFELINE_DNS, "dhcp": layout.LIFELINE_DHCP, "ntp": layout.LIFELINE_NTP}
_FIRST = bytes(4)

Endpoint = tuple[IPv4Address | IPv6Address, int]  # port 0: every port


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """All that is refused. Times in nanoseconds of CLOCK_BOOTTIME; 0: not refused."""

    isolated_until_ns: int = 0  # from all but the lifeline
    alone_until_ns: int = 0  # from all but what is guarded
    lifeline: tuple[str, ...] = ()  # of LIFELINE: what isolation leaves to users below `system_uids`
    system_uids: int = 1000
    apps: Mapping[int, int] = {}  # id of a cgroup -> until
    hosts: Mapping[str, int] = {}  # address -> until

    def keys(self) -> dict[bytes, bytes]:
        """Return what belongs into the map `refused`."""
        apps = {_key(layout.REFUSED_APP, _word(one) + bytes(8)): _word(until) for one, until in self.apps.items()}
        hosts = {_key(layout.REFUSED_HOST, address_key(one)): _word(until) for one, until in self.hosts.items()}
        return apps | hosts

    def element(self) -> bytes:
        """Return the element of the map `refusing`."""
        lifeline = sum(LIFELINE[name] for name in self.lifeline)
        return layout.REFUSING.pack(
            self.isolated_until_ns, self.alone_until_ns, len(self.apps), len(self.hosts), lifeline, self.system_uids
        )


def are_there(directory: Path) -> bool:
    """Whether the probes in `directory` know refusals at all: those of an older release do not."""
    return (directory / "refusing").exists() and (directory / "refused").exists()


def enforce(directory: Path, wanted: Wanted) -> bool:
    """Make `wanted` what the probes of `directory` refuse; False when it was that already. KernelRefused."""
    with _maps(directory) as (refused, refusing):
        there, keys, element = _content(refused), wanted.keys(), wanted.element()
        if there == keys and refusing.get(_FIRST) == element:
            return False
        for key, value in keys.items():
            if there.get(key) != value:
                refused.set(key, value)
        refusing.set(_FIRST, element)  # after the keys: a count without them would refuse nothing
        for key in set(there) - set(keys):
            refused.remove(key)
        return True


def read(directory: Path) -> Wanted:
    """Return what the probes of `directory` refuse."""
    with _maps(directory) as (refused, refusing):
        fields = layout.REFUSING.unpack(refusing.get(_FIRST) or bytes(layout.REFUSING.size))
        now, there = dict(zip(layout.REFUSING_FIELDS, fields, strict=True)), _content(refused)
    apps: dict[int, int] = {}
    hosts: dict[str, int] = {}
    for key, value in there.items():
        kind, _pad, what = layout.REFUSED_KEY.unpack(key)
        until_ns = int.from_bytes(value, sys.byteorder)
        if kind == layout.REFUSED_APP:
            apps[int.from_bytes(what[:8], sys.byteorder)] = until_ns
        else:
            hosts[str(unmapped(ip_address(what)))] = until_ns
    return Wanted(
        isolated_until_ns=now["isolated_until_ns"], alone_until_ns=now["alone_until_ns"],
        lifeline=tuple(name for name, bit in LIFELINE.items() if now["lifeline"] & bit),
        system_uids=now["system_uids"], apps=apps, hosts=hosts,
    )  # fmt: skip


def guarded(directory: Path) -> list[Endpoint]:
    """Return what the kernel holds as never to be refused: the enterprise, and what the policy names."""
    with Map.pinned(directory / "guard", layout.GUARD_KEY.size, 4) as guard:
        found = [layout.GUARD_KEY.unpack(key) for key in list(guard.keys())]
    return sorted(((unmapped(ip_address(addr)), _host_order(port)) for addr, port, _pad in found), key=str)


@contextmanager
def _maps(directory: Path) -> Iterator[tuple[Map, Map]]:
    with (
        Map.pinned(directory / "refused", layout.REFUSED_KEY.size, 8) as refused,
        Map.pinned(directory / "refusing", 4, layout.REFUSING.size) as refusing,
    ):
        yield refused, refusing


def _content(refused: Map) -> dict[bytes, bytes]:
    found = {key: refused.get(key) for key in list(refused.keys())}
    return {key: value for key, value in found.items() if value is not None}


def _key(kind: int, what: bytes) -> bytes:
    return layout.REFUSED_KEY.pack(kind, 0, what)


def _word(value: int) -> bytes:
    return value.to_bytes(8, sys.byteorder)


def _host_order(port_be: int) -> int:
    return int.from_bytes(port_be.to_bytes(2, sys.byteorder), "big")
