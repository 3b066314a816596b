# SPDX-License-Identifier: Apache-2.0
"""Deltas and state roots: what is sent instead of a whole list says the same, or is refused."""

import hashlib
import itertools
import struct
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mamplus_host.ble import native
from mamplus_host.ble.compile import compile_next
from mamplus_host.ble.encode import encode, encode_delta, place_of, withdrawal
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import DIRECTORY, HEADER, TEXT_KINDS, Generation
from mamplus_host.errors import BleInvalid
from mamplus_host.verdicts import Severity, Verdict
from tests.pure.test_format import lists


def spelt_root(entries: list[Entry]) -> bytes:
    """Return the state root as docs/bundle-format.md words it, in plain Python."""
    total = 0
    for entry in entries:
        section, key = place_of(entry.kind, entry.value)
        said = bytes([entry.verdict, entry.severity, entry.confidence])
        for remark in (entry.source, entry.reason, entry.message, entry.link):
            said += struct.pack("<H", len(remark.encode())) + remark.encode()
        group = hashlib.sha256(said).digest() + bytes(32)
        text = entry.value.encode() if section in TEXT_KINDS else b""
        what = group + struct.pack("<HQI", section, entry.id, entry.valid_until) + key + text
        total += int.from_bytes(hashlib.sha256(what).digest(), "little")
    return (total % 2**256).to_bytes(32, "little")


@given(lists())
def test_the_state_root_is_the_sum_that_the_documentation_words(entries: list[Entry]) -> None:
    made = Generation(encode(entries, generation=1, created_s=0))

    assert made.root == spelt_root(list(made.entries())) == native.state_root(made.buffer)


@given(lists(), lists())
def test_a_delta_leads_from_the_root_of_one_list_to_that_of_the_other(old: list[Entry], new: list[Entry]) -> None:
    base = Generation(encode(old, generation=1, created_s=0))
    wanted = Generation(encode(new, generation=2, created_s=0))
    kept = {(entry.kind, entry.value) for entry in wanted.entries()}
    gone = [withdrawal(e.kind, e.value) for e in base.entries() if (e.kind, e.value) not in kept]
    delta = Generation(encode_delta([*wanted.entries(), *gone], [base], generation=2, created_s=0))
    delta.check()

    assert (delta.is_delta, delta.from_number, delta.number) == (True, 1, 2)
    assert (delta.root, delta.total) == (wanted.root, wanted.count)


CHANGES = [{"id": 98}, {"value": "b.example"}, {"verdict": Verdict.SUSPECT}, {"valid_until": 1}, {"reason": "x"},
           {"source": "x"}, {"confidence": 99}, {"severity": Severity.LOW}]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
@given(lists())
def test_an_entry_that_says_anything_else_makes_another_root(change: dict[str, Any], entries: list[Entry]) -> None:
    entry = Entry(id=99, kind=Kind.DOMAIN, value="a.example", verdict=Verdict.BLOCK)
    other = msgspec.structs.replace(entry, **change)
    base = [e for e in entries if e.value not in ("a.example", "b.example")]
    one = Generation(encode([*base, entry], generation=1, created_s=0))

    assert one.root != Generation(encode([*base, other], generation=1, created_s=0)).root


def applied(base: Generation, *deltas: Generation) -> bytes:
    """Return the whole list that C makes of them."""
    with tempfile.TemporaryFile() as file:
        native.merge([base.buffer, *(delta.buffer for delta in deltas)], file.fileno())
        file.seek(0)
        return file.read()


@given(lists(), lists(), st.booleans())
def test_the_difference_of_two_lists_applied_to_the_first_is_the_second_byte_for_byte(
    old: list[Entry], new: list[Entry], may_shrink: bool
) -> None:
    a = Generation(encode(old, generation=1, created_s=4, audience="a"))
    b = Generation(encode(new, generation=2, created_s=5, audience="a", may_shrink=may_shrink))
    delta = Generation(native.diff(a.buffer, b.buffer))
    delta.check()

    assert applied(a, delta) == b.buffer
    assert native.after([a.buffer], a.root, a.total, delta.buffer) == (b.root, b.count)
    assert (delta.from_number, delta.number, delta.root, delta.total) == (1, 2, b.root, b.count)


