# SPDX-License-Identifier: Apache-2.0
"""A patch of the loaded tables is enforced like a load, and no swap shows a moment of neither."""

import errno
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from socket import AF_INET, inet_pton

import msgspec
import pytest

from mamplus_host.ble.encode import encode, encode_delta, withdrawal
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import Generation
from mamplus_host.ble.stack import LayerFiles, Stack
from mamplus_host.errors import KernelRefused
from mamplus_host.kernel import filling, pins
from mamplus_host.kernel.bpf import Map
from mamplus_host.kernel.budget import BYTES_AN_ENTRY
from mamplus_host.kernel.tables import LoadReport, Tables
from mamplus_host.verdicts import Verdict

from .conftest import Agent

pytestmark = pytest.mark.kernel
BLOCKED, OTHER = "127.66.0.1", "127.66.0.2"


@pytest.fixture
def agent(reused_agent: Agent) -> Agent:
    return reused_agent


def _ip(value: str, verdict: Verdict = Verdict.BLOCK) -> Entry:
    return Entry(id=1, kind=Kind.IP, value=value, verdict=verdict)


def _many(count: int) -> list[Entry]:
    return [_ip(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(count)]


def _stack(entries: Sequence[Entry]) -> Stack:
    return Stack.of(Generation(encode(entries, generation=1, created_s=1)))


def _grown(stack: Stack, *changes: Entry) -> tuple[Stack, tuple[Generation, ...]]:
    """The stack with one more delta, and what changed."""
    files = stack.layers[0]
    data = encode_delta(changes, files.parts, generation=stack.number + 1, created_s=1)
    grown = Stack([LayerFiles(files.layer, files.base, (*files.deltas, Generation(data))), *stack.layers[1:]])
    changed = grown.changed_since(stack)
    assert changed is not None
    return grown, changed


def _talk(agent: Agent, address: str) -> int:
    return agent.run(agent.programs / "talk", "tcp", address, "9")


def _load(agent: Agent, stack: Stack, budget_bytes: int = 0) -> LoadReport:
    return agent.kernel.tables.load(stack, time.time(), budget_bytes=budget_bytes)


def _patch(tables: Tables, stack: Stack, changes: Sequence[Generation], budget_bytes: int = 0) -> LoadReport:
    return tables.patch(stack, changes, time.time(), budget_bytes=budget_bytes)


def test_a_patch_adds_changes_and_withdraws(agent: Agent) -> None:
    stack = _stack([*_many(1000), _ip(BLOCKED)])
    _load(agent, stack)
    assert _talk(agent, BLOCKED) == errno.EPERM

    stack, changes = _grown(stack, withdrawal(Kind.IP, BLOCKED), _ip(OTHER))
    report = _patch(agent.kernel.tables, stack, changes)

    assert (report.is_patch, report.entries, agent.kernel.tables.generation()) == (True, 1001, 2)
    assert (_talk(agent, BLOCKED), _talk(agent, OTHER)) == (errno.ECONNREFUSED, errno.EPERM)
    stack, changes = _grown(stack, _ip(OTHER, Verdict.ALLOW), _ip(BLOCKED))
    report = _patch(agent.kernel.tables, stack, changes)
    assert (report.is_patch, report.entries) == (True, 1002)
    assert (_talk(agent, BLOCKED), _talk(agent, OTHER)) == (errno.EPERM, errno.ECONNREFUSED)


def test_a_patch_of_one_table_leaves_the_others_where_they_are(agent: Agent) -> None:
    stack = _stack([Entry(id=1, kind=Kind.CIDR, value="127.66.0.0/24", verdict=Verdict.BLOCK), *_many(10)])
    _load(agent, stack)

    stack, changes = _grown(stack, _ip("127.67.0.1"))

    assert _patch(agent.kernel.tables, stack, changes).is_patch
    assert (_talk(agent, BLOCKED), _talk(agent, "127.67.0.1")) == (errno.EPERM, errno.EPERM)


def test_a_patch_without_room_fills_a_larger_table(agent: Agent) -> None:
    """Four entries have one bucket; so has a table that was empty."""
    stack = _stack(_many(4))
    _load(agent, stack)

    stack, changes = _grown(
        stack, *_many(500), _ip(BLOCKED), Entry(id=1, kind=Kind.CIDR, value="127.67.0.0/24", verdict=Verdict.BLOCK)
    )
    report = _patch(agent.kernel.tables, stack, changes)

    assert (report.is_patch, report.entries) == (True, 502)
    assert (_talk(agent, BLOCKED), _talk(agent, "127.67.0.9")) == (errno.EPERM, errno.EPERM)


def test_a_table_that_many_keys_went_through_is_filled_anew(agent: Agent) -> None:
    """Withdrawn keys leave their bits in the filters: with three times as many keys most misses would get through."""
    stack = _stack(_many(20_000))
    _load(agent, stack)
    loaded = agent.kernel.tables._loaded
    assert loaded is not None

    for number in range(5):
        come = [_ip(f"11.{number}.{n >> 8}.{n & 255}") for n in range(5_000)]
        go = [withdrawal(Kind.IP, entry.value) for entry in come]
        for changes in (come, go):
            stack, generations = _grown(stack, *changes)
            assert _patch(agent.kernel.tables, stack, generations).is_patch

    now = agent.kernel.tables._loaded
    assert now is not None
    assert [table.added for table in now.tables if table.table.name == "addr"] == [0]
    assert [table.words for table in now.tables] == [table.words for table in loaded.tables]


def test_an_adopted_generation_is_loaded_and_not_patched(agent: Agent) -> None:
    stack = _stack([*_many(100), _ip(BLOCKED)])
    _load(agent, stack)
    successor = Tables(pins.directory_for(agent.config, agent.cgroup))

    stack, changes = _grown(stack, _ip(OTHER))

    assert not _patch(successor, stack, changes).is_patch
    assert (_talk(agent, BLOCKED), _talk(agent, OTHER)) == (errno.EPERM, errno.EPERM)
    stack, changes = _grown(stack, withdrawal(Kind.IP, OTHER))
    assert _patch(successor, stack, changes).is_patch
    assert _talk(agent, OTHER) == errno.ECONNREFUSED


def test_other_guarded_names_are_loaded_and_not_patched(agent: Agent) -> None:
    tables, stack = agent.kernel.tables, _stack(_many(100))
    tables.load(stack, time.time(), guarded_names=("a.example",))
    stack, changes = _grown(stack, Entry(id=1, kind=Kind.DOMAIN, value="=a.example", verdict=Verdict.BLOCK))

    report = tables.patch(stack, changes, time.time(), guarded_names=("a.example",))
    assert (report.is_patch, report.entries) == (True, 100)

    assert not tables.patch(stack, changes, time.time(), guarded_names=("b.example",)).is_patch


def test_above_the_budget_nothing_is_left_out_silently(agent: Agent) -> None:
    stack = _stack([*_many(100), _ip(BLOCKED, Verdict.ALLOW)])

    report = _load(agent, stack, budget_bytes=50 * BYTES_AN_ENTRY)

    assert (report.entries, report.over_budget, report.not_enforced) == (50, 51, 51)
    assert report.because == {"budget": 51}
    stack, changes = _grown(stack, _ip(OTHER, Verdict.ALLOW))
    report = _patch(agent.kernel.tables, stack, changes, budget_bytes=50 * BYTES_AN_ENTRY)
    assert (report.is_patch, report.entries, report.over_budget) == (False, 50, 52)
    assert _talk(agent, OTHER) == errno.ECONNREFUSED


def test_a_long_list_waits_a_little_before_it_is_built_anew_for_what_ended(agent: Agent) -> None:
    now_s = int(time.time())
    soon = Entry(id=1, kind=Kind.IP, value=BLOCKED, verdict=Verdict.BLOCK, valid_until=now_s + 1)

    few = agent.kernel.tables.load(_stack([soon]), now_s)
    many = agent.kernel.tables.load(_stack([*_many(60_000), soon]), now_s)

    assert (few.next_end_s, many.next_end_s) == (now_s + 1, now_s + 3)


def test_patches_put_off_no_longer_the_time_when_ended_entries_go(agent: Agent) -> None:
    now_s = int(time.time())
    soon = Entry(id=1, kind=Kind.IP, value=BLOCKED, verdict=Verdict.BLOCK, valid_until=now_s + 1)
    stack = _stack([*_many(60_000), soon])
    agent.kernel.tables.load(stack, now_s)

    for later_s in (1, 2, 3):
        stack, changes = _grown(stack, _ip(f"11.0.0.{later_s}"))
        report = agent.kernel.tables.patch(stack, changes, now_s + later_s)
        assert (report.is_patch, report.next_end_s) == (True, now_s + 3)


def test_an_entry_that_ended_counts_once_however_often_patches_name_it(agent: Agent) -> None:
    ended = Entry(id=1, kind=Kind.IP, value=OTHER, verdict=Verdict.BLOCK, valid_until=100)
    stack = _stack([*_many(100), ended])
    assert _load(agent, stack).expired == 1

    for confidence in (1, 2, 3):
        stack, changes = _grown(stack, msgspec.structs.replace(ended, confidence=confidence))
        report = _patch(agent.kernel.tables, stack, changes)
        assert (report.is_patch, report.expired) == (True, 1)

    assert _load(agent, stack).expired == 1
    stack, changes = _grown(stack, _ip(OTHER))
    assert _load(agent, stack).expired == 0


def test_a_load_that_fails_leaves_the_old_generation_and_no_memory(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    _load(agent, _stack([_ip(BLOCKED)]))

    def refuse(*_arguments: object) -> filling.Filled:
        raise KernelRefused("no memory")

    monkeypatch.setattr("mamplus_host.kernel.tables.fill", refuse)
    with pytest.raises(KernelRefused, match="no memory"):
        _load(agent, _stack([_ip(OTHER)]))

    assert (_talk(agent, BLOCKED), _talk(agent, OTHER)) == (errno.EPERM, errno.ECONNREFUSED)
    assert len(list(_installed(agent))) == len(filling.TABLES)


def _installed(agent: Agent) -> list[bytes]:
    """The tables in both sides."""
    outer = Map.pinned(pins.directory_for(agent.config, agent.cgroup) / "ble", 4, 4)
    return [key for key in outer.keys() if outer.get(key) is not None]  # noqa: SIM118 -- not a dictionary


def test_no_table_stays_mapped(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = _stack(_many(1000))
    before = _mapped_maps()

    _load(agent, stack)
    loaded = _mapped_maps()
    stack, changes = _grown(stack, _ip(BLOCKED))
    assert _patch(agent.kernel.tables, stack, changes).is_patch
    patched = _mapped_maps()
    stack, changes = _grown(stack, _ip(OTHER))
    monkeypatch.setattr(filling, "_set_names", _fails)
    with pytest.raises(KernelRefused):
        _patch(agent.kernel.tables, stack, changes)

    assert [loaded, patched, _mapped_maps()] == [before] * 3


def _fails(*_arguments: object) -> None:
    raise KernelRefused("no")


def _mapped_maps() -> int:
    """How many maps of the kernel lie in this process's memory."""
    return Path("/proc/self/maps").read_text().count("bpf-map")


def test_a_swap_under_a_million_lookups_a_second_never_shows_half_a_table(agent: Agent) -> None:
    """Every lookup of an entry that is in all generations is refused, and counted; loads and patches alternate."""
    stack = _stack([*_many(20_000), _ip(BLOCKED)])
    _load(agent, stack)
    refused = agent.kernel.tables.counters()["refused"]
    with _lookups(agent, BLOCKED) as hammer:
        for number in range(30):
            if number % 3:
                stack, changes = _grown(stack, *(_ip(f"11.0.{number}.{n}") for n in range(200)))
                assert _patch(agent.kernel.tables, stack, changes).is_patch
            else:
                _load(agent, stack)
        output, _ = hammer.communicate(b".", timeout=60)
    asked = int(output)

    assert hammer.returncode == 0
    assert agent.kernel.tables.counters()["refused"] - refused == asked > 0


def _lookups(agent: Agent, address: str) -> "subprocess.Popen[bytes]":
    """A program that asks about a packet from `address`, as fast as it can."""
    ip = bytes([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]) + inet_pton(AF_INET, address) + bytes([127, 0, 0, 1])
    packet = bytes(12) + b"\x08\0" + ip + bytes(8)
    pin = Path(agent.config.bpffs) / "packet_in"
    command: list[str | Path] = [agent.programs / "lookups", pin, packet.hex()]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
