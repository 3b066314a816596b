# SPDX-License-Identifier: Apache-2.0
"""The generation's file: what goes in comes out, and damage is BleInvalid or says the same twice."""

import struct
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mamplus_host.ble.encode import encode, place_of, winners
from mamplus_host.ble.entry import Entry, Kind, canonical
from mamplus_host.ble.format import DIRECTORY, GROUP, HEADER, KEY_SIZE, TEXT_KINDS, Generation, Section, value_of
from mamplus_host.errors import BleInvalid
from mamplus_host.verdicts import Severity, Verdict
from tests.pure.kinds import TEXT_VALUES
from tests.pure.test_entry import VALUES

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def lists(draw: st.DrawFn) -> list[Entry]:
    values = draw(st.lists(st.one_of(VALUES, TEXT_VALUES), max_size=12))
    return [
        Entry(
            id=number, kind=kind, value=canonical(kind, text),
            verdict=draw(st.sampled_from([Verdict.SUSPECT, Verdict.BLOCK, Verdict.ALLOW])),
            severity=draw(st.sampled_from(Severity)), confidence=draw(st.integers(0, 100)),
            valid_until=draw(st.integers(0, 2**32 - 1)), source=draw(TEXTS), reason=draw(TEXTS),
            message=draw(TEXTS), link=draw(TEXTS),
        )
        for number, (kind, text) in enumerate(values, start=1)
    ]  # fmt: skip


def listed(entries: list[Entry]) -> list[Entry]:
    """What a list of `entries` holds, in the order of its slots; a network that names one host's port is that host."""
    kept = [entry for keyed in winners(entries).values() for _key, entry in keyed]
    return [msgspec.structs.replace(entry, kind=kind, value=value) for entry in kept for kind, value in [spelt(entry)]]


def spelt(entry: Entry) -> tuple[Kind, str]:
    section, key = place_of(entry.kind, entry.value)
    return (entry.kind, entry.value) if section in TEXT_KINDS else value_of(section, key)


SMALL = [
    Entry(id=1, kind=Kind.SHA256, value="ab" * 32, verdict=Verdict.BLOCK, reason="r"),
    Entry(id=2, kind=Kind.IP, value="203.0.113.7", verdict=Verdict.SUSPECT),
    Entry(id=3, kind=Kind.CIDR, value="2001:db8::/32", verdict=Verdict.BLOCK),
    Entry(id=4, kind=Kind.DOMAIN, value="bad.example", verdict=Verdict.ALLOW),
    Entry(id=5, kind=Kind.DOMAIN, value="=bad.example", verdict=Verdict.BLOCK),
]
SMALL_FILE = encode(SMALL, generation=7, created_s=1_700_000_000, audience="device")


def test_the_header_says_what_was_given() -> None:
    generation = Generation(SMALL_FILE)

    assert (generation.number, generation.created_s, generation.count) == (7, 1_700_000_000, 5)
    assert (generation.audience, generation.may_shrink) == ("device", False)
    assert Generation(encode([], generation=1, created_s=0, may_shrink=True)).may_shrink


@given(lists(), st.integers(1, 2**63 - 1), st.booleans())
def test_what_goes_in_comes_out(entries: list[Entry], number: int, may_shrink: bool) -> None:
    data = encode(entries, generation=number, created_s=5, audience="a", may_shrink=may_shrink)
    generation = Generation(data)
    generation.check()

    assert list(generation.entries()) == listed(entries)
    assert (generation.number, generation.audience, generation.may_shrink) == (number, "a", may_shrink)
    again = encode(generation.entries(), generation=number, created_s=5, audience="a", may_shrink=may_shrink)
    assert again == data


@given(lists())
def test_every_entry_is_found_by_its_key(entries: list[Entry]) -> None:
    generation = Generation(encode(entries, generation=1, created_s=0))
    for slot, entry in enumerate(generation.entries()):
        assert slot in generation.find(*place_of(entry.kind, entry.value))
        assert generation.verdict_and_end(slot) == (entry.verdict, entry.valid_until)
        assert generation.value(slot) == (entry.kind, entry.value)


def test_of_two_entries_for_one_value_the_greater_verdict_wins_then_the_later_id() -> None:
    def entry(number: int, verdict: Verdict) -> Entry:
        return Entry(id=number, kind=Kind.IP, value="10.0.0.1", verdict=verdict)

    assert listed([entry(1, Verdict.ALLOW), entry(2, Verdict.BLOCK)]) == [entry(1, Verdict.ALLOW)]
    assert listed([entry(2, Verdict.BLOCK), entry(1, Verdict.BLOCK)]) == [entry(2, Verdict.BLOCK)]


