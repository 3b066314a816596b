# SPDX-License-Identifier: Apache-2.0
"""Refusing an app, a host, everything but the enterprise, and isolation: by the hooks, seen from both ends."""

import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mamplus_host.clock import DeviceClock
from mamplus_host.errors import ActionFailed
from mamplus_host.executor import steps
from mamplus_host.executor.actions.isolate import Isolate
from mamplus_host.executor.actions.refuse import Refuse
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.network.refusals import Network
from mamplus_host.executor.processes.process import Processes
from mamplus_host.executor.shape import Facts, State
from mamplus_host.kernel import layout, refusals
from mamplus_host.kernel.refusals import Wanted

from . import networld
from .conftest import Agent
from .networld import DHCP, DNS, ENTERPRISE, HOST4, HOST6, NTP, OTHER4, OTHER6, PORT, World

pytestmark = pytest.mark.kernel
_NS = 1_000_000_000
_YEAR_S = 365 * 86_400
BOTH = pytest.mark.parametrize(("host", "other"), [(HOST4, OTHER4), (HOST6, OTHER6)], ids=["IPv4", "IPv6"])
MAPPED = pytest.mark.parametrize("host", [HOST4, HOST6, f"::ffff:{HOST4}"])


class Device:
    """An agent's hooks, what actions do to them, and the world outside."""

    def __init__(self, agent: Agent, world: World) -> None:
        self.agent, self.world, self.clock = agent, world, DeviceClock(agent.config.state)
        self.open()

    def open(self) -> None:
        """Begin as the next agent would."""
        guarded = GuardSet.of_pids([])
        self.network = Network(self.agent.config, self.clock)
        processes = Processes.of(self.agent.config, guarded)
        self.refuse, self.isolate = Refuse(self.network, processes, guarded), Isolate(self.network)

    def app(self) -> dict[str, Any]:
        return {"tgid": self.world.pid, "boot_ns": self.clock.boot_ns()}

    def do(self, deed: Refuse | Isolate, **target: Any) -> Facts:
        facts = deed.prepare("an-action", target)
        assert deed.verify(facts) is State.UNDONE
        deed.do(facts)
        assert deed.verify(facts) is State.DONE
        return facts

    def undo(self, deed: Refuse | Isolate, facts: Facts) -> None:
        deed.undo(facts)
        assert deed.verify(facts) is State.UNDONE


@pytest.fixture
def device(attach: Callable[..., Agent], cgroup: Path) -> Iterator[Device]:
    app = cgroup / "app"
    app.mkdir()
    with networld.world() as world:
        agent = attach(scope={"cgroup": str(cgroup), "netns": [world.netns]})
        agent.config.state.mkdir(exist_ok=True)
        world.enter(app)
        try:
            yield Device(agent, world)
        finally:
            world.end()
            agent.kernel.tables.counters()
    app.rmdir()


@BOTH
def test_a_refused_host_is_refused_to_everybody_and_no_other_host_is(device: Device, host: str, other: str) -> None:
    facts = device.do(device.refuse, address=host)

    assert device.world.act("tcp", host) == "EPERM"
    assert device.world.act("udp", host) == "EPERM"
    assert device.world.act("tcp", other) == "ok"
    assert device.world.act("udp", other) == "ok"

    device.undo(device.refuse, facts)
    assert device.world.act("tcp", host) == "ok"


@pytest.mark.parametrize("host", [HOST4, HOST6])
def test_connections_that_stand_lose_their_traffic_in_both_directions(device: Device, host: str) -> None:
    for how, port in (("tcp", PORT), ("udp-open", NTP)):
        device.world.act(how, host, port)
        assert device.world.act("say", host, port) == "ok"

    facts = device.do(device.refuse, address=host)
    before = device.world.seen()
    tcp, udp = device.world.act("say", host, PORT), device.world.act("say", host, NTP)

    assert (tcp, udp) == ("silent", "EPERM")  # TCP tries on by itself; a datagram's sender is told
    assert device.world.seen() == before
    device.undo(device.refuse, facts)
    assert device.world.act("say", host, NTP) == "ok"


