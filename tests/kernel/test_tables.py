# SPDX-License-Identifier: Apache-2.0
"""A generation becomes tables: whole, or not at all; and what is over is left out."""

import errno
import time
from collections.abc import Callable

import pytest

from mamplus_host.ble.encode import encode
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import Generation
from mamplus_host.config import Config
from mamplus_host.errors import KernelRefused
from mamplus_host.kernel import layout
from mamplus_host.verdicts import Verdict

from .conftest import Agent

pytestmark = pytest.mark.kernel
PORT = "9"


@pytest.fixture
def agent(reused_agent: Agent) -> Agent:
    return reused_agent


def _talk(agent: Agent, address: str) -> int:
    return agent.run(agent.programs / "talk", "tcp", address, PORT)


def test_a_swap_replaces_all_tables_at_once(agent: Agent) -> None:
    assert agent.kernel.tables.generation() == 0
    for generation in range(1, 6):
        blocked, free = ("127.66.0.1", "127.66.0.2") if generation % 2 else ("127.66.0.2", "127.66.0.1")
        report = agent.publish((Kind.IP, blocked, Verdict.BLOCK), generation=generation)

        assert (report.entries, report.not_enforced) == (1, 0)
        assert agent.kernel.tables.generation() == generation
        assert (_talk(agent, blocked), _talk(agent, free)) == (errno.EPERM, errno.ECONNREFUSED)
        assert agent.wait_for("connect").fields["head_generation"] == generation
        agent.seen.clear()


def test_while_generations_are_swapped_no_connect_slips_through(agent: Agent) -> None:
    """The entry is in all of them, as an address in odd generations and as a network in even ones."""

    def publish(generation: int) -> None:
        entry = (Kind.IP, "127.66.0.1") if generation % 2 else (Kind.CIDR, "127.66.0.0/24")
        agent.publish((*entry, Verdict.BLOCK), generation=generation)

    publish(1)
    with agent.start(agent.programs / "hammer", "127.66.0.1") as hammer:
        for generation in range(2, 8):
            publish(generation)
            agent.drain()
            assert hammer.poll() is None, "a connect was let go on"
    asked = [record for record in agent.seen if record.kind == "connect"]
    assert {record.verdict for record in asked} == {Verdict.BLOCK}
    assert {record.fields["head_generation"] for record in asked} <= set(range(1, 8))


@pytest.mark.parametrize(
    ("kind", "value", "refused", "free"),
    [
        (Kind.IP, "127.66.0.1:9/tcp", ("tcp", "127.66.0.1", "9"), ("tcp", "127.66.0.1", "10")),
        (Kind.IP, "127.66.0.1:9/udp", ("udp", "127.66.0.1", "9"), ("tcp", "127.66.0.1", "9")),
        (Kind.IP, "127.66.0.1:*/tcp", ("tcp", "127.66.0.1", "10"), ("tcp", "127.66.0.2", "10")),
        (Kind.CIDR, "127.66.0.0/24:9", ("tcp", "127.66.0.77", "9"), ("tcp", "127.66.0.77", "10")),
        (Kind.IP, "[::1]:9/tcp", ("tcp", "::1", "9"), ("tcp", "::1", "10")),
        (Kind.CIDR, "[::/64]:9", ("tcp", "::1", "9"), ("tcp", "127.66.0.1", "9")),
        (Kind.PORT, "9/tcp", ("tcp", "127.66.0.9", "9"), ("tcp", "127.66.0.9", "10")),
        (Kind.PORT, "9", ("tcp", "::1", "9"), ("tcp", "::1", "10")),
    ],
)
def test_ports_and_protocols_narrow_an_entry(
    agent: Agent, kind: Kind, value: str, refused: tuple[str, ...], free: tuple[str, ...]
) -> None:
    agent.publish((kind, value, Verdict.BLOCK))

    assert agent.run(agent.programs / "talk", *refused) == errno.EPERM
    assert agent.run(agent.programs / "talk", *free) != errno.EPERM


