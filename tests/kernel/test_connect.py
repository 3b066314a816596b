# SPDX-License-Identifier: Apache-2.0
"""Connections and datagrams: refused by address, in either spelling; the greater verdict wins."""

import errno
from collections.abc import Callable
from ipaddress import IPv6Address
from socket import ntohs

import pytest

from mamplus_host.ble.entry import Kind, address_key
from mamplus_host.kernel import layout
from mamplus_host.verdicts import Verdict

from .conftest import Agent

pytestmark = pytest.mark.kernel
PORT = "9"  # discard: nobody listens

BLOCKED = [
    ("tcp", "127.66.0.1", "127.66.0.1", "connect"),
    ("tcp", "::ffff:127.66.0.1", "127.66.0.1", "connect"),
    ("tcp", "::1", "::1", "connect"),
    ("udp", "127.66.0.1", "127.66.0.1", "sendmsg"),
    ("udp", "::ffff:127.66.0.1", "127.66.0.1", "sendmsg"),
    ("udp", "::1", "::1", "sendmsg"),
]


@pytest.fixture
def agent(reused_agent: Agent) -> Agent:
    return reused_agent


@pytest.mark.parametrize(("how", "address", "listed", "kind"), BLOCKED)
def test_a_listed_address_is_refused(agent: Agent, how: str, address: str, listed: str, kind: str) -> None:
    agent.publish((Kind.IP, "192.0.2.1", Verdict.BLOCK), (Kind.IP, listed, Verdict.BLOCK), generation=3)

    assert agent.run(agent.programs / "talk", how, address, PORT) == errno.EPERM

    record = agent.wait_for(kind)
    assert (record.verdict, record.flags) == (Verdict.BLOCK, layout.F_REFUSED)
    assert record.fields["addr"] == address_key(listed)
    assert ntohs(record.fields["port_be"]) == int(PORT)
    assert record.fields["head_slot"] != layout.NO_SLOT
    assert record.fields["head_generation"] == 3
    assert record.fields["head_comm"].rstrip(b"\0") == b"talk"


@pytest.mark.parametrize(("how", "address", "listed", "kind"), BLOCKED)
def test_what_is_not_listed_is_let_go_on(agent: Agent, how: str, address: str, listed: str, kind: str) -> None:
    agent.publish((Kind.IP, "192.0.2.1", Verdict.BLOCK))

    code = agent.run(agent.programs / "talk", how, address, PORT)

    assert code == (errno.ECONNREFUSED if how == "tcp" else 0), listed
    assert agent.count(kind) == 0


@pytest.mark.parametrize(
    ("address", "network"),
    [("127.66.1.2", "127.66.0.0/15"), ("::ffff:127.66.1.2", "127.66.0.0/15"), ("::1", "::/64")],
)
def test_a_listed_network_is_refused(agent: Agent, address: str, network: str) -> None:
    agent.publish((Kind.CIDR, network, Verdict.BLOCK))

    assert agent.run(agent.programs / "talk", "tcp", address, PORT) == errno.EPERM


def test_an_address_beside_a_listed_network_is_let_go_on(agent: Agent) -> None:
    agent.publish((Kind.CIDR, "127.66.0.0/16", Verdict.BLOCK))

    assert agent.run(agent.programs / "talk", "tcp", "127.67.0.1", PORT) == errno.ECONNREFUSED


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([("127.66.0.0/16", Verdict.ALLOW), ("127.66.0.1", Verdict.BLOCK)], errno.ECONNREFUSED),
        ([("127.66.0.0/16", Verdict.BLOCK), ("127.66.0.1", Verdict.ALLOW)], errno.ECONNREFUSED),
        ([("127.66.0.0/16", Verdict.SUSPECT), ("127.66.0.1", Verdict.BLOCK)], errno.EPERM),
        ([("127.66.0.0/16", Verdict.BLOCK), ("127.66.0.0/24", Verdict.ALLOW)], errno.ECONNREFUSED),
        ([("127.66.0.0/16", Verdict.ALLOW), ("127.66.0.0/24", Verdict.BLOCK)], errno.EPERM),
    ],
    ids=["allow beats block", "and the other way round", "block beats suspect", "specific allow", "specific block"],
)
def test_of_two_entries_the_right_one_wins(agent: Agent, lines: list[tuple[str, Verdict]], expected: int) -> None:
    agent.publish(*((Kind.CIDR if "/" in value else Kind.IP, value, verdict) for value, verdict in lines))

    assert agent.run(agent.programs / "talk", "tcp", "127.66.0.1", PORT) == expected