@given(lists(), lists(), lists())
def test_a_chain_of_deltas_is_merged_as_if_each_were_applied_to_the_last(
    first: list[Entry], second: list[Entry], third: list[Entry]
) -> None:
    made = [Generation(encode(entries, generation=number, created_s=0))
            for number, entries in enumerate((first, second, third), start=1)]  # fmt: skip
    deltas = [Generation(native.diff(old.buffer, new.buffer)) for old, new in itertools.pairwise(made)]

    assert applied(made[0], *deltas) == made[2].buffer


@given(lists(), lists())
def test_a_delta_is_trimmed_to_what_changes_something(old: list[Entry], new: list[Entry]) -> None:
    a, b = (Generation(encode(entries, generation=n, created_s=0)) for n, entries in ((1, old), (2, new)))
    wanted = Generation(native.diff(a.buffer, b.buffer))
    absent = withdrawal(Kind.IP, "192.0.2.255")  # which no drawn list holds
    wordy = [*b.entries(), absent, *(entry for entry in wanted.entries() if not entry.id)]

    delta = encode_delta(wordy, [a], generation=2, created_s=0)
    assert native.trimmed(a.buffer, delta) == wanted.buffer
    assert applied(a, Generation(delta)) == b.buffer  # and untrimmed it means the same


MANY = [Entry(id=n, kind=Kind.IP, value=f"10.0.0.{n}", verdict=Verdict.BLOCK) for n in range(1, 9)] + [
    Entry(id=n, kind=Kind.DOMAIN, value=f"{c}.example", verdict=Verdict.SUSPECT, reason="r", valid_until=7)
    for n, c in enumerate("abcdef", start=20)
]  # fmt: skip
BASE = Generation(encode(MANY, generation=1, created_s=0))
DELTA = encode_delta(
    [msgspec.structs.replace(MANY[0], id=99, verdict=Verdict.SUSPECT, reason="s"), withdrawal(Kind.IP, "10.0.0.2"),
     Entry(id=98, kind=Kind.IP, value="10.0.1.1", verdict=Verdict.ALLOW), withdrawal(Kind.DOMAIN, "b.example"),
     Entry(id=97, kind=Kind.DOMAIN, value="=b.example", verdict=Verdict.BLOCK, valid_until=9)],
    [BASE], generation=2, created_s=0,
)  # fmt: skip
SIGNED = Generation(DELTA)


def is_taken(data: bytes, base: Generation = BASE) -> bool:
    """Whether a device would take `data` for the delta that was signed, were there no hash of the file."""
    try:
        delta = Generation(data)
        delta.check()
        made = native.after([base.buffer], base.root, base.total, data)
    except BleInvalid:
        return False
    return made == (SIGNED.root, SIGNED.total) == (delta.root, delta.total)