def test_where_no_port_is_known_an_entry_about_ports_says_nothing(agent: Agent) -> None:
    """Without the port its key is that of every IPv6 address: IPv4 was refused by `::/0`, if any port was listed."""
    agent.publish((Kind.PORT, "9", Verdict.BLOCK), (Kind.CIDR, "::/0", Verdict.BLOCK))

    assert agent.run(agent.programs / "talk", "tcp", "127.66.0.1", "0") not in (0, errno.EPERM)
    assert agent.run(agent.programs / "talk", "tcp", "127.66.0.1", "9") == errno.EPERM


def test_the_more_qualified_entry_about_a_host_decides(agent: Agent) -> None:
    agent.publish((Kind.IP, "127.66.0.1", Verdict.BLOCK), (Kind.IP, "127.66.0.1:9/tcp", Verdict.ALLOW))

    assert _talk(agent, "127.66.0.1") == errno.ECONNREFUSED
    assert agent.run(agent.programs / "talk", "tcp", "127.66.0.1", "10") == errno.EPERM


def test_an_empty_generation_forbids_nothing(agent: Agent) -> None:
    agent.publish((Kind.IP, "127.66.0.1", Verdict.BLOCK), generation=1)

    report = agent.publish(generation=2)

    assert (report.entries, agent.kernel.tables.generation()) == (0, 2)
    assert _talk(agent, "127.66.0.1") == errno.ECONNREFUSED


def test_an_entry_past_its_date_is_left_out_and_counted(agent: Agent) -> None:
    now_s = int(time.time())

    report = agent.publish((Kind.IP, "127.66.0.1", Verdict.BLOCK), valid_until=now_s - 1)
    assert (report.entries, report.not_enforced, report.next_end_s) == (0, 1, 0)
    assert _talk(agent, "127.66.0.1") == errno.ECONNREFUSED

    report = agent.publish((Kind.IP, "127.66.0.1", Verdict.BLOCK), generation=2, valid_until=now_s + 1000)
    assert (report.entries, report.not_enforced, report.next_end_s) == (1, 0, now_s + 1000)
    assert _talk(agent, "127.66.0.1") == errno.EPERM


def test_more_entries_than_one_batch_all_come_in(agent: Agent) -> None:
    count = 5000
    entries = [
        Entry(id=1 + i, kind=Kind.IP, value=f"10.{i >> 8}.{i & 255}.1", verdict=Verdict.BLOCK) for i in range(count)
    ]
    entries += [
        Entry(id=10_001 + i, kind=Kind.CIDR, value=f"127.{100 + (i >> 8)}.{i & 255}.0/24", verdict=Verdict.BLOCK)
        for i in range(count)
    ]
    with Generation(encode(entries, generation=1, created_s=1)) as generation:
        report = agent.kernel.tables.load(generation, time.time())

    assert (report.entries, report.not_enforced) == (2 * count, 0)
    assert _talk(agent, "127.100.0.9") == errno.EPERM
    assert _talk(agent, "127.119.135.9") == errno.EPERM
    assert _talk(agent, "127.119.136.9") == errno.ECONNREFUSED


def test_too_many_guards_are_refused_and_the_old_ones_stay(agent: Agent) -> None:
    agent.publish((Kind.IP, "127.66.0.1", Verdict.BLOCK))
    agent.kernel.tables.set_guard([("127.66.0.1", 0)])

    with pytest.raises(KernelRefused, match=f"want at most {layout.GUARD_MAX}"):
        agent.kernel.tables.set_guard([("127.66.0.1", 1 + port) for port in range(layout.GUARD_MAX + 1)])

    assert _talk(agent, "127.66.0.1") == errno.ECONNREFUSED
    agent.kernel.tables.set_guard([("127.66.0.2", 1 + port) for port in range(layout.GUARD_MAX)])
    assert _talk(agent, "127.66.0.1") == errno.EPERM


def test_posture_changes_hold_from_the_next_connect_on(agent: Agent, configure: Callable[..., Config]) -> None:
    agent.publish((Kind.IP, "127.66.0.1", Verdict.BLOCK))
    assert _talk(agent, "127.66.0.1") == errno.EPERM

    agent.kernel.tables.set_posture(configure(agent={"mode": "monitor"}))

    assert _talk(agent, "127.66.0.1") == errno.ECONNREFUSED
