# SPDX-License-Identifier: Apache-2.0
"""A generation becomes tables: whole, or not at all; and what is over is left out."""

import ctypes
import errno
import mmap
import random
import struct
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest

from mamplus_host.ble.encode import encode, encode_delta, withdrawal
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.stack import LayerFiles, Stack
from mamplus_host.config import Config
from mamplus_host.errors import KernelRefused
from mamplus_host.kernel import layout, table_memory
from mamplus_host.kernel.bpf import Fd
from mamplus_host.verdicts import Verdict

from .conftest import Agent
from .test_lsm_guard import BPF, LIBC, PROG_TEST_RUN

pytestmark = pytest.mark.kernel
PORT = "9"


@pytest.fixture
def agent(reused_agent: Agent) -> Agent:
    return reused_agent


@pytest.fixture(params=[False, True], ids=["one map", "two maps"])
def is_cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether every table of two pages and more has two maps, whatever the machine."""
    if request.param:
        monkeypatch.setattr(table_memory, "_SPLIT_LINES", 1)
        monkeypatch.setattr(table_memory, "_LINES_A_PAGE", mmap.PAGESIZE // layout.BUCKET.size)
        monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1})
    return bool(request.param)


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


def _near(draw: random.Random, bits: int) -> int:
    """An address, of which most are in few networks."""
    first = 0x2A000000 << bits - 32
    return first | draw.getrandbits(bits - 9 if draw.random() < 0.7 else bits - 24)


def _networks(draw: random.Random, count: int) -> dict[str, Entry]:
    """Networks of both families by value, some of port 53 alone."""
    found = {}
    for number in range(1, count + 1):
        bits = draw.choice((32, 128))
        prefix = draw.randrange(1, bits)
        network = str(ip_network((_near(draw, bits) >> bits - prefix << bits - prefix, prefix)))
        value = draw.choice((network, network, f"[{network}]:53" if bits == 128 else f"{network}:53"))
        verdict = draw.choice((Verdict.BLOCK, Verdict.ALLOW))
        found[value] = Entry(id=number, kind=Kind.CIDR, value=value, verdict=verdict)
    return found


def _longest(listed: dict[str, Entry], address: IPv4Address | IPv6Address) -> Verdict:
    """What the longest network says that covers an address, that of port 53 before that of all."""
    for prefix in range(address.max_prefixlen, 0, -1):
        network = str(ip_network((int(address), prefix), strict=False))
        for value in (f"[{network}]:53", f"{network}:53", network):
            if value in listed:
                return listed[value].verdict
    return Verdict.NOTHING


def _datagram(address: IPv4Address | IPv6Address) -> bytes:
    """An Ethernet frame with a datagram to port 53 of an address."""
    udp = struct.pack(">HHHH", 1024, 53, 8, 0)
    if isinstance(address, IPv4Address):
        head = bytes([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1])
        return bytes(12) + b"\x08\0" + head + address.packed + udp
    return bytes(12) + b"\x86\xdd" + bytes([0x60, 0, 0, 0, 0, 8, 17, 64]) + bytes(16) + address.packed + udp


def _is_dropped(program: Fd, packet: bytes) -> bool:
    data = ctypes.create_string_buffer(packet, len(packet))
    test = struct.pack("=IIIIQQII", program.number, 0, len(packet), 0, ctypes.addressof(data), 0, 1, 0)
    attr = ctypes.create_string_buffer(test, 80)
    assert LIBC.syscall(BPF, PROG_TEST_RUN, attr, len(attr)) == 0, ctypes.get_errno()
    return bool(struct.unpack_from("=I", attr.raw, 4)[0])


def test_of_many_networks_of_both_families_the_kernel_says_what_the_longest_prefix_says(
    agent: Agent, is_cut: bool
) -> None:
    """Loaded, and patched twice: networks come, others go, and what covers less is seen again."""
    draw = random.Random(11)
    listed = _networks(draw, 3000)
    files = LayerFiles(Layer.FEEDS, Generation(encode(listed.values(), generation=1, created_s=1)))
    agent.kernel.tables.load(Stack([files]), time.time())
    loaded = agent.kernel.tables._loaded
    assert loaded is not None
    assert [len(table.memory.maps) for table in loaded.tables] == [1, 1, 1 + is_cut, 1]
    with Fd.open(Path(agent.config.bpffs) / "packet_out") as program:
        for number in (2, 3, 4):
            asked = [
                make(_near(draw, bits)) for make, bits in ((IPv4Address, 32), (IPv6Address, 128)) for _ in range(400)
            ]
            told = {str(one): _is_dropped(program, _datagram(one)) for one in asked}
            wanted = {str(one): _longest(listed, one) is Verdict.BLOCK for one in asked}
            assert told == wanted
            assert 100 < sum(wanted.values()) < 700
            new = _networks(draw, 200)
            gone = draw.sample(sorted(listed.keys() - new.keys()), 300)
            changes = [*new.values(), *(withdrawal(Kind.CIDR, value) for value in gone)]
            delta = Generation(encode_delta(changes, files.parts, generation=number, created_s=1))
            files = LayerFiles(files.layer, files.base, (*files.deltas, delta))
            listed = {value: one for value, one in (listed | new).items() if value not in gone}
            assert agent.kernel.tables.patch(Stack([files]), [delta], time.time()).is_patch
