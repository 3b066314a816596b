# SPDX-License-Identifier: Apache-2.0
"""What a stick may hold: names, sizes, kinds. Nothing on it is believed, nothing is followed."""

import os
import random
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mamplus_host.ble import carrier
from mamplus_host.ble.carrier import Carrier, Directory, Missing, open_local, parse_header
from mamplus_host.errors import BleInvalid
from tests.journey.repository import Repository, entries, tar, tarinfo

NAME = "metadata/timestamp.json"


def write(folder: Path, data: bytes) -> Path:
    path = folder / f"carrier-{random.getrandbits(64):x}"
    path.write_bytes(data)
    return path


def read(path: Path, name: str = NAME) -> bytes:
    with open_local(path) as source:
        return b"".join(source.read(name))


def test_a_carrier_and_a_directory_give_the_same_files(tmp_path: Path) -> None:
    repository = Repository().publish(entries(2000))  # the list is longer than one chunk
    stick, tarred = repository.write(tmp_path / "stick"), write(tmp_path, repository.carrier())

    for name, data in repository.files.items():
        assert read(stick, name) == read(tarred, name) == data


def test_a_tar_with_folders_dots_and_extended_headers_is_a_carrier(tmp_path: Path) -> None:
    """As `tar cf` on a directory and Python's tarfile with its fractions of seconds make them."""
    folder = tarinfo("./metadata", type=tarfile.DIRTYPE)
    dot = tarinfo("./", type=tarfile.DIRTYPE)
    file = tarinfo(f"./{NAME}", b"{}", mtime=1.5)

    assert read(write(tmp_path, tar([dot, folder, file]))) == b"{}"


def test_a_file_that_is_not_there_is_missing_and_not_invalid(tmp_path: Path) -> None:
    for path in (tmp_path, write(tmp_path, tar([tarinfo("metadata/1.root.json", b"{}")]))):
        with pytest.raises(Missing):
            read(path)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../etc/passwd", "metadata/../../etc/passwd", "metadata//timestamp.json", "timestamp.json",
     "metadata/timestamp.json/x", "targets/ble.mble", "metadata/Timestamp.json", "metadata/\x1b[2J.json", "a/a.json"],
)  # fmt: skip
def test_a_carrier_with_a_name_that_no_repository_has_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BleInvalid, match="no file of a BLE repository"):
        Carrier(write(tmp_path, tar([tarinfo(name, b"{}")])))
    with pytest.raises(BleInvalid, match="no file of a BLE repository"):
        list(Directory(tmp_path).read(name))


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_a_carrier_with_a_link_or_a_device_is_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(BleInvalid, match="neither a file nor"):
        Carrier(write(tmp_path, tar([tarinfo(NAME, type=kind, linkname="/etc/shadow")])))


def test_a_file_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BleInvalid, match="twice"):
        Carrier(write(tmp_path, tar([tarinfo(NAME, b"{}"), tarinfo(NAME, b"[]")])))


def test_a_carrier_of_more_files_than_any_repository_is_refused(tmp_path: Path) -> None:
    many = [tarinfo(f"metadata/{number}.root.json", b"") for number in range(1, carrier.MAX_MEMBERS + 2)]

    with pytest.raises(BleInvalid, match="more than 1024 files"):
        Carrier(write(tmp_path, tar(many)))


def test_an_oversized_carrier_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "carrier"
    path.touch()
    os.truncate(path, carrier.MAX_CARRIER_BYTES + 1)  # sparse: takes no room

    with pytest.raises(BleInvalid, match="want at most"):
        Carrier(path)


def test_a_header_that_promises_more_than_there_is_is_refused(tmp_path: Path) -> None:
    whole = tar([tarinfo(NAME, b"x" * 5000)])

    with pytest.raises(BleInvalid, match="cut off"):
        Carrier(write(tmp_path, whole[:2048]))


def test_a_stick_pulled_out_while_it_is_read_is_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path, tar([tarinfo(NAME, b"x" * 200_000)]))
    with open_local(path) as source:
        chunks = source.read(NAME)
        next(chunks)
        os.truncate(path, 512)
        with pytest.raises(BleInvalid, match="cut off"):
            list(chunks)


def test_links_on_a_stick_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("{}")
    (tmp_path / "metadata").mkdir()
    (tmp_path / NAME).symlink_to(secret)
    (tmp_path / "linked").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "timestamp.json").write_text("{}")
    (tmp_path / "linked" / "metadata").symlink_to(tmp_path / "real")

    for folder in (tmp_path, tmp_path / "linked"):
        with pytest.raises(BleInvalid, match="cannot read"):
            read(folder)


def test_a_fifo_on_a_stick_neither_blocks_nor_counts_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    os.mkfifo(tmp_path / NAME)

    with pytest.raises(BleInvalid, match="no regular file"):
        read(tmp_path)
    with pytest.raises(BleInvalid, match="no regular file"):
        Carrier(tmp_path / NAME)


@pytest.mark.parametrize("data", [b"", b"x", b"PK\x03\x04" + b"\0" * 600, b"\x1f\x8b" + b"a" * 600], ids=len)
def test_what_is_no_tar_is_called_no_carrier(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BleInvalid):
        Carrier(write(tmp_path, data))


@given(st.binary(min_size=512, max_size=512))
def test_any_512_bytes_are_a_header_or_invalid(block: bytes) -> None:
    with pytest.raises(BleInvalid):
        parse_header(block)


@given(st.integers(0, 511), st.integers(1, 255))
def test_a_changed_header_is_invalid(position: int, change: int) -> None:
    header = bytearray(tar([tarinfo(NAME, b"{}")])[:512])
    header[position] ^= change
    with suppress(BleInvalid):  # what is not: other spellings of the same ("\0" and " " both end a number)
        assert parse_header(bytes(header)) == ("file", NAME, 2)
