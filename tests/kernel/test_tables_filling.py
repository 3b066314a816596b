# SPDX-License-Identifier: Apache-2.0
"""Tables made from layers and deltas, or patched, hold what a list of all that stands would."""

import mmap
import random
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mamplus_host.ble.encode import encode, encode_delta, withdrawal
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.stack import LayerFiles, Stack
from mamplus_host.kernel import layout
from mamplus_host.kernel.budget import BYTES_AN_ENTRY, Rules, rules
from mamplus_host.kernel.filling import (
    ENFORCED,
    TABLES,
    Filled,
    NoRoom,
    Part,
    Table,
    changed,
    count_in,
    empty_like,
    fill,
    room,
)
from mamplus_host.kernel.tables import renewed
from mamplus_host.verdicts import Severity, Verdict
from tests.table_reader import Reader

from .test_tables import is_cut  # noqa: F401 -- a fixture

pytestmark = pytest.mark.kernel
SALT = bytes(range(16))
NUMBERS = (int.from_bytes(SALT[:8], "little"), int.from_bytes(SALT[8:], "little"))
NOW_S = 100
VALUES = [
    *((Kind.IP, f"10.0.0.{n}") for n in range(4)), (Kind.IP, "2001:db8::1"), (Kind.CIDR, "10.0.0.0/8"),
    *((Kind.CIDR, f"2001:db8::/{n}") for n in (32, 33, 48)), (Kind.CIDR, "[2001:db8::/32]:443"),
    (Kind.IP, "10.0.0.1:443/tcp"), (Kind.PORT, "53/udp"), (Kind.SHA256, "ab" * 32), (Kind.SHA256, "cd" * 32),
    *((Kind.DOMAIN, f"{c}.example") for c in "ab"), (Kind.DOMAIN, "=a.example"),
]  # fmt: skip
ENTRIES = st.builds(
    lambda place, verdict, end: Entry(id=1, kind=place[0], value=place[1], verdict=verdict, valid_until=end)
    if verdict else withdrawal(*place),
    st.sampled_from(VALUES), st.sampled_from([Verdict.NOTHING, Verdict.SUSPECT, Verdict.BLOCK, Verdict.ALLOW]),
    st.sampled_from([0, 50, 200]),
)  # fmt: skip
CHANGES = st.lists(ENTRIES, max_size=8, unique_by=lambda entry: (entry.kind, entry.value))
LAYERS = st.dictionaries(st.sampled_from(Layer), st.lists(CHANGES, min_size=1, max_size=4), min_size=1)


def layer(which: Layer, changes: Sequence[list[Entry]]) -> LayerFiles:
    files = LayerFiles(which, Generation(encode([one for one in changes[0] if one.id], generation=1, created_s=0)))
    for number, entries in enumerate(changes[1:], start=2):
        delta = encode_delta(entries, files.parts, generation=number, created_s=0)
        files = LayerFiles(which, files.base, (*files.deltas, Generation(delta)))
    return files


def loaded(stack: Stack, names: Sequence[str] = (), now_s: int = NOW_S, budget_bytes: int = 0) -> list[Filled]:
    files = list(stack.parts())
    granted = rules(files, ENFORCED, now_s, budget_bytes)
    parts = [Part(part, rule, part.is_delta) for part, rule in zip(files, granted, strict=True)]
    return [fill(room(table, count_in(table, parts, names)), stack, parts, names, SALT, now_s) for table in TABLES]


def patched(old: Iterable[Filled], stack: Stack, files: Sequence[Generation], names: Sequence[str]) -> list[Filled]:
    """NoRoom where the kernel's tables are loaded anew."""
    parts = [Part(part, Rules.of(part), is_resolved=True) for part in files]
    return [
        changed(table, empty_like(table), stack, parts, names, SALT, NOW_S) if count_in(table.table, parts) else table
        for table in old
    ]


