# SPDX-License-Identifier: Apache-2.0
"""What is read over the phone says what was granted, or which line was misheard."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mamplus_host.errors import CodeMalformed
from mamplus_host.maintenance import code as codes
from mamplus_host.maintenance.code import Code

DEVICE = "ab" * 32
CODE = Code(device=b"\xab\xab\xab", expires_s=1_800_000_000, minutes=30, once=b"\x01\x02\x03\x04")
SIGNATURE = bytes(range(64))
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@given(
    device=st.binary(min_size=3, max_size=3),
    expires_s=st.integers(0, (1 << 32) - 1),
    minutes=st.integers(0, (1 << 16) - 1),
    once=st.binary(min_size=4, max_size=4),
    signature=st.binary(min_size=64, max_size=64),
)
def test_what_is_spelled_is_read(device: bytes, expires_s: int, minutes: int, once: bytes, signature: bytes) -> None:
    code = Code(device=device, expires_s=expires_s, minutes=minutes, once=once)

    assert codes.read(codes.spell(code, signature)) == (code, signature)


def test_a_code_is_five_lines_of_five_groups_and_a_letter() -> None:
    lines = codes.spell(CODE, SIGNATURE).splitlines()

    assert [[len(group) for group in line.split()] for line in lines] == [[5, 5, 5, 5, 5, 1]] * 5


def test_case_spaces_and_letters_that_look_alike_do_not_matter() -> None:
    spelled = codes.spell(CODE, SIGNATURE)

    heard = spelled.lower().replace("\n", " ").replace(" ", "-").replace("0", "o").replace("1", "l")

    assert codes.read(heard) == (CODE, SIGNATURE)


@given(place=st.integers(0, 129), other=st.integers(1, 30))
def test_one_letter_that_is_misheard_is_placed(place: int, other: int) -> None:
    letters = codes.spell(CODE, SIGNATURE).replace(" ", "").replace("\n", "")
    was = ALPHABET.index(letters[place])
    now = (was + other) % 31 if place % 26 == 25 else (was + other) % 32
    if (was - now) % 31 == 0:  # 0 and Z: the signature tells these apart
        return

    with pytest.raises(CodeMalformed, match=f"line {place // 26 + 1} "):
        codes.read(letters[:place] + ALPHABET[now] + letters[place + 1 :])


@given(place=st.integers(0, 23), line=st.integers(0, 4))
def test_two_letters_that_changed_places_are_noticed(place: int, line: int) -> None:
    letters = codes.spell(CODE, SIGNATURE).replace(" ", "").replace("\n", "")
    at = line * 26 + place
    first, second = letters[at], letters[at + 1]
    swapped = letters[:at] + second + first + letters[at + 2 :]

    if abs(ALPHABET.index(first) - ALPHABET.index(second)) % 31 == 0:  # the same, or 0 and Z
        return
    with pytest.raises(CodeMalformed, match=f"line {line + 1} "):
        codes.read(swapped)


@pytest.mark.parametrize("text", ["", "ABCDE", "status now", "U" * 130, "A" * 131, "\x00"])
def test_what_is_no_code_is_said_to_be_none(text: str) -> None:
    with pytest.raises(CodeMalformed, match="want"):
        codes.read(text)


def test_a_code_names_its_device_and_what_is_signed_names_all_of_it() -> None:
    code = codes.new(DEVICE, expires_s=1, minutes=5)

    assert code.is_for(DEVICE)
    assert not code.is_for("ac" * 32)
    assert DEVICE.encode() in codes.signed_text(code, DEVICE)
    assert codes.new(DEVICE, expires_s=1, minutes=5).id != code.id