@pytest.mark.parametrize(
    ("guarded_port", "expected"), [(9, errno.ECONNREFUSED), (0, errno.ECONNREFUSED), (10, errno.EPERM)]
)
def test_the_guard_beats_block(agent: Agent, guarded_port: int, expected: int) -> None:
    agent.publish((Kind.IP, "127.66.0.1", Verdict.BLOCK), (Kind.CIDR, "0.0.0.0/0", Verdict.BLOCK))
    agent.kernel.tables.set_guard([("127.66.0.1", guarded_port)])

    assert agent.run(agent.programs / "talk", "tcp", "127.66.0.1", PORT) == expected

    agent.kernel.tables.set_guard([])
    assert agent.run(agent.programs / "talk", "tcp", "127.66.0.1", PORT) == errno.EPERM


def test_a_suspected_address_is_let_go_on_and_told(agent: Agent) -> None:
    agent.publish((Kind.IP, "127.66.0.1", Verdict.SUSPECT))

    assert agent.run(agent.programs / "talk", "tcp", "127.66.0.1", PORT) == errno.ECONNREFUSED

    record = agent.wait_for("connect")
    assert (record.verdict, record.flags) == (Verdict.SUSPECT, 0)


def test_with_a_list_so_old_that_doubt_is_refused_a_suspected_address_is(agent: Agent) -> None:
    agent.publish((Kind.IP, "127.66.0.1", Verdict.SUSPECT), (Kind.DOMAIN, "odd.example", Verdict.SUSPECT))
    agent.kernel.tables.set_posture(agent.config, suspect_as_block=True)

    assert agent.run(agent.programs / "talk", "tcp", "127.66.0.1", PORT) == errno.EPERM
    assert agent.run(agent.programs / "talk", "udp", "127.66.0.1", PORT) == errno.EPERM
    assert agent.run(agent.programs / "talk", "dns", "127.0.0.1", "odd.example") == errno.EPERM
    assert agent.run(agent.programs / "talk", "tcp", "127.66.0.2", PORT) == errno.ECONNREFUSED

    record = agent.wait_for("connect")
    assert (record.verdict, record.flags) == (Verdict.SUSPECT, layout.F_REFUSED), "the list's own verdict is told"
    agent.kernel.tables.set_posture(agent.config)
    assert agent.run(agent.programs / "talk", "tcp", "127.66.0.1", PORT) == errno.ECONNREFUSED


def test_an_allowed_connect_is_told_only_when_asked_for(agent: Agent) -> None:
    agent.run(agent.programs / "talk", "tcp", "127.0.0.1", PORT)
    assert agent.count("connect") == 0

    agent.kernel.tables.set_posture(agent.config, report_allowed=True)
    agent.run(agent.programs / "talk", "tcp", "::1", PORT)

    record = agent.wait_for("connect")
    assert record.fields["addr"] == IPv6Address("::1").packed


def test_monitor_mode_lets_go_on_and_says_what_it_would_have_refused(attach: Callable[..., Agent]) -> None:
    agent = attach(agent={"mode": "monitor"})
    agent.publish((Kind.IP, "127.66.0.1", Verdict.BLOCK), (Kind.DOMAIN, "bad.example", Verdict.BLOCK))

    assert agent.run(agent.programs / "talk", "tcp", "127.66.0.1", PORT) == errno.ECONNREFUSED
    assert agent.run(agent.programs / "talk", "dns", "127.0.0.1", "bad.example") == 0

    assert agent.wait_for("connect").flags == layout.F_MONITOR
    assert agent.wait_for("dns").flags == layout.F_MONITOR
    assert agent.kernel.tables.counters()["refused"] == 0
