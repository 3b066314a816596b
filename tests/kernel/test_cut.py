# SPDX-License-Identifier: Apache-2.0
"""Connections are cut: of a process, of its app, with a host; of both families, TCP and UDP; and what is left alone."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from mamplus_host.ble.guard import Guard
from mamplus_host.config import Config, Scope
from mamplus_host.errors import ActionFailed
from mamplus_host.executor.actions.cut import Cut
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.processes.process import Processes
from mamplus_host.executor.shape import State

from . import acts, networld
from .networld import DEVICE4, ENTERPRISE, HOST4, HOST6, NTP, OTHER4, PORT, Behind, World

pytestmark = pytest.mark.kernel
# What connection tracking knows: source, destination, its port.
_TRACKED = """
import json, socket
from pyroute2 import Conntrack
for family in socket.AF_INET, socket.AF_INET6:
    with Conntrack(nfgen_family=family) as table:
        for entry in table.dump_entries():
            one = entry.tuple_orig
            print(json.dumps([one.saddr, one.daddr, one.dport]))
"""
CLOSED = ("ECONNABORTED", "ECONNRESET", "EPIPE", "EDESTADDRREQ", "closed")


class Place:
    """A program with connections, in an app's cgroup, and the world that it talks to."""

    def __init__(self, world: World, cgroup: Path) -> None:
        self.world, self.cgroup = world, cgroup
        world.enter(cgroup / "app")

    def cut(self, *never: Guard) -> Cut:
        guarded = GuardSet(never=lambda: never)
        config = Config(scope=Scope(cgroup=str(self.cgroup), netns=(self.world.netns,)))
        return Cut(Processes.of(config, guarded), guarded, config.scope.netns)

    def process(self, **more: Any) -> dict[str, Any]:
        return {"tgid": self.world.pid, "boot_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME), **more}

    def stands(self, host: str, port: int = PORT) -> bool:
        return self.world.act("say", host, port) == "ok"


@pytest.fixture
def place() -> Iterator[Place]:
    with acts.own_cgroup() as cgroup, networld.world() as world:
        (cgroup / "app").mkdir()
        made = Place(world, cgroup)
        for host in (HOST4, HOST6):
            world.act("tcp", host)
            world.act("udp-open", host, NTP)
        world.act("tcp", OTHER4)
        try:
            yield made
        finally:
            world.end()


@pytest.mark.parametrize("more", [{}, {"app": True}], ids=["process", "app"])
def test_all_connections_of_a_program_are_cut_and_it_is_seen(place: Place, more: dict[str, Any]) -> None:
    cut = place.cut()
    facts = cut.prepare("an-action", place.process(**more))
    assert cut.verify(facts) is State.UNDONE
    assert len(facts["cookies"]) == 5

    detail = cut.do(facts)

    assert "cut 5 of 5 connections" in detail
    assert cut.verify(facts) is State.DONE
    for host, port in ((HOST4, PORT), (HOST6, PORT), (HOST4, NTP), (HOST6, NTP), (OTHER4, PORT)):
        assert place.world.act("say", host, port) in CLOSED
    assert "cut 0 of 0" in cut.do(facts), "once more finds nothing"


def test_with_a_host_only_its_connections_are_cut(place: Place) -> None:
    cut = place.cut()
    facts = cut.prepare("an-action", {"address": HOST4})

    cut.do(facts)

    assert not place.stands(HOST4)
    assert not place.stands(HOST4, NTP)
    assert place.stands(OTHER4)
    assert place.stands(HOST6)
    assert cut.verify(facts) is State.DONE


def test_with_a_port_only_that_one_is_meant(place: Place) -> None:
    cut = place.cut()
    cut.do(cut.prepare("an-action", {"address": HOST4, "port": NTP}))

    assert place.stands(HOST4)
    assert not place.stands(HOST4, NTP)


def test_the_way_to_the_enterprise_is_left_alone_whoever_asks(place: Place) -> None:
    place.world.act("tcp", HOST4, ENTERPRISE)
    cut = place.cut((ip_address(HOST4), ENTERPRISE))

    with pytest.raises(ActionFailed, match="guarded"):
        cut.prepare("an-action", {"address": HOST4})
    cut.do(cut.prepare("an-action", place.process()))

    assert place.stands(HOST4, ENTERPRISE)
    assert not place.stands(HOST4)


def test_a_guarded_process_keeps_its_connections_with_a_host_that_is_cut(place: Place) -> None:
    guarded = GuardSet(lambda: [place.world.pid])
    config = Config(scope=Scope(cgroup=str(place.cgroup), netns=(place.world.netns,)))
    cut = Cut(Processes.of(config, guarded), guarded, config.scope.netns)

    cut.do(cut.prepare("an-action", {"address": HOST4}))
    assert place.stands(HOST4)
    with pytest.raises(ActionFailed, match="guarded"):
        cut.prepare("an-action", place.process())


def test_a_process_that_ended_has_nothing_left_to_cut_and_another_under_its_number_is_not_meant(place: Place) -> None:
    cut = place.cut()
    facts = cut.prepare("an-action", place.process())
    facts["order"]["start_ns"] -= 1

    assert "cut 0 of 0" in cut.do(facts)
    assert place.stands(HOST4)


def test_a_cut_has_no_inverse_and_says_why(place: Place) -> None:
    cut = place.cut()

    with pytest.raises(ActionFailed, match="connects again"):
        cut.undo(cut.prepare("an-action", {"address": HOST4}))


@pytest.fixture
def behind(place: Place) -> Iterator[Behind]:
    """A machine whose connections the device forwards, and tracks, as it does its own."""
    with ExitStack() as stack:
        made = networld.behind(place.world, stack)
        for host in (HOST4, OTHER4):
            assert made.act("tcp", host) == "ok"
        for host in (HOST4, HOST6, OTHER4):  # those that stood before are tracked from their next packet on
            assert place.stands(host)
        assert place.stands(HOST4, NTP)
        yield made


def tracked(place: Place) -> set[tuple[str, str, int]]:
    """Return what the device's connection tracking knows: source, destination, its port."""
    inside = ["ip", "netns", "exec", place.world.netns, sys.executable, "-c", _TRACKED]
    done = subprocess.run(inside, check=True, capture_output=True, text=True)
    return {(source, destination, port) for source, destination, port in map(json.loads, done.stdout.splitlines())}


def test_the_kernel_forgets_what_it_tracked_with_a_host_that_is_cut_also_what_is_forwarded(
    place: Place, behind: Behind
) -> None:
    before = tracked(place)
    with_host = {(source, HOST4, port) for source, port in [(DEVICE4, PORT), (DEVICE4, NTP), (behind.address, PORT)]}
    assert with_host < before
    cut = place.cut()

    detail = cut.do(cut.prepare("an-action", {"address": HOST4}))

    assert "made the kernel forget 3" in detail
    assert tracked(place) == before - with_host


def test_with_a_program_that_is_cut_the_kernel_forgets_its_connections_and_no_others(
    place: Place, behind: Behind
) -> None:
    before = tracked(place)
    assert (behind.address, HOST4, PORT) in before
    cut = place.cut()

    cut.do(cut.prepare("an-action", place.process()))

    assert tracked(place) == {one for one in before if one[0] == behind.address}


def test_with_a_port_the_kernel_forgets_only_what_goes_there(place: Place, behind: Behind) -> None:
    assert behind.act("tcp", HOST4, ENTERPRISE) == "ok"
    cut = place.cut()

    cut.do(cut.prepare("an-action", {"address": HOST4, "port": PORT}))

    found = {one for one in tracked(place) if one[1] == HOST4}
    assert found == {(behind.address, HOST4, ENTERPRISE), (DEVICE4, HOST4, NTP)}
