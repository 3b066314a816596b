# SPDX-License-Identifier: Apache-2.0
"""The generation's file: what goes in comes out, and damage is BleInvalid or says the same twice."""

import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mamplus_host.ble.entry import Entry, Kind, canonical
from mamplus_host.ble.format import ENTRY, HEADER, RECORD, SECTION, Generation, encode, winners
from mamplus_host.errors import BleInvalid
from mamplus_host.verdicts import Severity, Verdict
from tests.pure.test_entry import VALUES

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def lists(draw: st.DrawFn) -> list[Entry]:
    values = draw(st.lists(VALUES, max_size=12))
    return [
        Entry(
            id=number, kind=kind, value=canonical(kind, text),
            verdict=draw(st.sampled_from([Verdict.SUSPECT, Verdict.BLOCK, Verdict.ALLOW])),
            severity=draw(st.sampled_from(Severity)), confidence=draw(st.integers(0, 100)),
            valid_until=draw(st.integers(0, 2**63)), source=draw(TEXTS), reason=draw(TEXTS),
            message=draw(TEXTS), link=draw(TEXTS),
        )
        for number, (kind, text) in enumerate(values, start=1)
    ]  # fmt: skip


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


@given(lists(), st.integers(0, 2**64 - 1), st.booleans())
def test_what_goes_in_comes_out(entries: list[Entry], number: int, may_shrink: bool) -> None:
    data = encode(entries, generation=number, created_s=5, audience="a", may_shrink=may_shrink)
    generation = Generation(data)
    generation.check()

    assert list(generation.entries()) == winners(entries)
    assert (generation.number, generation.audience, generation.may_shrink) == (number, "a", may_shrink)
    again = encode(generation.entries(), generation=number, created_s=5, audience="a", may_shrink=may_shrink)
    assert again == data


@given(lists())
def test_every_record_is_found_by_its_key_and_leads_to_its_entry(entries: list[Entry]) -> None:
    generation = Generation(encode(entries, generation=1, created_s=0))
    found = 0
    for kind in Kind:
        for record in generation.raw(kind):
            slot = generation.find(kind, record[:-4])
            assert slot is not None
            assert generation.entry(slot).kind is kind
            assert generation.verdict_and_end(slot)[0] == generation.entry(slot).verdict
            found += 1
    assert found == generation.count


def test_of_two_entries_for_one_value_the_greater_verdict_wins_then_the_later_id() -> None:
    def entry(number: int, verdict: Verdict) -> Entry:
        return Entry(id=number, kind=Kind.IP, value="10.0.0.1", verdict=verdict)

    assert winners([entry(1, Verdict.ALLOW), entry(2, Verdict.BLOCK)]) == [entry(1, Verdict.ALLOW)]
    assert winners([entry(2, Verdict.BLOCK), entry(1, Verdict.BLOCK)]) == [entry(2, Verdict.BLOCK)]


def test_two_names_with_one_hash_both_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """FNV is not collision resistant, and a feed must not be able to make a list that no device takes."""
    monkeypatch.setattr("mamplus_host.ble.format.domain_hash", lambda _: 7)
    names = [Entry(id=n, kind=Kind.DOMAIN, value=f"{n}.bad.example", verdict=Verdict.BLOCK) for n in (1, 2)]
    generation = Generation(encode(names, generation=1, created_s=0))

    generation.check()
    assert list(generation.entries()) == names


def test_a_file_cut_off_anywhere_is_invalid() -> None:
    for length in range(len(SMALL_FILE)):
        with pytest.raises(BleInvalid):
            Generation(SMALL_FILE[:length]).check()


def test_records_out_of_order_are_invalid_for_a_search_would_miss_them() -> None:
    two = [Entry(id=n, kind=Kind.IP, value=f"10.0.0.{n}", verdict=Verdict.BLOCK) for n in (1, 2)]
    data, at = encode(two, generation=1, created_s=0), HEADER.size + SECTION.size
    swapped = data[:at] + data[at + 20 : at + 40] + data[at : at + 20] + data[at + 40 :]

    with pytest.raises(BleInvalid, match="order of the ip records"):
        Generation(swapped).check()


