# SPDX-License-Identifier: Apache-2.0
"""The journal: durable, chained, bounded, and honest about what was cut."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mamplus_host.clock import SystemClock
from mamplus_host.errors import ActionFailed, MamplusError
from mamplus_host.executor.journal import MAX_RECORD_BYTES, BrokenLink, Journal, verify

BIG = 64 << 20
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.just("\udcff/undecodable"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def journal(directory: Path, max_bytes: int = BIG) -> Journal:
    return Journal(directory, max_bytes=max_bytes, clock=SystemClock())


def filled(directory: Path, count: int, max_bytes: int = BIG) -> Journal:
    opened = journal(directory, max_bytes)
    for number in range(count):
        opened.append("note", f"id{number}", {"number": number})
    return opened


def canonical(fields: dict[str, Any]) -> bytes:
    """The spelling that the journal promises: sorted keys, no spaces, ASCII."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.jsonl"))


@given(data=st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=6))
@settings(deadline=None, max_examples=40)
def test_what_was_written_is_read_back_and_the_chain_holds(data: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        opened = journal(Path(directory))
        for one in data:
            opened.append("note", "x", one)

        assert [record.data for record in opened.records()] == data
        assert opened.verify() is None
        opened.close()


@given(cut=st.integers(0, 2000), garbage=st.binary(max_size=40))
@settings(deadline=None, max_examples=60)
def test_a_torn_tail_is_cut_noted_and_never_breaks_the_chain(cut: int, garbage: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        filled(directory, 4).close()
        (segment,) = segments(directory)
        whole = segment.read_bytes()
        torn = whole[: max(0, len(whole) - cut)] + garbage.replace(b"{", b"")
        segment.write_bytes(torn)

        opened = journal(directory)
        kept = [record for record in opened.records() if "number" in record.data]
        noted = [record.data["torn_bytes_cut"] for record in opened.records() if "torn_bytes_cut" in record.data]
        opened.append("note", "after", {})

        assert verify(directory) is None
        assert [record.data["number"] for record in kept] == list(range(len(kept)))
        assert sum(noted) == len(torn) - len(b"".join(whole.splitlines(keepends=True)[: len(kept)]))
        opened.close()


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
@settings(deadline=None, max_examples=60)
def test_one_changed_bit_before_the_last_line_is_found(at: int, bit: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        filled(directory, 5).close()
        (segment,) = segments(directory)
        whole = bytearray(segment.read_bytes())
        body = whole.rstrip(b"\n").rfind(b"\n")
        whole[at % body] ^= 1 << bit
        segment.write_bytes(bytes(whole))

        broken = verify(directory)

        assert broken is not None
        assert broken.line <= bytes(whole[: at % body]).count(b"\n") + 1


def test_a_record_that_was_replaced_by_a_well_made_one_is_found_at_its_successor(tmp_path: Path) -> None:
    filled(tmp_path / "real", 3).close()
    forged = filled(tmp_path / "forged", 1)
    forged.append("note", "id1", {"number": 99})
    (segment,), (other,) = segments(tmp_path / "real"), segments(tmp_path / "forged")
    lines = segment.read_bytes().splitlines(keepends=True)
    first = msgspec.json.decode(lines[0])
    lie = msgspec.json.decode(other.read_bytes().splitlines()[1]) | {"prev": first["hash"]}
    lie.pop("hash")
    lie["hash"] = hashlib.sha256(canonical(lie)).hexdigest()
    segment.write_bytes(lines[0] + canonical(lie) + b"\n" + lines[2])

    assert verify(tmp_path / "real") == BrokenLink(
        segment=segment.name, line=3, why="record 3 does not follow the record before it"
    )


def test_another_spelling_of_the_same_record_is_found(tmp_path: Path) -> None:
    filled(tmp_path, 3).close()
    (segment,) = segments(tmp_path)
    segment.write_bytes(segment.read_bytes().replace(b'"n":2', b'"n": 2'))

    assert verify(tmp_path) == BrokenLink(segment=segment.name, line=2, why="record 2 is not in its canonical spelling")


@pytest.mark.parametrize("line", [0, 2], ids=["first", "middle"])
def test_a_missing_line_is_found_where_it_is_missing(tmp_path: Path, line: int) -> None:
    filled(tmp_path, 5).close()
    (segment,) = segments(tmp_path)
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:line] + lines[line + 1 :]))

    broken = verify(tmp_path)

    assert broken is not None
    assert broken.line == line + 1


