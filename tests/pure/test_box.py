# SPDX-License-Identifier: Apache-2.0
"""A box gives back exactly what was put into it, and nothing once it was touched."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.storage import box
from mamplus_host.executor.storage.boxes import HEADER_BYTES, PIECE_BYTES, TAG_BYTES, boxed_bytes

KEY, ID = bytes(range(32)), "01JD0000000000000000000000"
SIZES = (0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES)


def packed(content: bytes, action_id: str = ID) -> bytes:
    source, target = os.memfd_create("source"), os.memfd_create("target")
    try:
        os.write(source, content)
        box.pack(source, target, KEY, action_id)
        return os.pread(target, os.fstat(target).st_size, 0)
    finally:
        os.close(source)
        os.close(target)


def unpacked(data: bytes, action_id: str = ID, key: bytes = KEY) -> bytes:
    source, target = os.memfd_create("source"), os.memfd_create("target")
    try:
        os.write(source, data)
        box.unpack(source, target, key, action_id)
        return os.pread(target, os.fstat(target).st_size, 0)
    finally:
        os.close(source)
        os.close(target)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_comes_back_and_is_as_long_as_foretold(size: int) -> None:
    content = os.urandom(size)

    made = packed(content)

    assert unpacked(made) == content
    assert len(made) == boxed_bytes(size)


def test_a_box_shows_nothing_of_its_content() -> None:
    assert b"secret" not in packed(b"secret" * 1000)
    assert packed(b"secret") != packed(b"secret")


@pytest.mark.parametrize("size", SIZES)
def test_a_box_that_lost_its_end_is_refused(size: int) -> None:
    made = packed(os.urandom(size))
    for left in {len(made) - 1, len(made) - TAG_BYTES - 1, HEADER_BYTES, HEADER_BYTES - 1, 0}:
        with pytest.raises(ActionFailed, match="damaged"):
            unpacked(made[:left])


def test_pieces_that_changed_places_are_refused() -> None:
    made, piece = packed(bytes(2 * PIECE_BYTES) + b"x"), PIECE_BYTES + TAG_BYTES
    first, second = (made[HEADER_BYTES + at * piece :][:piece] for at in (0, 1))
    with pytest.raises(ActionFailed, match="piece 0"):
        unpacked(made[:HEADER_BYTES] + second + first + made[HEADER_BYTES + 2 * piece :])


def test_another_actions_box_and_another_key_are_refused() -> None:
    made = packed(b"content")
    with pytest.raises(ActionFailed, match="head"):
        unpacked(made, action_id="01JD0000000000000000000001")
    with pytest.raises(ActionFailed, match="piece 0"):
        unpacked(made, key=bytes(32))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.data())
def test_one_changed_bit_anywhere_is_found(content: bytes, data: st.DataObject) -> None:
    made = bytearray(packed(content))
    at = data.draw(st.integers(0, len(made) * 8 - 1))
    made[at // 8] ^= 1 << at % 8
    with pytest.raises(ActionFailed):
        unpacked(bytes(made))
