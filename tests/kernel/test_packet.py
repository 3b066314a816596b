# SPDX-License-Identifier: Apache-2.0
"""DNS questions, and packets of sockets that stood before the list named their address."""

import ctypes
import errno
import os
import secrets
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mamplus_host.ble.entry import Kind, address_key
from mamplus_host.kernel import layout
from mamplus_host.verdicts import Verdict

from .conftest import Agent

pytestmark = pytest.mark.kernel
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
PEER = {4: "127.66.0.9", 6: "::1"}


@pytest.fixture
def agent(reused_agent: Agent) -> Agent:
    return reused_agent


@pytest.mark.parametrize("server", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bad.example", errno.EPERM),
        ("www.bad.example", errno.EPERM),
        ("a.b.c.d.e.f.g.h.bad.example", errno.EPERM),
        ("WwW.bAD.eXample", errno.EPERM),
        ("verybad.example", 0),
        ("example", 0),
        ("bad.example.org", 0),
        ("alone.example", errno.EPERM),
        ("www.alone.example", 0),
        ("good.bad.example", 0),
        ("www.good.bad.example", 0),
        ("both.example", 0),
        ("www.both.example", errno.EPERM),
    ],
)
def test_a_question_for_a_listed_name_is_refused(agent: Agent, server: str, name: str, expected: int) -> None:
    agent.publish(
        (Kind.DOMAIN, "bad.example", Verdict.BLOCK),
        (Kind.DOMAIN, "good.bad.example", Verdict.ALLOW),
        (Kind.DOMAIN, "=alone.example", Verdict.BLOCK),
        (Kind.DOMAIN, "both.example", Verdict.BLOCK),
        (Kind.DOMAIN, "=both.example", Verdict.ALLOW),
    )

    assert agent.run(agent.programs / "talk", "dns", server, name) == expected

    if expected:
        record = agent.wait_for("dns")
        assert record.fields["name"].rstrip(b"\0") == name.lower().encode()
        assert record.fields["server"] == address_key(server.removeprefix("::ffff:"))
        assert (record.verdict, record.flags) == (Verdict.BLOCK, layout.F_REFUSED)
        assert record.fields["head_comm"].rstrip(b"\0") == b"talk"
        assert record.fields["head_cgroup_id"] == agent.cgroup.stat().st_ino
    assert agent.count("dns") == bool(expected)


def test_the_longest_name_is_read_to_its_end(agent: Agent) -> None:
    name = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 57, "io"])  # 253: as long as a name may be
    assert len(name) == 253 - 1
    agent.publish((Kind.DOMAIN, name, Verdict.BLOCK))

    assert agent.run(agent.programs / "talk", "dns", "127.0.0.1", name) == errno.EPERM
    assert agent.run(agent.programs / "talk", "dns", "127.0.0.1", "x" + name[1:]) == 0
    assert agent.wait_for("dns").fields["name"].rstrip(b"\0") == name.encode()


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"mptest-{secrets.token_hex(4)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run(["ip", "netns", "delete", name], check=True)


@contextmanager
def inside(netns: str) -> Iterator[None]:
    """Move this thread into `netns` and back: sockets stay where they were made."""
    home, there = os.open("/proc/thread-self/ns/net", os.O_RDONLY), os.open(f"/run/netns/{netns}", os.O_RDONLY)
    assert _LIBC.setns(there, _CLONE_NEWNET) == 0
    try:
        yield
    finally:
        assert _LIBC.setns(home, _CLONE_NEWNET) == 0
        os.close(home)
        os.close(there)


def _iptables(netns: str, version: int, *arguments: str) -> None:
    tool = "iptables-legacy" if version == 4 else "ip6tables-legacy"
    # Not `ip netns exec`: that mounts another /sys, where the pins are not to be seen.
    subprocess.run(["nsenter", f"--net=/run/netns/{netns}", tool, "-w", *arguments], check=True)


def test_the_enterprises_name_is_never_refused_and_its_neighbours_still_are(agent: Agent) -> None:
    agent.publish(
        (Kind.DOMAIN, "corp.example", Verdict.BLOCK),
        (Kind.DOMAIN, "=mam.corp.example", Verdict.BLOCK),
        guarded_names=("mam.corp.example",),
    )

    assert agent.run(agent.programs / "talk", "dns", "127.0.0.1", "mam.corp.example") == 0
    assert agent.run(agent.programs / "talk", "dns", "127.0.0.1", "www.corp.example") == errno.EPERM
    assert agent.run(agent.programs / "talk", "dns", "127.0.0.1", "x.mam.corp.example") == errno.EPERM


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("direction", ["in", "out"])
def test_an_open_connection_is_cut_when_the_list_names_its_peer(
    agent: Agent, netns: str, direction: str, version: int
) -> None:
    pin = agent.kernel.packet_program_path(direction)
    chain = {"in": "INPUT", "out": "OUTPUT"}[direction]
    _iptables(netns, version, "-A", chain, "-m", "bpf", "--object-pinned", str(pin), "-j", "DROP")
    with inside(netns):
        server = socket.create_server((PEER[version], 0), family=socket.AF_INET6 if version == 6 else socket.AF_INET)
        client = socket.create_connection(server.getsockname()[:2], source_address=(PEER[version], 0))
    peer, _address = server.accept()
    client.sendall(b"a")
    assert peer.recv(1) == b"a"

    agent.publish((Kind.IP, PEER[version], Verdict.BLOCK))
    client.sendall(b"b")

    record = agent.wait_for("packet")
    listed = record.fields["saddr" if direction == "in" else "daddr"]
    assert listed == address_key(PEER[version])
    assert record.flags == layout.F_REFUSED | (layout.F_INGRESS if direction == "in" else 0)
    assert record.fields["protocol"] == socket.IPPROTO_TCP
    with pytest.raises(BlockingIOError):
        peer.recv(1, socket.MSG_DONTWAIT)
    for one in (client, peer, server):
        one.close()
    _iptables(netns, version, "-F")


def test_a_guarded_peer_is_not_cut(agent: Agent, netns: str) -> None:
    pin = agent.kernel.packet_program_path("out")
    _iptables(netns, 4, "-A", "OUTPUT", "-m", "bpf", "--object-pinned", str(pin), "-j", "DROP")
    with inside(netns):
        receiver, sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    receiver.bind(("127.66.0.9", 0))
    agent.publish((Kind.CIDR, "127.66.0.0/16", Verdict.BLOCK))

    with pytest.raises(PermissionError):
        sender.sendto(b"x", receiver.getsockname())
    agent.kernel.tables.set_guard([("127.66.0.9", receiver.getsockname()[1])])
    sender.sendto(b"y", receiver.getsockname())

    assert receiver.recv(1) == b"y"
    receiver.close()
    sender.close()
    _iptables(netns, 4, "-F")


def test_the_path_for_rules_stays_when_the_programs_are_replaced(attach: Callable[..., Agent], cgroup: Path) -> None:
    agent = attach()
    before = agent.kernel.packet_program_path("in")
    inner = cgroup / "inner"
    inner.mkdir()
    try:
        again = attach(scope={"cgroup": str(inner)})
        assert not again.kernel.adopted
        assert again.kernel.packet_program_path("in") == before
        assert before.exists()
        assert again.kernel.retire_predecessors() == 1
        assert before.exists()
    finally:
        inner.rmdir()
