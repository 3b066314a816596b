# SPDX-License-Identifier: Apache-2.0
"""Deltas and state roots: what is sent instead of a whole list says the same, or is refused."""

import hashlib
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given

from mamplus_host.ble import native
from mamplus_host.ble.encode import encode, encode_delta, place_of, withdrawal
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import Generation, Section
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
        text = entry.value.encode() if section is Section.DOMAIN else b""
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