def test_an_allow_gives_way_to_what_outlasts_it_in_whatever_order_they_come() -> None:
    def entry(number: int, verdict: Verdict, end: int) -> Entry:
        return Entry(id=number, kind=Kind.IP, value="10.0.0.1", verdict=verdict, valid_until=end)

    block, dated, lasting = entry(1, Verdict.BLOCK, 0), entry(2, Verdict.ALLOW, 100), entry(3, Verdict.ALLOW, 0)
    short = entry(4, Verdict.BLOCK, 50)

    assert listed([block, dated]) == listed([dated, block]) == [block]
    assert listed([block, lasting]) == listed([lasting, dated, block]) == [lasting]
    assert listed([short, dated]) == listed([dated, short]) == [dated]


def test_more_entries_than_user_space_can_search_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mamplus_host.ble.encode.MAX_FEW", 2)
    many = [Entry(id=n, kind=Kind.USER, value=f"uid:{n}", verdict=Verdict.BLOCK) for n in (1, 2, 3)]

    encode(many[:2], generation=1, created_s=0)
    with pytest.raises(BleInvalid, match="3 entries of kind user, want at most 2"):
        encode(many, generation=1, created_s=0)


def test_a_text_in_another_spelling_is_invalid_for_a_search_would_miss_it() -> None:
    good = encode([Entry(id=1, kind=Kind.PATH, value="/tmp/ab", verdict=Verdict.BLOCK)], generation=1, created_s=0)
    Generation(good).check()
    for value in ("/tmp//b", "/tmp/./", "/bin/ab", "/tm[p]/a"):
        entry = Entry(id=1, kind=Kind.PATH, value=value, verdict=Verdict.BLOCK)
        with pytest.raises(BleInvalid, match="spelling does not fit in entry 0 of path"):
            Generation(encode([entry], generation=1, created_s=0)).check()


def test_a_file_cut_off_anywhere_is_invalid() -> None:
    for length in range(len(SMALL_FILE)):
        with pytest.raises(BleInvalid):
            Generation(SMALL_FILE[:length]).check()


def test_keys_out_of_order_are_invalid_for_a_search_would_miss_them() -> None:
    two = [Entry(id=n, kind=Kind.IP, value=f"10.0.0.{n}", verdict=Verdict.BLOCK) for n in (1, 2)]
    data, at = encode(two, generation=1, created_s=0), HEADER.size + DIRECTORY.size
    swapped = data[:at] + data[at + 4 : at + 8] + data[at : at + 4] + data[at + 8 :]

    with pytest.raises(BleInvalid, match="order does not fit in entry 1 of ip4"):
        Generation(swapped).check()
    with pytest.raises(BleInvalid, match="order"):  # nor twice the same
        Generation(data[:at] + data[at + 4 : at + 8] * 2 + data[at + 8 :]).check()


def test_a_key_that_is_not_there_is_not_found() -> None:
    for section, size in KEY_SIZE.items():
        assert not Generation(SMALL_FILE).find(section, b"\xff" * size)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Kind.IP, "203.0.113.7"), (Kind.IP, "203.0.113.7:443/tcp"), (Kind.IP, "203.0.113.7:*/udp"),
        (Kind.IP, "2001:db8::7"), (Kind.IP, "[2001:db8::7]:443"), (Kind.CIDR, "203.0.113.0/24"),
        (Kind.CIDR, "203.0.113.0/24:53/udp"), (Kind.CIDR, "[2001:db8::/32]:*/tcp"), (Kind.CIDR, "0.0.0.0/0"),
        (Kind.CIDR, "::/0"), (Kind.CIDR, "203.0.113.7/32"), (Kind.PORT, "443"), (Kind.PORT, "53/udp"),
        (Kind.SHA256, "ab" * 32), (Kind.TLS, "cd" * 32), (Kind.DOMAIN, "bad.example"), (Kind.DOMAIN, "=bad.example"),
    ],
)  # fmt: skip
def test_each_spelling_comes_back_as_it_was(kind: Kind, value: str) -> None:
    generation = Generation(
        encode([Entry(id=1, kind=kind, value=value, verdict=Verdict.BLOCK)], generation=1, created_s=0)
    )
    generation.check()

    assert generation.value(0) == (kind, value)


def assert_says_one_thing(data: bytes) -> None:
    """Assert that `data` is BleInvalid, or that its records are those that its own entries would make."""
    try:
        generation = Generation(data)
        generation.check()
    except BleInvalid:
        return
    entries = list(generation.entries())
    rebuilt = Generation(
        encode(entries, generation=generation.number, created_s=generation.created_s, audience=generation.audience)
    )
    assert list(rebuilt.entries()) == entries
    assert all(canonical(entry.kind, entry.value) == entry.value for entry in entries)
    assert all(entry.verdict in (Verdict.ALLOW, Verdict.BLOCK, Verdict.SUSPECT) for entry in entries)


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SMALL_FILE) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_changed_bytes_are_invalid_or_still_say_one_thing(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SMALL_FILE)
    for at, value in changes:
        data[at] = value
    assert_says_one_thing(bytes(data))


