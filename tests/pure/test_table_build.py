# SPDX-License-Identifier: Apache-2.0
"""What the C builder puts into a table is what a program that asks finds there."""

import mmap
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mamplus_host.kernel._native import ffi, lib

from mamplus_host.ble.format import NET_KEY, Section
from mamplus_host.kernel.layout import BLOCK_BUCKETS
from tests import table_reader as reader
from tests.table_reader import Reader

SALT = (0x0123456789ABCDEF, 0xFEDCBA9876543210)
EINVAL, ENOSPC = -22, -28
SUSPECT, BLOCK, ALLOW, OVER_BUDGET = 1, 2, 3, 4
NET, MAPPED = NET_KEY, bytes(10) + b"\xff\xff"
Entries = Sequence[tuple[bytes, int]]  # key, group


@dataclass
class Table:
    """A table in plain memory. Groups 0 to 4 are verdicts 0 to 4 of the same number."""

    blocks: int
    block_buckets: int
    threads: int = 1
    now_s: int = 0
    mask_bits: int = 0

    def __post_init__(self) -> None:
        self.memory = bytearray(8 * lib.mamplus_build_words(self.blocks, self.block_buckets, self.mask_bits))
        self.build = ffi.new("struct mamplus_build *")
        self.build.blocks, self.build.block_buckets = self.blocks, self.block_buckets
        self.build.threads, self.build.now_s, self.build.mask_bits = self.threads, self.now_s, self.mask_bits
        self.build.salt[0], self.build.salt[1] = SALT
        self._keep = ffi.from_buffer("uint64_t[]", self.memory, require_writable=True)
        self.build.words = self._keep

    def fill(self, *parts: "ffi.CData") -> int:
        assert lib.mamplus_build_begin(self.build) == 0
        for part in parts:
            result = int(lib.mamplus_build_scatter(self.build, part))
            if result:
                lib.mamplus_build_drop(self.build)
                return result
        return int(lib.mamplus_build_settle(self.build))

    def set(self, part: "ffi.CData", verdicts: bytes, ends: Sequence[int] = ()) -> int:
        until = struct.pack(f"<{len(verdicts)}I", *(ends or [0] * len(verdicts)))
        return int(lib.mamplus_build_set(self.build, part, verdicts, until))

    @property
    def masks(self) -> list[int]:
        buckets = self.blocks * self.block_buckets
        return memoryview(self.memory).cast("Q")[8 * (buckets + 1 + -(-buckets // 8)) :].tolist()

    @property
    def reader(self) -> Reader:
        return Reader(bytes(self.memory), SALT, self.blocks, self.block_buckets, self.build.stashed)


_alive: list[object] = []


def columns(section: Section, entries: Entries, *, ends: Sequence[int] = (), names: Sequence[str] = ()) -> "ffi.CData":
    """Return `struct mamplus_columns` of entries, or of `names`, whose keys are not looked at."""
    strings = b"".join(struct.pack("<H", len(name)) + name.encode() for name in names)
    starts = [sum(2 + len(name) for name in names[:i]) for i in range(len(names))]
    count = len(entries)
    made = {
        "keys": b"".join(key for key, _ in entries),
        "groups": struct.pack(f"<{count}I", *(group for _, group in entries)),
        "ends": struct.pack(f"<{count}I", *(ends or [0] * count)),
        "texts": struct.pack(f"<{len(names)}I", *starts),
        "strings": strings,
        "verdicts": bytes(range(5)),
    }
    types = {"verdicts": "uint8_t[]"}
    buffers = {name: ffi.new(types.get(name, "unsigned char[]"), data or b"\0") for name, data in made.items()}
    _alive.extend(buffers.values())
    return ffi.new(
        "struct mamplus_columns *",
        {**buffers, "strings_size": len(strings), "group_count": 5, "count": count, "section": section},
    )


@pytest.fixture
def in_file(tmp_path: Path) -> Iterator[Callable[["ffi.CData"], "ffi.CData"]]:
    """Make columns of addresses or names those of a file, `tmp_path / "list"`: what was read of texts is given back."""
    with ExitStack() as opened:

        def moved(part: "ffi.CData") -> "ffi.CData":
            count, is_named = part.count, part.section == Section.DOMAIN
            sizes = {"keys": count * (8 if is_named else 4), "groups": count * 4, "ends": count * 4}
            sizes |= {"texts": count * 4, "strings": part.strings_size} if is_named else {}
            data = [bytes(ffi.buffer(getattr(part, name), size)) for name, size in sizes.items()]
            (tmp_path / "list").write_bytes(b"before" + b"".join(data))
            file = opened.enter_context((tmp_path / "list").open("rb"))
            memory = opened.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            part.file = opened.enter_context(ffi.from_buffer(memory))
            part.fd, part.is_mapped, part.texts, at = file.fileno(), 1, ffi.NULL, len(b"before")
            for name, column in zip(sizes, data, strict=True):
                setattr(part, name, part.file + at)
                at += len(column)
            return part

        yield moved


def ip4_entries(count: int, verdict: int = BLOCK) -> list[tuple[bytes, int]]:
    return [(struct.pack(">I", number * 65537 % (1 << 32)), verdict) for number in range(count)]


def asked(table: Table, entries: Entries) -> list[int]:
    return [table.reader.verdict(reader.ip4(int.from_bytes(key, "big"))) for key, _ in entries]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_every_entry_is_found_with_its_verdict_and_nothing_else(threads: int) -> None:
    entries = [(key, 1 + number % 3) for number, (key, _) in enumerate(ip4_entries(100_000))]
    table = Table(8, 1954, threads)  # 80 % full

    assert table.fill(columns(Section.IP4, entries)) == 0

    view = table.reader
    held = view.held()
    assert held == {reader.ip4(int.from_bytes(key, "big")): group for key, group in entries}
    assert all(view.verdict(identity) == verdict for identity, verdict in list(held.items())[::7])
    assert not any(view.verdict(reader.ip4(number * 65537 + 1)) for number in range(1000))
    assert table.build.entries == len(entries)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_list_in_a_file_comes_in_as_one_in_memory_does(
    in_file: Callable[["ffi.CData"], "ffi.CData"], threads: int
) -> None:
    entries = [(key, 1 + number % 3) for number, (key, _) in enumerate(ip4_entries(100_000))]
    ends = [50 * (number % 7 == 0) for number in range(len(entries))]
    parts = [columns(Section.IP4, entries, ends=ends) for _ in range(2)]
    for part in parts:
        part.has_cut, part.cut_group, part.cut = 1, BLOCK, 70_001
    tables = Table(8, 1954, threads, now_s=60), Table(8, 1954, threads, now_s=60)

    assert [tables[0].fill(parts[0]), tables[1].fill(in_file(parts[1]))] == [0, 0]

    held = [table.reader.held() for table in tables]
    assert sorted(held[0].items() ^ held[1].items())[:3] == []
    told = [(table.build.entries, table.build.expired, table.build.over_budget) for table in tables]
    assert told[0] == told[1]
    assert told[0][2] > 0


def test_names_of_a_list_in_a_file_are_its_own(in_file: Callable[["ffi.CData"], "ffi.CData"]) -> None:
    names = [f"host{number}.example" for number in range(9000)]  # more than are read at once
    part = in_file(columns(Section.DOMAIN, [(bytes(8), BLOCK)] * len(names), names=names))
    table = Table(1, 1900)

    assert table.fill(part) == 0

    assert {*map(table.reader.verdict, (reader.name(SALT, name) for name in names[::50]))} == {BLOCK}


def test_a_file_that_became_shorter_is_damage(in_file: Callable[["ffi.CData"], "ffi.CData"], tmp_path: Path) -> None:
    part = in_file(columns(Section.IP4, ip4_entries(10_000)))
    with (tmp_path / "list").open("r+b") as file:
        file.truncate((tmp_path / "list").stat().st_size - 1)

    assert Table(1, 1900).fill(part) == EINVAL


def test_most_misses_end_at_the_near_filter_nearly_all_at_the_far_one_and_withdrawn_keys_are_not_found() -> None:
    entries = ip4_entries(100_000)
    table = Table(8, 1954)  # 80 % full

    assert table.fill(columns(Section.IP4, entries)) == 0
    view = table.reader
    missing = [reader.ip4(number * 65537 + 1) for number in range(10_000)]
    near, let_through = sum(map(view.passes_near, missing)), sum(map(view.passes_filter, missing))
    assert table.set(columns(Section.IP4, entries[:2000]), bytes(2000)) == 0

    assert 900 < near < 1500
    assert 0 < let_through < 300
    assert asked(table, entries[:2001]) == [0] * 2000 + [BLOCK]


@pytest.mark.parametrize(
    ("section", "key", "identity"),
    [  # of a network: address, prefix length, protocol, port
        (Section.SHA256, bytes(range(32)), reader.sha256(SALT, bytes(range(32)))),
        (Section.IP6, bytes(range(16)), reader.ip6(SALT, bytes(range(16)))),
        (Section.NET, NET.pack(bytes(range(16)), 64, 6, 443), reader.ip6(SALT, bytes(range(16)), 64, 6, 443)),
        (Section.NET, NET.pack(MAPPED + b"\x0a\0\0\0", 104, 17, 53), reader.ip4(10 << 24, 8, 17, 53)),
        (Section.NET, NET.pack(bytes(16), 0, 0, 22), reader.ip6(SALT, bytes(16), 0, 0, 22)),
    ],
    ids=["sha256", "ip6", "net6", "net4", "port"],
)  # fmt: skip
def test_each_kind_of_key_becomes_the_identity_that_programs_ask_for(
    section: Section, key: bytes, identity: int
) -> None:
    table = Table(1, 4)

    assert table.fill(columns(section, [(key, BLOCK)])) == 0

    assert table.reader.held() == {identity: BLOCK}


def test_names_are_hashed_with_the_salt_and_alone_is_another_key() -> None:
    names = ["bad.example", "=bad.example", "a" * 60 + ".example", "x.io"]
    table = Table(1, 4)

    assert table.fill(columns(Section.DOMAIN, [(bytes(8), BLOCK)] * len(names), names=names)) == 0

    assert table.reader.held() == {reader.name(SALT, name): BLOCK for name in names}


def test_of_two_entries_with_one_key_the_greater_verdict_stays() -> None:
    entries = ip4_entries(48_000, SUSPECT)
    table = Table(8, BLOCK_BUCKETS)  # while it is filled, all that comes has room

    assert table.fill(
        columns(Section.IP4, entries), columns(Section.IP4, [(key, ALLOW) for key, _ in entries[::2]]),
        columns(Section.IP4, [(key, BLOCK) for key, _ in entries]),
    ) == 0  # fmt: skip

    assert table.build.entries == len(entries)
    assert asked(table, entries[:1000]) == [ALLOW, BLOCK] * 500
    assert len(table.reader.held()) == len(entries)


def test_a_table_that_is_nearly_full_holds_all_by_moving_words() -> None:
    entries = ip4_entries(15_000)
    table = Table(1, BLOCK_BUCKETS)  # 94.5 % full

    assert table.fill(columns(Section.IP4, entries)) == 0

    assert asked(table, entries) == [BLOCK] * len(entries)


def test_the_stash_takes_what_has_no_other_place() -> None:
    table = Table(1, 1)

    assert table.fill(columns(Section.IP4, ip4_entries(5))) == 0
    assert table.set(columns(Section.IP4, ip4_entries(16)), bytes([BLOCK] * 16)) == 0

    assert table.build.stashed == 8
    assert asked(table, ip4_entries(16)) == [BLOCK] * 16
    assert table.set(columns(Section.IP4, ip4_entries(17)), bytes([BLOCK] * 17)) == ENOSPC


@pytest.mark.parametrize(("blocks", "buckets", "count"), [(1, 1, 17), (8, 1000, 66_000), (2, 3, 60)])
def test_without_room_it_says_so(blocks: int, buckets: int, count: int) -> None:
    assert Table(blocks, buckets, threads=2).fill(columns(Section.IP4, ip4_entries(count))) == ENOSPC


@pytest.mark.parametrize("group", [0, 5, 1 << 31])
def test_a_group_that_says_nothing_is_damage(group: int) -> None:
    table = Table(1, 100)

    assert table.fill(columns(Section.IP4, [*ip4_entries(300), (b"\1\2\3\4", group)])) == EINVAL
    assert table.set(columns(Section.IP4, [(b"\1\2\3\4", group)]), bytes([BLOCK])) == (0 if group == 0 else EINVAL)


def test_a_name_outside_of_the_strings_is_damage() -> None:
    part = columns(Section.DOMAIN, [(bytes(8), BLOCK)], names=["bad.example"])
    for size in (0, 1, 2, 12):
        part.strings_size = size
        assert Table(1, 4).fill(part) == EINVAL


def test_ended_entries_are_left_out_and_the_next_end_is_told() -> None:
    entries = ip4_entries(6)
    table = Table(1, 4, now_s=100)

    assert table.fill(columns(Section.IP4, entries, ends=[0, 99, 100, 101, 500, 0])) == 0

    assert asked(table, entries) == [BLOCK, 0, 0, BLOCK, BLOCK, BLOCK]
    assert (table.build.entries, table.build.expired, table.build.next_end_s) == (4, 2, 101)


def test_what_the_budget_leaves_out_is_counted() -> None:
    entries = [(key, (BLOCK, OVER_BUDGET, SUSPECT)[number % 3]) for number, (key, _) in enumerate(ip4_entries(9))]
    part = columns(Section.IP4, entries)
    part.has_cut, part.cut_group, part.cut = 1, SUSPECT, 6
    table = Table(1, 4)

    assert table.fill(part) == 0

    assert asked(table, entries) == [BLOCK, 0, SUSPECT, BLOCK, 0, SUSPECT, BLOCK, 0, 0]
    assert table.build.over_budget == 4


def test_a_key_without_budget_takes_none_away_that_another_part_brought_in() -> None:
    """A suspicion that has no room must not undo the block of another layer."""
    entries = ip4_entries(3, OVER_BUDGET)
    table = Table(1, 4)
    assert table.fill(columns(Section.IP4, ip4_entries(2))) == 0

    assert table.set(columns(Section.IP4, entries), bytes([BLOCK, ALLOW, SUSPECT])) == 0

    assert asked(table, entries) == [BLOCK, ALLOW, 0]
    assert (table.build.entries, table.build.over_budget) == (2, 1)


def test_setting_notes_ends_and_leaves_out_what_has_no_budget() -> None:
    entries = [
        (key, group) for (key, _), group in zip(ip4_entries(4), (BLOCK, OVER_BUDGET, SUSPECT, BLOCK), strict=True)
    ]
    table = Table(1, 4)
    assert table.fill(columns(Section.IP4, ip4_entries(1))) == 0

    assert table.set(columns(Section.IP4, entries), bytes([ALLOW, ALLOW, SUSPECT, 0]), [0, 300, 200, 100]) == 0

    assert asked(table, entries) == [ALLOW, 0, SUSPECT, 0]
    counted = table.build.entries, table.build.over_budget, table.build.next_end_s
    assert counted == (2, 1, 200)


def test_a_length_that_is_skipped_is_left_out() -> None:
    part = columns(Section.NET, [(NET.pack(bytes(range(16)), 64, 0, 0), BLOCK)])
    table = Table(1, 4)
    table.build.skip6[64 * 4] = 1

    assert (table.fill(part), table.set(part, bytes([BLOCK]))) == (0, 0)

    assert (table.build.entries, table.build.probes6[64 * 4]) == (0, 0)


def test_lengths_are_counted_anew_by_what_the_table_holds_each_network_once() -> None:
    keys = [(NET.pack(bytes([32, number]) + bytes(14), 64, 0, 0), BLOCK) for number in range(20)]
    others = [(NET.pack(MAPPED + b"\x0a\0\0\0", 104, 0, 0), BLOCK), (NET.pack(bytes(16), 0, 0, 22), BLOCK)]
    part, gone = columns(Section.NET, keys + others), columns(Section.NET, keys[:5])
    table = Table(1, 8)
    assert (table.fill(part, part), table.set(gone, bytes(5))) == (0, 0)
    assert table.build.probes6[64 * 4] == 45

    table.build.probes6 = [0] * 516
    seen = ffi.new("uint8_t[]", len(table.memory) // 64)
    for one in (part, part, gone):
        lib.mamplus_build_recount6(table.build, one, seen)

    assert list(table.build.probes6) == [0] * 256 + [15] + [0] * 259


@settings(max_examples=200, deadline=None)
@given(
    blocks=st.integers(1, 3),
    buckets=st.integers(1, 4),
    seed=st.integers(0, 1000),
    steps=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3)), max_size=300),
)
def test_setting_and_removing_leaves_what_a_dictionary_would(
    blocks: int, buckets: int, seed: int, steps: list[tuple[int, int]]
) -> None:
    keys = [struct.pack(">I", random.Random(seed).getrandbits(26) * 64 + number) for number in range(61)]
    table, model = Table(blocks, buckets), dict[bytes, int]()
    for number, verdict in steps:
        key = keys[number]
        if table.set(columns(Section.IP4, [(key, BLOCK)]), bytes([verdict])) == ENOSPC:
            break  # such a table is thrown away
        model[key] = verdict
        view = table.reader
        assert view.verdict(reader.ip4(int.from_bytes(key, "big"))) == verdict
    else:
        stand = {reader.ip4(int.from_bytes(key, "big")): verdict for key, verdict in model.items() if verdict}
        view = table.reader
        assert view.held() == stand
        assert {identity: view.verdict(identity) for identity in stand} == stand
        assert table.build.entries == len(stand)
    _alive.clear()


def test_a_copy_is_the_same_by_however_many_threads() -> None:
    table = Table(3, 700)
    assert table.fill(columns(Section.IP4, ip4_entries(10_000))) == 0
    for threads in (1, 2, 3, 4, 9):
        copy = bytearray(len(table.memory))
        with ffi.from_buffer("uint64_t[]", copy, require_writable=True) as to:
            lib.mamplus_build_copy(to, table.build.words, len(copy) // 8, threads)
        assert copy == table.memory


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_pairs_of_threads_share_a_block_from_both_ends(threads: int) -> None:
    entries = ip4_entries(300_000)
    table = Table(25, 1900, threads=threads)  # 79 % full, two turns and more for every thread

    assert table.fill(columns(Section.IP4, entries)) == 0

    assert table.build.entries == len(entries)
    assert len(table.reader.held()) == len(entries)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_blocks_that_overflow_ask_for_more_room_and_hold_nothing_wrong(threads: int) -> None:
    table = Table(5, 1900, threads=threads)

    assert table.fill(columns(Section.IP4, ip4_entries(100_000))) == ENOSPC