def test_one_slot_cannot_have_two_records() -> None:
    data, at = bytearray(encode(SMALL[:2], generation=1, created_s=0)), HEADER.size + 2 * SECTION.size + 36 + 16
    assert data[at] == 1
    data[at] = 0

    with pytest.raises(BleInvalid, match="entry in slot 0"):
        Generation(bytes(data)).check()


def test_a_key_that_is_not_there_is_not_found() -> None:
    for kind in Kind:
        assert Generation(SMALL_FILE).find(kind, b"\xff" * (RECORD[kind].size - 4)) is None


def meaning(generation: Generation) -> list[tuple[Kind, bytes, str]]:
    """What the kernel is told (key) beside what people are told (value), for every record."""
    pairs = []
    for kind in Kind:
        for record in generation.raw(kind):
            entry = generation.entry(int.from_bytes(record[-4:], "little"))
            pairs.append((entry.kind, record[:-4], entry.value))
    return pairs


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
    assert len(entries) == len(winners(entries))
    assert sorted(meaning(rebuilt)) == sorted(meaning(generation))
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


_SECTIONS = HEADER.size
_FIRST_RECORD = HEADER.size + 4 * SECTION.size
_ENTRIES = struct.unpack_from("<I", SMALL_FILE, 44)[0]


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"", "cut off"),
        (patched(0, b"NOTABLE"), "this is no BLE"),
        (patched(8, b"\x02"), "update the agent"),
        (patched(32, b"\xff\xff\xff\xff"), "entries"),
        (SMALL_FILE + b"\0", "length"),
        (patched(_SECTIONS, b"\x09"), "section kind"),
        (patched(_FIRST_RECORD + 32, b"\x09"), "slot of a sha256 record"),
        (patched(_FIRST_RECORD, b"\xac"), "entry in slot 0"),
        (patched(_ENTRIES + 16, b"\x04"), "entry in slot 0"),
        (patched(_ENTRIES + 16, b"\x00"), "entry in slot 0"),
        (patched(_ENTRIES + 19, b"\x65"), "entry in slot 0"),
        (patched(_ENTRIES, bytes(8)), "entry in slot 0"),
        (patched(_ENTRIES + 20, b"\xff\xff\xff\x7f"), "string offset"),
    ],
)
def test_each_kind_of_damage_is_named(data: bytes, wanted: str) -> None:
    with pytest.raises(BleInvalid, match=wanted):
        Generation(data).check()


@pytest.mark.parametrize("value", ["AB" * 32, "ab" * 31, "a" * 63 + "g", "ab ab" * 12, ""])
def test_a_value_that_is_not_canonical_is_invalid(value: str) -> None:
    data = SMALL_FILE.replace(struct.pack("<H", 64) + b"ab" * 32, struct.pack("<H", 64) + value.encode().ljust(64)[:64])

    assert data != SMALL_FILE
    with pytest.raises(BleInvalid):
        Generation(data).check()


def test_a_file_is_opened_without_reading_it_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(encode([Entry(id=n, kind=Kind.SHA256, value=f"{n:064x}", verdict=Verdict.BLOCK, reason="x" * 300)
                             for n in range(1, 3000)], generation=1, created_s=0))  # fmt: skip
    tracemalloc.start()
    with Generation.open(path) as generation:
        assert generation.find(Kind.SHA256, bytes.fromhex(f"{2000:064x}")) is not None
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
    for name, size in (("Header", HEADER.size), ("Section", SECTION.size), ("Entry", ENTRY.size)):
        assert f"## {name}: {size} bytes" in text
    for kind, record in RECORD.items():
        assert f"| {kind.name.lower()} | {kind.value} | {record.size} |" in text