@MAPPED
def test_a_refused_app_reaches_nobody_and_another_app_everybody(device: Device, host: str) -> None:
    facts = device.do(device.refuse, **device.app())

    assert device.world.act("tcp", host) == "EPERM"
    assert device.world.act("udp", host) == "EPERM"

    device.world.enter(device.agent.cgroup)  # another app, for the hooks
    assert device.world.act("tcp", host) == "ok"
    device.undo(device.refuse, facts)


def test_what_an_app_puts_into_cgroups_below_its_own_is_refused_with_it(device: Device) -> None:
    below = device.agent.cgroup / "app" / "below"
    below.mkdir()
    facts = device.do(device.refuse, **device.app())
    device.world.enter(below)

    assert device.world.act("tcp", HOST4) == "EPERM"

    device.undo(device.refuse, facts)
    device.world.enter(device.agent.cgroup)
    below.rmdir()


@BOTH
def test_all_but_the_enterprise_leaves_what_is_guarded_and_nothing_else(device: Device, host: str, other: str) -> None:
    device.agent.kernel.tables.set_guard([(host, ENTERPRISE)])
    device.do(device.refuse, all=True, ttl_s=3600)

    assert device.world.act("tcp", host, ENTERPRISE) == "ok"
    assert device.world.act("say", host, ENTERPRISE) == "ok"
    assert {device.world.act("tcp", host), device.world.act("tcp", other, ENTERPRISE)} == {"EPERM"}
    assert {device.world.act("udp", other, DNS), device.world.act("udp", other, NTP)} == {"EPERM"}
    assert device.world.act("tcp", "127.0.0.1") == "ECONNREFUSED", "loopback is open"


@BOTH
def test_isolation_leaves_the_lifeline_and_only_to_the_systems_own(device: Device, host: str, other: str) -> None:
    device.agent.kernel.tables.set_guard([(host, ENTERPRISE)])
    device.world.act("tcp", other)
    facts = device.do(device.isolate)

    assert device.world.act("tcp", host, ENTERPRISE) == "ok"
    assert device.world.act("udp", other, DNS) == "ok"
    assert device.world.act("tcp", other, DNS) == "ok"
    assert device.world.act("udp", other, NTP) == "ok"
    assert device.world.act("udp", "127.0.0.1", PORT) in ("silent", "ECONNREFUSED")
    if ":" not in host:
        assert device.world.act("udp", other, DHCP) == "ok"
    assert device.world.act("say", other) == "silent", "what was open is closed"
    assert device.world.act("tcp", other, PORT) == "EPERM"
    assert device.world.act("tcp", other, NTP) == "EPERM", "NTP is UDP"
    assert device.world.act("udp", other, DNS, uid=1000) == "EPERM"
    assert device.world.act("udp", other, NTP, uid=1000) == "EPERM"

    device.undo(device.isolate, facts)
    assert device.world.act("tcp", other, PORT) == "ok"
    assert device.world.act("udp", other, NTP, uid=1000) == "ok"


def test_a_lifeline_without_dns_has_none(device: Device) -> None:
    device.do(device.isolate, lifeline=["ntp"])

    assert device.world.act("udp", HOST4, DNS) == "EPERM"
    assert device.world.act("udp", HOST4, NTP) == "ok"


def test_a_refusal_is_told_as_the_deed_of_an_action_and_counted(device: Device) -> None:
    device.do(device.isolate)

    assert device.world.act("tcp", HOST4) == "EPERM"

    record = device.agent.wait_for("connect")
    assert record.flags == layout.F_ACTED | layout.F_REFUSED
    assert device.agent.kernel.tables.counters()["acted"] >= 1


def test_the_hooks_end_a_refusal_when_its_time_is_over_and_nobody_is_there(device: Device) -> None:
    until_ns = device.clock.boot_ns() + 2 * _NS
    refusals.enforce(device.agent.kernel.directory, Wanted(hosts={HOST4: until_ns}, isolated_until_ns=until_ns))
    assert device.world.act("tcp", OTHER4) == "EPERM"

    while device.clock.boot_ns() < until_ns:
        time.sleep(0.05)

    assert device.world.act("tcp", HOST4) == "ok"
    assert device.world.act("tcp", OTHER4) == "ok"