def test_every_single_flipped_bit_is_invalid_or_still_says_one_thing() -> None:
    for bit in range(len(SMALL_FILE) * 8):
        data = bytearray(SMALL_FILE)
        data[bit // 8] ^= 1 << bit % 8
        assert_says_one_thing(bytes(data))


@given(st.binary(max_size=300))
@example(SMALL_FILE[:64])
def test_any_bytes_are_a_list_or_invalid(data: bytes) -> None:
    assert_says_one_thing(data)


def patched(at: int, data: bytes) -> bytes:
    return SMALL_FILE[:at] + data + SMALL_FILE[at + len(data) :]


_KEYS = HEADER.size + 4 * DIRECTORY.size  # of four sections: the first one's
_GROUPS = struct.unpack_from("<Q", SMALL_FILE, 40)[0]


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"", "cut off"),
        (patched(0, b"NOTABLE"), "this is no BLE"),
        (patched(8, b"\x01"), "update the agent"),
        (patched(16, bytes(8)), "header"),  # generation 0: the kernel's word for none
        (patched(23, b"\x80"), "header"),  # 2 ** 63: no room in that word
        (patched(32, b"\xff\xff\xff\xff"), "number of entries"),
        (SMALL_FILE + b"\0", "length"),
        (patched(HEADER.size, b"\x63"), "order of the sections"),
        (patched(HEADER.size + 8, b"\xff"), "section offset"),
        (patched(_KEYS + 32, b"\xff\xff"), "entry does not fit in entry 0 of sha256"),
        (patched(_KEYS + 40, bytes(8)), "entry does not fit in entry 0 of sha256"),
        (patched(_GROUPS, b"\x04"), "verdict, severity or confidence"),
        (patched(_GROUPS, b"\x00"), "verdict, severity or confidence"),
        (patched(_GROUPS + 2, b"\x65"), "verdict, severity or confidence"),
        (patched(_GROUPS + 4, b"\xff\xff\xff\x7f"), "text of a group"),
    ],
)
def test_each_kind_of_damage_is_named(data: bytes, wanted: str) -> None:
    with pytest.raises(BleInvalid, match=wanted):
        Generation(data).check()


@pytest.mark.parametrize(
    "name", ["Bad.example", "bad.exampl.", ".ad.example", "bad..xample", "bad-.xample", "bad.ex\xe4mple"]
)
def test_a_name_that_is_not_canonical_is_invalid(name: str) -> None:
    raw = name.encode("latin-1")
    data = SMALL_FILE.replace(struct.pack("<H", 11) + b"bad.example", struct.pack("<H", 11) + raw)

    assert data != SMALL_FILE
    with pytest.raises(BleInvalid, match="text does not fit"):
        Generation(data).check()


def test_a_time_or_number_without_room_in_the_file_cannot_be_written() -> None:
    entry = Entry(id=1, kind=Kind.IP, value="10.0.0.1", verdict=Verdict.BLOCK)
    for bad in (msgspec.structs.replace(entry, valid_until=2**32), msgspec.structs.replace(entry, id=0)):
        with pytest.raises(BleInvalid, match="want"):
            encode([bad], generation=1, created_s=0)
    with pytest.raises(BleInvalid, match="generation 0, want 1"):
        encode([entry], generation=0, created_s=0)


def test_a_file_is_opened_without_reading_it_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(encode([Entry(id=n, kind=Kind.SHA256, value=f"{n:064x}", verdict=Verdict.BLOCK, reason="x" * 300)
                             for n in range(1, 3000)], generation=1, created_s=0))  # fmt: skip
    tracemalloc.start()
    with Generation.open(path) as generation:
        assert generation.find(Section.SHA256, bytes.fromhex(f"{2000:064x}"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 4


def test_an_empty_file_and_a_missing_one_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(BleInvalid, match="is empty"):
        Generation.open(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        Generation.open(tmp_path / "missing")


def test_a_slot_beyond_the_last_is_an_index_error() -> None:
    with pytest.raises(IndexError, match="want 0 to 4"):
        Generation(SMALL_FILE).entry(5)


def test_a_text_beyond_its_bound_cannot_be_written() -> None:
    with pytest.raises(BleInvalid, match="want at most 4096"):
        encode([Entry(id=1, kind=Kind.IP, value="10.0.0.1", verdict=Verdict.BLOCK, reason="x" * 4097)],
               generation=1, created_s=0)  # fmt: skip


def test_the_fixed_parts_have_the_documented_sizes() -> None:
    """docs/bundle-format.md tells others these numbers."""
    text = (Path(__file__).parents[2] / "docs" / "bundle-format.md").read_text()
    for name, size in (("Header", HEADER.size), ("Section", DIRECTORY.size), ("Group", GROUP.size)):
        assert f"## {name}: {size} bytes" in text
    for section, size in KEY_SIZE.items():
        assert f"| {section.name.lower()} | {section.value} | {size} |" in text
