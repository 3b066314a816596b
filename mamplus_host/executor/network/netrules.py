# SPDX-License-Identifier: Apache-2.0
"""What the second layer says: what is refused, as rules that iptables and nftables can be told.

Journey: refusals -> [netrules] -> netrules_helper -> kernel.

Pure. The hooks decide by the same words (kernel_probes/bpf/refused.h); these rules stand for the case that
somebody takes the hooks away, and they cover what is forwarded, which no socket of this device sends. They end at the
same time as the hooks' refusal, by the kernel's wall clock. Apps are the hooks' alone.
"""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Literal

import msgspec

from mamplus_host.kernel.refusals import UNTIL_UNDONE_NS, Endpoint, Wanted

Direction = Literal["in", "out", "forward"]
DIRECTIONS: tuple[Direction, ...] = ("in", "out", "forward")
_NS = 1_000_000_000
_LAST_S = (1 << 31) - 1  # that iptables can say; what ends after 2038 is taken away by the agent
_UPKEEP = {4: (3, 11, 12), 6: (1, 2, 3, 4, 130, 131, 132, 133, 134, 135, 136, 137, 143)}  # types of ICMP
_DHCP = {4: 67, 6: 547}


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule: what of its fields is said has to be so; the first that fits decides."""

    is_pass: bool  # back to the rules of others; else the packet is dropped
    is_loopback: bool = False
    address: str = ""  # of the other side; forwarded packets: of either
    protocol: Literal["", "tcp", "udp"] = ""
    port: int = 0  # of the other side
    icmp: int = -1  # type
    below_uid: int = 0  # out: only packets of users below
    until_s: int = 0  # seconds since the epoch; 0: without end


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of both families, by direction."""

    v4: dict[Direction, list[Rule]] = {}
    v6: dict[Direction, list[Rule]] = {}

    @property
    def is_empty(self) -> bool:
        return not (self.v4 or self.v6)

    def of(self, version: int) -> dict[Direction, list[Rule]]:
        return self.v4 if version == 4 else self.v6


def rules(wanted: Wanted, guarded: Sequence[Endpoint], *, boot_ns: int, wall_s: float) -> Rules:
    """Return the rules for `wanted`, none where nothing but apps is refused. `boot_ns` and `wall_s` are of now."""
    hosts = {one: _wall_s(until, boot_ns, wall_s) for one, until in wanted.hosts.items() if until > boot_ns}
    alone, isolated = wanted.alone_until_ns > boot_ns, wanted.isolated_until_ns > boot_ns
    if not (hosts or alone or isolated):
        return Rules()

    def made(version: int) -> dict[Direction, list[Rule]]:
        passed = [Rule(is_pass=True, is_loopback=True), *_guards(guarded, version)]
        dropped = [
            Rule(is_pass=False, address=one, until_s=end)
            for one, end in hosts.items()
            if ip_address(one).version == version
        ]
        closed: list[Rule] = []
        if alone:
            until_s = _wall_s(wanted.alone_until_ns, boot_ns, wall_s)
            closed += [*_upkeep(version), *_lifeline(wanted, version, ("dhcp",)), Rule(is_pass=False, until_s=until_s)]
        if isolated:
            until_s = _wall_s(wanted.isolated_until_ns, boot_ns, wall_s)
            open_ = _lifeline(wanted, version, wanted.lifeline)
            closed += [*_upkeep(version), *open_, Rule(is_pass=False, until_s=until_s)]
        own = [*passed, *dropped, *closed]
        away = [*dropped, *(one for one in closed if not one.is_pass)]
        return {
            "in": [msgspec.structs.replace(one, below_uid=0) for one in own], "out": own, "forward": away,
        }  # fmt: skip

    return Rules(v4=made(4), v6=made(6))


def _wall_s(until_ns: int, boot_ns: int, wall_s: float) -> int:
    end_s = round(wall_s + (until_ns - boot_ns) / _NS)
    return 0 if until_ns == UNTIL_UNDONE_NS or end_s > _LAST_S else end_s


def _guards(guarded: Iterable[Endpoint], version: int) -> list[Rule]:
    found = []
    for address, port in guarded:
        if address.version == version and not port:
            found.append(Rule(is_pass=True, address=str(address)))
        elif address.version == version:
            found.append(Rule(is_pass=True, address=str(address), protocol="tcp", port=port))
            found.append(Rule(is_pass=True, address=str(address), protocol="udp", port=port))
    return found


def _upkeep(version: int) -> list[Rule]:
    return [Rule(is_pass=True, icmp=one) for one in _UPKEEP[version]]


def _lifeline(wanted: Wanted, version: int, names: Iterable[str]) -> list[Rule]:
    ports: dict[str, tuple[tuple[Literal["tcp", "udp"], int], ...]] = {
        "dns": (("udp", 53), ("tcp", 53)), "dhcp": (("udp", _DHCP[version]),), "ntp": (("udp", 123),),
    }  # fmt: skip
    return [
        Rule(is_pass=True, protocol=protocol, port=port, below_uid=wanted.system_uids)
        for name in names
        for protocol, port in ports[name]
    ]
