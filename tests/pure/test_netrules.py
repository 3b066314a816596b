# SPDX-License-Identifier: Apache-2.0
"""What the second layer says, as values: guards first, nobody left out, ends where the hooks end."""

from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from mamplus_host.clock import SystemClock
from mamplus_host.config import Config, Paths
from mamplus_host.executor.network.netrules import Rule, Rules, rules
from mamplus_host.executor.network.netrules_helper import nft_text
from mamplus_host.executor.network.refusals import Network, Refusal
from mamplus_host.kernel.refusals import UNTIL_UNDONE_NS, Endpoint, Wanted

_NS = 1_000_000_000
GUARDED: list[Endpoint] = [(ip_address("192.0.2.1"), 8443), (ip_address("2001:db8::1"), 0)]
EVERY = ("dns", "dhcp", "ntp")


def made_of(wanted: Wanted, guarded: Sequence[Endpoint]) -> Rules:
    return rules(wanted, guarded, boot_ns=100 * _NS, wall_s=1_700_000_000.0)


def drops(listed: list[Rule]) -> list[Rule]:
    return [rule for rule in listed if not rule.is_pass]


def test_where_only_apps_are_refused_there_are_no_made_of() -> None:
    assert made_of(Wanted(apps={7: UNTIL_UNDONE_NS}), GUARDED).is_empty
    assert made_of(Wanted(hosts={"192.0.2.9": 99 * _NS}), GUARDED).is_empty, "its time is over"


def test_what_is_guarded_is_let_through_before_anything_is_dropped() -> None:
    wanted = Wanted(isolated_until_ns=UNTIL_UNDONE_NS, lifeline=EVERY, hosts={"192.0.2.9": UNTIL_UNDONE_NS})
    made = made_of(wanted, GUARDED)

    for version, address in ((4, "192.0.2.1"), (6, "2001:db8::1")):
        for direction in ("in", "out"):
            listed = made.of(version)[direction]
            first_drop = next(at for at, rule in enumerate(listed) if not rule.is_pass)
            assert any(rule.address == address for rule in listed[:first_drop])
            assert listed[0].is_loopback
            assert drops(listed)[-1] == Rule(is_pass=False), "the last one drops what is left"


def test_a_host_is_dropped_in_its_own_family_only_and_until_its_end() -> None:
    made = made_of(Wanted(hosts={"192.0.2.9": 160 * _NS, "2001:db8::9": UNTIL_UNDONE_NS}), GUARDED)

    assert drops(made.v4["out"]) == [Rule(is_pass=False, address="192.0.2.9", until_s=1_700_000_060)]
    assert drops(made.v6["forward"]) == [Rule(is_pass=False, address="2001:db8::9")]


def test_forwarded_packets_have_no_lifeline() -> None:
    made = made_of(Wanted(isolated_until_ns=UNTIL_UNDONE_NS, lifeline=EVERY), GUARDED)

    assert made.v4["forward"] == [Rule(is_pass=False)]


def test_only_the_systems_own_programs_use_the_lifeline() -> None:
    made = made_of(Wanted(isolated_until_ns=UNTIL_UNDONE_NS, lifeline=("ntp",)), ())

    lifeline = [rule for rule in made.v4["out"] if rule.port]
    assert lifeline == [Rule(is_pass=True, protocol="udp", port=123, below_uid=1000)]
    assert all(rule.below_uid == 0 for rule in made.v4["in"]), "nobody owns a packet that comes in"


def test_all_but_the_enterprise_leaves_dhcp_for_without_an_address_there_is_no_way_to_it() -> None:
    made = made_of(Wanted(alone_until_ns=UNTIL_UNDONE_NS), GUARDED)

    assert [rule.port for rule in made.v4["out"] if rule.port and not rule.address] == [67]


def test_an_end_that_iptables_cannot_say_is_none() -> None:
    years_ns = 100 * 365 * 86_400 * _NS
    made = made_of(Wanted(hosts={"192.0.2.9": years_ns}), ())

    assert drops(made.v4["out"]) == [Rule(is_pass=False, address="192.0.2.9")]


def test_nftables_is_told_both_sides_of_what_is_forwarded() -> None:
    text = nft_text(made_of(Wanted(hosts={"192.0.2.9": UNTIL_UNDONE_NS}), ()))
    forward = text.partition("chain forward")[2]

    assert "ip saddr 192.0.2.9 drop" in forward
    assert "ip daddr 192.0.2.9 drop" in forward


class _Clock(SystemClock):
    def __init__(self) -> None:
        self.wall, self.up = 1e6, 100.0

    def wall_s(self) -> float:
        return self.wall

    def boot_ns(self) -> int:
        return round(self.up * _NS)


def test_dates_follow_a_clock_that_is_set_and_leave_one_alone_that_is_slewed(tmp_path: Path) -> None:
    clock, told = _Clock(), list[Rules]()
    network = Network(Config(paths=Paths(state=str(tmp_path), bpffs=str(tmp_path / "none"))), clock)
    network.second = cast(Any, SimpleNamespace(follow=told.append, poke=lambda: None))
    network.put("an-action", Refusal(kind="host", what="192.0.2.9", ttl_s=600))
    network.enforce()

    def end_s() -> int:
        """When the rules say that it ends, seconds from now by the device's clock."""
        return round(drops(told[-1].v4["out"])[0].until_s - clock.wall)

    assert end_s() == 600
    clock.wall, clock.up = clock.wall + 61.5, clock.up + 60
    network.tick()
    assert (len(told), end_s()) == (1, 538), "a second or two too early, and no rule is made anew"
    for set_to in (1.7e9, 5.0):
        clock.wall = set_to
        network.tick()
        assert end_s() == 540
