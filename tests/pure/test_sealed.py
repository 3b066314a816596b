# SPDX-License-Identifier: Apache-2.0
"""Sealed files: only the one enterprise reads them, and what is damaged says so."""

import zlib

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from mamplus_host import sealed
from mamplus_host.errors import ConfigInvalid
from mamplus_host.sealed import seal, unseal

KEY = X25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()


def test_the_enterprise_reads_what_was_sealed_for_it_also_with_an_older_key() -> None:
    data = seal(b"content", PUBLIC)

    assert unseal(data, [X25519PrivateKey.generate(), KEY]) == b"content"
    assert b"content" not in data


def test_the_same_content_is_sealed_differently_each_time() -> None:
    assert seal(b"content", PUBLIC)[80:] != seal(b"content", PUBLIC)[80:]


def test_another_enterprise_reads_nothing_and_is_told_which_key_it_lacks() -> None:
    with pytest.raises(ConfigInvalid, match="which is not here"):
        unseal(seal(b"content", PUBLIC), [X25519PrivateKey.generate()])


@given(st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    whole = bytearray(seal(b"content", PUBLIC))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))

    with pytest.raises(ConfigInvalid):
        unseal(bytes(whole), [KEY])


@given(st.integers(0, 100))
def test_a_file_cut_off_is_noticed(length: int) -> None:
    with pytest.raises(ConfigInvalid):
        unseal(seal(b"content", PUBLIC)[:length], [KEY])


def test_what_is_no_sealed_file_is_refused_without_showing_what_it_holds() -> None:
    with pytest.raises(ConfigInvalid, match="does not begin with MAMPSEAL") as refused:
        unseal(b"hunter2 and more of a passphrase, which is as long as a header of a sealed file would be", [KEY])

    assert "hunter2" not in str(refused.value)


def test_a_public_key_without_a_secret_is_damage() -> None:
    whole = bytearray(seal(b"content", PUBLIC))
    whole[48:80] = bytes(32)  # a point of small order

    with pytest.raises(ConfigInvalid, match="damaged"):
        unseal(bytes(whole), [KEY])


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = seal(bytes(1 << 20), PUBLIC)
    assert len(bomb) < 2000
    monkeypatch.setattr(sealed, "MAX_CONTENT_BYTES", (1 << 20) - 1)

    with pytest.raises(ConfigInvalid, match="more than 1048575 bytes"):
        unseal(bomb, [KEY])


def test_content_that_does_not_unpack_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zlib, "compress", lambda content, _level: content)

    with pytest.raises(ConfigInvalid, match="not as agreed"):
        unseal(seal(b"not compressed", PUBLIC), [KEY])