def test_the_next_agent_and_the_next_boot_refuse_what_was_refused(device: Device) -> None:
    facts = device.do(device.refuse, address=HOST4, ttl_s=20 * _YEAR_S)
    refusals.enforce(device.agent.kernel.directory, Wanted())  # a restart takes the maps
    _as_of_another_boot(device)
    device.open()
    assert device.refuse.verify(facts) is State.BETWEEN

    device.network.enforce()

    assert device.refuse.verify(facts) is State.DONE
    assert device.world.act("tcp", HOST4) == "EPERM"
    left_s = device.network.left_s(device.network.all()["an-action"])
    assert left_s is not None
    assert left_s < 20 * _YEAR_S


class _Power(Exception):
    """It went."""


def _cut(_name: str) -> None:
    raise _Power


def test_a_power_cut_between_the_file_and_the_hooks_is_finished_by_the_next_start(device: Device) -> None:
    facts = device.refuse.prepare("an-action", {"address": HOST4})
    with steps.hooked(_cut), pytest.raises(_Power):
        device.refuse.do(facts)
    assert device.refuse.verify(facts) is State.BETWEEN
    assert device.world.act("tcp", HOST4) == "ok"

    device.open()
    device.network.enforce()
    assert device.refuse.verify(facts) is State.DONE
    device.refuse.do(facts)
    assert device.refuse.verify(facts) is State.DONE

    with steps.hooked(_cut), pytest.raises(_Power):
        device.refuse.undo(facts)
    assert device.refuse.verify(facts) is State.BETWEEN
    assert device.world.act("tcp", HOST4) == "EPERM"
    device.open()
    device.network.enforce()
    assert device.refuse.verify(facts) is State.UNDONE
    device.refuse.undo(facts)
    assert device.world.act("tcp", HOST4) == "ok"


def test_what_somebody_changed_in_the_maps_is_put_back(device: Device) -> None:
    device.do(device.refuse, address=HOST4)
    assert not device.network.tick()
    refusals.enforce(device.agent.kernel.directory, Wanted())

    assert device.network.tick()
    assert device.world.act("tcp", HOST4) == "EPERM"


def test_of_two_actions_about_one_host_the_last_lets_it_through(device: Device) -> None:
    one, two = (device.refuse.prepare(name, {"address": HOST4}) for name in ("one", "two"))
    device.refuse.do(one)
    device.refuse.do(two)

    device.refuse.undo(one)
    assert device.refuse.verify(one) is State.UNDONE
    assert device.world.act("tcp", HOST4) == "EPERM"
    device.refuse.undo(two)
    assert device.world.act("tcp", HOST4) == "ok"


def test_the_enterprise_is_never_refused(device: Device) -> None:
    guarded = GuardSet(never=lambda: [(ip_address(HOST4), ENTERPRISE)])
    refuse = Refuse(device.network, Processes.of(device.agent.config, guarded), guarded)

    with pytest.raises(ActionFailed, match="guarded"):
        refuse.prepare("an-action", {"address": HOST4})
    with pytest.raises(ActionFailed, match="guarded"):
        refuse.prepare("an-action", {"address": f"::ffff:{HOST4}"})


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "0.0.0.0", "example.org", "192.0.2.0/24"])
def test_what_is_no_host_elsewhere_is_not_refused(device: Device, text: str) -> None:
    with pytest.raises(ActionFailed):
        device.refuse.prepare("an-action", {"address": text})


def test_in_monitor_mode_the_hooks_only_say_what_they_would_refuse(attach: Callable[..., Agent], cgroup: Path) -> None:
    with networld.world() as world:
        agent = attach(agent={"mode": "monitor"})
        world.enter(cgroup)
        try:
            refusals.enforce(agent.kernel.directory, Wanted(isolated_until_ns=refusals.UNTIL_UNDONE_NS))

            assert world.act("tcp", HOST4) == "ok"
            assert world.act("say", HOST4) == "ok"
            assert agent.wait_for("connect").flags == layout.F_ACTED | layout.F_MONITOR
        finally:
            world.end()


def _as_of_another_boot(device: Device) -> None:
    path = device.agent.config.state / "network.json"
    kept = msgspec.json.decode(path.read_bytes())
    for one in kept["refusals"].values():
        one["boot_id"] = "an earlier one"
    path.write_bytes(msgspec.json.encode(kept))