def test_a_missing_segment_is_found(tmp_path: Path) -> None:
    filled(tmp_path, 60, max_bytes=BIG).close()
    small = tmp_path / "small"
    filled(small, 60, max_bytes=200_000 // 8).close()
    parts = segments(small)
    assert len(parts) > 3
    parts[1].unlink()

    broken = verify(small)

    assert broken is not None
    assert broken.segment == parts[2].name


def test_rotation_keeps_the_bound_the_chain_and_the_count_of_what_went(tmp_path: Path) -> None:
    limit = 16_000
    opened = filled(tmp_path, 300, max_bytes=limit)
    first = next(iter(opened.records()))

    assert sum(path.stat().st_size for path in segments(tmp_path)) <= limit
    assert opened.verify() is None
    assert opened.rotated_away == first.n - 1 > 0
    assert list(opened.records())[-1].n == 300
    opened.close()

    again = journal(tmp_path, limit)
    again.append("note", "later", {})
    assert again.verify() is None
    assert list(again.records())[-1].n == 301


def test_a_new_agent_goes_on_in_a_segment_that_is_still_empty(tmp_path: Path) -> None:
    filled(tmp_path, 3).close()
    (tmp_path / "0000000000000004.jsonl").touch()

    opened = journal(tmp_path)
    opened.append("note", "", {})

    assert [record.n for record in opened.records()] == [1, 2, 3, 4]
    assert opened.verify() is None


def test_an_intent_is_open_until_its_outcome_is_written(tmp_path: Path) -> None:
    opened = journal(tmp_path)
    opened.append("intent", "a", {"action": "freeze"})
    opened.append("intent", "b", {"action": "kill"})
    opened.append("outcome", "a", {"action": "freeze", "state": "done"})
    opened.close()

    assert [(record.id, record.data) for record in journal(tmp_path).open_intents()] == [("b", {"action": "kill"})]


def test_what_cannot_be_journalled_is_refused_and_leaves_the_chain_whole(tmp_path: Path) -> None:
    opened = filled(tmp_path, 2)
    with pytest.raises(ActionFailed, match=f"want at most {MAX_RECORD_BYTES}"):
        opened.append("intent", "x", {"text": "x" * MAX_RECORD_BYTES})

    opened.append("note", "", {})
    assert opened.verify() is None


WRITER = """
import sys
from pathlib import Path
from mamplus_host.clock import SystemClock
from mamplus_host.executor.journal import Journal
journal = Journal(Path(sys.argv[1]), max_bytes=60_000, clock=SystemClock())
number = 0
while True:
    number += 1
    kind = "intent" if number % 8 == 0 else "note"
    record = journal.append(kind, "x", {"action": "kill", "text": "y" * (number % 300)})
    if record.kind == "intent":
        print(record.n, flush=True)
"""


def test_a_writer_that_is_killed_at_any_moment_leaves_a_chain_that_holds_and_every_intent(tmp_path: Path) -> None:
    last_intent = 0
    for round_number in range(12):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        for _line in range(1 + round_number * 3):
            last_intent = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        told = writer.stdout.read().split(b"\n")[:-1]
        last_intent = int(told[-1]) if told else last_intent
        writer.stdout.close()
        writer.wait()

        opened = journal(tmp_path, 60_000)
        assert opened.verify() is None
        assert any(record.n == last_intent and record.kind == "intent" for record in opened.records())
        opened.close()


def test_a_rotation_that_fails_leaves_no_stale_descriptor_behind(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    one = journal(directory, max_bytes=4096)
    one.append("note", "A", {"text": "x" * 800})
    shutil.rmtree(directory)  # so that no new segment can be made

    for _ in range(4):
        with contextlib.suppress(MamplusError):
            one.append("note", "A", {"text": "x" * 800})
    with (tmp_path / "foreign").open("wb") as foreign:
        for _ in range(4):
            with contextlib.suppress(MamplusError):
                one.append("note", "A", {"text": "x" * 800})
        assert foreign.tell() == 0

    assert (tmp_path / "foreign").read_bytes() == b""