def test_every_flipped_bit_of_a_delta_is_refused_or_changes_nothing_that_is_enforced() -> None:
    harmless = set()
    wanted = list(Generation(applied(BASE, SIGNED)).entries())
    for bit in range(len(DELTA) * 8):
        data = bytearray(DELTA)
        data[bit // 8] ^= 1 << bit % 8
        if is_taken(bytes(data)):
            harmless.add(bit // 8)
            assert list(Generation(applied(BASE, Generation(bytes(data)))).entries()) == wanted
    body = {at for at in harmless if at >= HEADER.size + DIRECTORY.size * len(SIGNED.sections)}
    texts = {
        Generation(DELTA)._strings + at for at in (0, 1)
    }  # the empty string is nobody's remark here but all of them
    assert is_taken(DELTA)
    assert all(DELTA[at] == 0 for at in body - texts)  # padding


def test_a_delta_does_not_fit_another_list() -> None:
    other = Generation(encode([*MANY[:4], *MANY[5:]], generation=1, created_s=0))

    assert is_taken(DELTA)
    assert not is_taken(DELTA, other)


def test_what_is_not_there_can_be_withdrawn_and_stays_away() -> None:
    delta = Generation(encode_delta([withdrawal(Kind.IP, "192.0.2.1")], [BASE], generation=2, created_s=0))
    delta.check()

    assert (delta.root, delta.total) == (BASE.root, BASE.total)
    assert list(Generation(applied(BASE, delta)).entries()) == list(BASE.entries())


def test_a_whole_list_cannot_withdraw_and_an_entry_cannot_be_half_withdrawn() -> None:
    gone = withdrawal(Kind.IP, "10.0.0.2")
    with pytest.raises(BleInvalid, match="verdict"):
        Generation(encode([gone], generation=1, created_s=0)).check()
    half = bytearray(encode_delta([gone], [BASE], generation=2, created_s=0))
    half[HEADER.size + DIRECTORY.size + 24] = 1  # its end
    with pytest.raises(BleInvalid, match="entry does not fit in entry 0 of ip4"):
        Generation(bytes(half)).check()


def test_a_delta_to_itself_or_to_a_later_list_is_invalid() -> None:
    for number in (1, 2):
        base = Generation(encode(MANY, generation=2, created_s=0))
        with pytest.raises(BleInvalid, match="header"):
            encode_delta([], [base], generation=number, created_s=0)


def test_texts_that_share_a_hash_are_merged_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mamplus_host.ble.encode.domain_key", lambda _value: 7)
    old = [Entry(id=n, kind=Kind.DOMAIN, value=f"{c}.example", verdict=Verdict.BLOCK) for n, c in enumerate("abcd", 1)]
    new = [old[0], msgspec.structs.replace(old[2], id=9), Entry(id=8, kind=Kind.DOMAIN, value="bb.example",
                                                                verdict=Verdict.BLOCK)]  # fmt: skip
    a, b = (Generation(encode(entries, generation=n, created_s=0)) for n, entries in ((1, old), (2, new)))
    delta = Generation(native.diff(a.buffer, b.buffer))

    assert applied(a, delta) == b.buffer
    assert native.after([a.buffer], a.root, a.total, delta.buffer) == (b.root, b.count)


def test_what_compile_next_writes_is_what_encode_would(tmp_path: Path) -> None:
    first = compile_next(None, MANY, [], tmp_path / "1", number=1, created_s=0)
    changed = [msgspec.structs.replace(MANY[0], id=99), MANY[3]]  # the second says nothing new
    gone = [(Kind.IP, "10.0.0.2"), (Kind.IP, "192.0.2.1")]
    second = compile_next(first.full_path, changed, gone, tmp_path / "2", number=2, created_s=5)
    wanted = encode([changed[0], *MANY[2:]], generation=2, created_s=5)

    assert (first.delta_bytes, first.entries, first.changes) == (None, len(MANY), len(MANY))
    assert second.full_path.read_bytes() == wanted
    assert second.delta_bytes == native.diff(first.full_path.read_bytes(), wanted)
    assert (second.entries, second.changes, second.root) == (len(MANY) - 1, 2, Generation(wanted).root)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_list_that_was_damaged_is_not_made_the_next_one(tmp_path: Path) -> None:
    data = bytearray(encode(MANY, generation=1, created_s=0))
    data[HEADER.size + 2 * DIRECTORY.size] ^= 1  # an address
    (tmp_path / "1").write_bytes(data)

    with pytest.raises(BleInvalid):
        compile_next(tmp_path / "1", [], [], tmp_path / "2", number=2, created_s=0)


def test_the_documented_example_is_recomputed() -> None:
    """docs/bundle-format.md tells other implementers these bytes."""
    text = (Path(__file__).parents[2] / "docs" / "bundle-format.md").read_text()
    lines = [
        line.split(maxsplit=1) for line in text.partition("For example,")[2].partition("## Strings")[0].split("\n")
    ]
    said = [(line[0], bytes.fromhex(line[1])) for line in lines if line and line[0] in (
        "group", "SHA-256", "entry", "number", "root")]  # fmt: skip
    total = 0
    for group, digest, entry, number in zip(*[iter(said[:-1])] * 4, strict=True):
        assert digest[1] == hashlib.sha256(group[1]).digest()
        assert number[1] == hashlib.sha256(digest[1] + bytes(32) + entry[1]).digest()
        total += int.from_bytes(number[1], "little")
    listed = [
        Entry(id=7, kind=Kind.IP, value="203.0.113.7", verdict=Verdict.BLOCK, source="feed"),
        Entry(id=8, kind=Kind.DOMAIN, value="bad.example", verdict=Verdict.SUSPECT, severity=Severity.MEDIUM,
              confidence=80, valid_until=1893456000, reason="phishing"),
    ]  # fmt: skip

    assert said[-1] == ("root", (total % 2**256).to_bytes(32, "little"))
    assert said[-1][1] == Generation(encode(listed, generation=1, created_s=0)).root