@pytest.fixture(params=[False, True], ids=["plain", "crowded"])
def crowd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All names share a key of their files, and the programs ask for one IPv6 length only."""
    if request.param:
        monkeypatch.setattr("mamplus_host.ble.encode.domain_key", lambda _value: 7)
        monkeypatch.setattr(layout, "PROBES6_MAX", 1)


def held(filled: Filled) -> dict[int, int]:
    cut = filled.memory.cut * layout.BUCKET.size
    sizes = (cut, filled.bytes - cut) if cut else (filled.bytes,)
    memory = b"".join(mmap.mmap(part.number, size)[:] for part, size in zip(filled.memory.maps, sizes, strict=True))
    reader = Reader(memory, NUMBERS, filled.blocks, filled.block_buckets, filled.stashed)
    if not filled.blocks:
        return {}
    found = reader.held()
    assert {identity: reader.verdict(identity) for identity in found} == found, "what is there is not found"
    assert len(found) == filled.words
    return found


def flat(stack: Stack) -> Stack:
    """One list of what stands and has not ended, each value with its greatest verdict."""
    best: dict[tuple[Kind, str], Entry] = {}
    for _layer, entry in stack.entries():
        place = (entry.kind, entry.value)
        is_live = not entry.valid_until or entry.valid_until > NOW_S
        if is_live and (place not in best or entry.verdict > best[place].verdict):
            best[place] = entry
    return Stack.of(Generation(encode(best.values(), generation=1, created_s=0)))


IN_CROWDS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.usefixtures("crowd")
@IN_CROWDS
@given(LAYERS)
def test_layers_with_deltas_become_the_tables_of_one_list_of_what_stands(
    changes: dict[Layer, list[list[Entry]]],
) -> None:
    stack = Stack([layer(which, entries) for which, entries in changes.items()])

    tables, wanted = loaded(stack), loaded(flat(stack))

    assert [held(one) for one in tables] == [held(one) for one in wanted]
    assert [one.unprobed for one in tables] == [one.unprobed for one in wanted]


@pytest.mark.usefixtures("crowd")
@IN_CROWDS
@given(LAYERS, st.integers(1, 12))
def test_with_a_budget_tables_hold_nothing_that_the_list_does_not_say(
    changes: dict[Layer, list[list[Entry]]], entries: int
) -> None:
    stack = Stack([layer(which, parts) for which, parts in changes.items()])

    for few, all_of_them in zip(loaded(stack, budget_bytes=entries * BYTES_AN_ENTRY), loaded(flat(stack)), strict=True):
        if few.unprobed or all_of_them.unprobed:
            continue  # which lengths are left out depends on how many entries of each have room
        said = held(all_of_them)
        assert all(verdict <= said.get(identity, 0) for identity, verdict in held(few).items())
        assert len(said) - few.over_budget <= few.words


def mentioned(files: Sequence[Generation], table: Table) -> set[int]:
    """The identities of all that `files` name, withdrawn or not."""
    values = {file.value(slot) for file in files for slot in range(file.count)}
    everything = [Entry(id=1, kind=kind, value=value, verdict=Verdict.BLOCK) for kind, value in values]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "PROBES6_MAX", 256)
        filled = loaded(Stack.of(Generation(encode(everything, generation=1, created_s=0))))
    return set(held(next(one for one in filled if one.table == table)))


@pytest.mark.usefixtures("crowd")
@IN_CROWDS
@given(LAYERS, LAYERS, st.sampled_from([(), ("a.example",)]), st.sampled_from([NOW_S, 250]))
def test_patched_tables_are_those_of_a_fresh_load(
    before: dict[Layer, list[list[Entry]]], after: dict[Layer, list[list[Entry]]], names: tuple[str, ...], later_s: int
) -> None:
    """Most examples grow layers, as a delta does; some replace a layer as a whole.

    What a patch does not name stays as it was loaded, even if it ended since: the next load leaves it out.
    """
    grown = {which: before.get(which, []) + after.get(which, []) for which in before | after}
    old = Stack([layer(which, entries) for which, entries in before.items()])
    new = Stack([layer(which, entries) for which, entries in grown.items()])
    files = new.changed_since(old)
    assert files is not None
    parts = [Part(part, Rules.of(part), is_resolved=True) for part in files]

    for start, fresh in zip(loaded(old, names), loaded(new, names, later_s), strict=True):
        if not count_in(start.table, parts):
            continue
        into = empty_like(start)
        made = renewed(start, into, new, parts, names, SALT, later_s)
        wanted = held(fresh)
        if made.memory is into.memory:  # patched, and not filled anew for want of room
            named = mentioned(files, start.table)
            wanted = {identity: verdict for identity, verdict in wanted.items() if identity in named}
            wanted |= {identity: verdict for identity, verdict in held(start).items() if identity not in named}
        assert held(made) == wanted
        assert made.unprobed == (0 if made.memory is into.memory else fresh.unprobed)


def test_a_patch_of_many_changes_in_large_tables_is_that_of_a_fresh_load(is_cut: bool) -> None:  # noqa: F811
    draw = random.Random(7)
    entries = [
        Entry(id=1, kind=Kind.IP, value=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", verdict=Verdict.BLOCK)
        for n in range(60_000)
    ]
    which = draw.sample(range(60_000), 3000)
    changes = [withdrawal(Kind.IP, entries[n].value) for n in which[:1000]]
    changes += [Entry(id=1, kind=Kind.IP, value=entries[n].value, verdict=Verdict.ALLOW) for n in which[1000:2000]]
    changes += [
        Entry(id=1, kind=Kind.IP, value=f"11.0.{n >> 8}.{n & 255}", verdict=Verdict.SUSPECT) for n in range(1000)
    ]
    old = Stack([layer(Layer.FEEDS, [entries])])
    new = Stack([layer(Layer.FEEDS, [entries, changes])])
    files = new.changed_since(old)
    assert files is not None

    tables = patched(loaded(old), new, files, ())

    assert len(tables[layout.T_ADDR].memory.maps) == 1 + is_cut
    assert held(tables[layout.T_ADDR]) == held(loaded(new)[layout.T_ADDR])
    assert tables[layout.T_ADDR].words == 60_000


def test_of_too_many_ipv6_lengths_those_with_the_fewest_entries_are_left_out() -> None:
    pairs = [
        (prefix, rest) for prefix in range(1, 128) for rest in ("", "*/tcp", "443", "443/tcp")
    ]  # 508 lengths and qualifiers
    entries = [
        Entry(
            id=1, kind=Kind.CIDR, verdict=Verdict.BLOCK,
            value=f"[{0x8000 + copy:x}::/{prefix}]:{rest}" if rest else f"{0x8000 + copy:x}::/{prefix}",
        )
        for number, (prefix, rest) in enumerate(pairs) if prefix >= 16 for copy in range(1 + number % 2)
    ]  # fmt: skip
    stack = Stack([layer(Layer.ENTERPRISE, [entries])])

    net = loaded(stack)[layout.T_NET]

    assert len(net.pairs6) == layout.PROBES6_MAX
    assert net.words + net.unprobed == len(entries)
    assert net.unprobed == 448 - layout.PROBES6_MAX  # one each of those with one entry
    assert net.words == len(held(net))


def test_which_ipv6_lengths_are_left_out_depends_on_what_stands_not_on_how_it_came() -> None:
    def network(number: int, prefix: int, rest: str) -> Entry:
        value = f"[{0x2000 + number:x}::/{prefix}]:{rest}" if rest else f"{0x2000 + number:x}::/{prefix}"
        return Entry(id=1, kind=Kind.CIDR, value=value, verdict=Verdict.BLOCK)

    lengths = [(prefix, rest) for prefix in range(20, 84) for rest in ("", "*/tcp", "443", "443/tcp")]
    many = [network(number, *length) for length in lengths for number in range(2)]
    odd = network(9, 84, "")  # the 257th length, with one entry
    gone = [withdrawal(Kind.CIDR, one.value) for one in many if "/20" in one.value]
    stands = [one for one in many if "/20" not in one.value] + [odd]
    old = Stack([layer(Layer.ENTERPRISE, [[*many, odd]]), layer(Layer.FEEDS, [many])])
    new = Stack([layer(Layer.ENTERPRISE, [[*many, odd], gone]), layer(Layer.FEEDS, [many, gone])])
    files = new.changed_since(old)
    assert files is not None
    start, fresh = loaded(old), loaded(new)[layout.T_NET]

    assert (start[layout.T_NET].words, start[layout.T_NET].unprobed) == (len(many), 1)
    with pytest.raises(NoRoom):  # and Tables.patch loads the table anew
        patched(start, new, files, ())
    assert held(fresh) == held(loaded(Stack([layer(Layer.ENTERPRISE, [stands])]))[layout.T_NET])
    assert (fresh.words, fresh.unprobed) == (len(stands), 0)


def test_a_budget_takes_allowed_ones_first_then_by_severity_and_cuts_the_last_group() -> None:
    def some(count: int, third: int, verdict: Verdict, severity: Severity) -> list[Entry]:
        return [
            Entry(id=1, kind=Kind.IP, value=f"10.0.{third}.{n}", verdict=verdict, severity=severity)
            for n in range(count)
        ]

    entries = some(100, 1, Verdict.BLOCK, Severity.LOW) + some(100, 2, Verdict.BLOCK, Severity.HIGH)
    entries += some(100, 3, Verdict.ALLOW, Severity.INFORMATIONAL)
    entries += [Entry(id=1, kind=Kind.SHA256, value="ab" * 32, verdict=Verdict.BLOCK, severity=Severity.CRITICAL)]
    generation = Generation(encode(entries, generation=1, created_s=0))
    stack = Stack.of(generation)
    (rule,) = rules([generation], ENFORCED, NOW_S, 151 * BYTES_AN_ENTRY)
    parts = [Part(generation, rule, is_resolved=False)]

    tables = [fill(room(table, count_in(table, parts)), stack, parts, (), SALT, NOW_S) for table in TABLES]

    verdicts = list(held(tables[layout.T_ADDR]).values())
    assert (verdicts.count(Verdict.ALLOW), verdicts.count(Verdict.BLOCK)) == (100, 50)
    assert tables[layout.T_SHA256].words == 1
    assert sum(table.over_budget for table in tables) == 150
    assert {table.over_budget for table in loaded(stack)} == {0}


def test_a_feeds_entry_beyond_the_budget_leaves_the_block_of_the_administrators() -> None:
    def some(third: int, severity: Severity) -> list[Entry]:
        return [
            Entry(id=1, kind=Kind.IP, value=f"10.0.{third}.{n}", verdict=Verdict.BLOCK, severity=severity)
            for n in range(100)
        ]

    again = Entry(id=1, kind=Kind.IP, value="10.0.1.5", verdict=Verdict.SUSPECT, severity=Severity.INFORMATIONAL)
    stack = Stack([
        layer(Layer.ENTERPRISE, [some(1, Severity.HIGH)]), layer(Layer.FEEDS, [some(2, Severity.LOW), [again]]),
    ])  # fmt: skip
    files = list(stack.parts())
    parts = [
        Part(part, rule, part.is_delta)
        for part, rule in zip(files, rules(files, ENFORCED, NOW_S, 100 * BYTES_AN_ENTRY), strict=True)
    ]
    table = TABLES[layout.T_ADDR]

    filled = fill(room(table, count_in(table, parts)), stack, parts, (), SALT, NOW_S)

    assert held(filled) == held(loaded(Stack([layer(Layer.ENTERPRISE, [some(1, Severity.HIGH)])]))[layout.T_ADDR])
    assert filled.over_budget == 100
