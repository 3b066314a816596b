# SPDX-License-Identifier: Apache-2.0
"""Where the files of a BLE repository are read from: a carrier, a directory, the network.

Journey: enterprise -> [carrier] -> trust.

A source hands out bytes by name (`metadata/timestamp.json`, `targets/ble-feeds/<hash>.list.mble`) and
vouches for nothing: `trust.py` copies each file to the device before it looks at it, so a
stick that changes while it is read gains nothing. Names, sizes and counts are bounded; a
link, a device node or a name with another shape is not followed but refused.

A carrier is an uncompressed POSIX tar (docs/protocol.md). It is read here and not with
`tarfile`, which believes header sizes and holds extended headers in memory.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from mamplus_host.errors import BleInvalid

MAX_CARRIER_BYTES = 2 << 30
MAX_MEMBERS = 1024  # every root version, and three more
MAX_EXTENDED_BYTES = 64 << 10  # one POSIX extended header; skipped, never believed
CHUNK_BYTES = 1 << 16
_FOLDER = re.compile(r"|\.|metadata|targets|targets/(policy|ble-[a-z]{1,20})")
_BLOCK = 512
_NAME = re.compile(
    r"metadata/([1-9][0-9]{0,9}\.)?[a-z][a-z0-9-]{0,40}\.json"
    r"|targets/(policy|ble-[a-z]{1,20})/[0-9a-f]{64}\.(policy\.json|list\.mble|[0-9]{1,19}-[0-9]{1,19}\.delta)"
)


class Missing(Exception):
    """The source has no file of that name."""


class Source(Protocol):
    """Files by name, from somewhere."""

    is_network: bool

    @property
    def received(self) -> int:
        """How many bytes were read so far; of the network, what the connections carried, TLS included."""

    def read(self, name: str) -> Iterator[bytes]:
        """Yield the file's content; Missing, BleInvalid or UplinkFailed, then or before."""


def check_name(name: str) -> str:
    """Return `name`; BleInvalid unless it is one that a repository has."""
    if not _NAME.fullmatch(name):
        raise BleInvalid(f"{name!r} is no file of a BLE repository; want metadata/*.json or targets/<role>/<hash>.*")
    return name


class Directory:
    """A directory that holds `metadata/` and `targets/`, as on a USB stick."""

    is_network = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.received = 0

    def read(self, name: str) -> Iterator[bytes]:
        check_name(name)
        folder, _, base = name.rpartition("/")
        try:
            # NOFOLLOW: a link on a stick may name any file of this device. NONBLOCK: opening a FIFO would wait.
            inner = _open_folder(self._path, folder)
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                descriptor = os.open(base, flags, dir_fd=inner)
            finally:
                os.close(inner)
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                _want_regular(descriptor, f"{self._path}/{name}")
                while chunk := file.read(CHUNK_BYTES):
                    self.received += len(chunk)
                    yield chunk
        except FileNotFoundError:
            raise Missing(name) from None
        except OSError as error:
            raise BleInvalid(f"cannot read {name!r} in {str(self._path)!r}: {error.strerror}") from None


class Carrier:
    """An opened carrier file. Close it, or use `open_local`."""

    is_network = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.received = 0
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise BleInvalid(
                f"cannot read {str(path)!r}: {error.strerror}; want a carrier file or a directory"
            ) from None
        try:
            _want_regular(self._descriptor, str(path))
            self._members = dict(self._index(os.fstat(self._descriptor).st_size))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._descriptor)

    def read(self, name: str) -> Iterator[bytes]:
        if name not in self._members:
            raise Missing(name)
        offset, size = self._members[name]
        while size > 0:
            chunk = self._at(offset, min(CHUNK_BYTES, size))
            self.received += len(chunk)
            yield chunk
            offset, size = offset + len(chunk), size - len(chunk)

    def _at(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise BleInvalid(f"cannot read {str(self._path)!r}: {error.strerror}") from None
        if not data:
            raise BleInvalid(f"{str(self._path)!r} ends at byte {offset}, want more: it is cut off")
        return data

    def _index(self, total: int) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield (name, (offset, size)) of every file in the tar."""
        if total > MAX_CARRIER_BYTES:
            raise BleInvalid(f"{str(self._path)!r} has {total} bytes, want at most {MAX_CARRIER_BYTES}")
        at, seen = 0, set[str]()
        for _ in range(MAX_MEMBERS):
            header = self._at(at, _BLOCK)
            if header == bytes(_BLOCK):
                return
            kind, name, size = parse_header(header)
            at += _BLOCK
            if kind == "file":
                if check_name(name) in seen:
                    raise BleInvalid(f"{name!r} is twice in {str(self._path)!r}; want one meaning: export it again")
                seen.add(name)
                yield name, (at, size)
            at += -(-size // _BLOCK) * _BLOCK
        raise BleInvalid(f"{str(self._path)!r} holds more than {MAX_MEMBERS} files: this is no carrier")


def parse_header(header: bytes) -> tuple[str, str, int]:
    """Return (file, folder or extended; name; size in bytes) of a 512-byte tar header; BleInvalid for all else."""
    if len(header) != _BLOCK or header[257:262] != b"ustar" or _octal(header[148:156]) != _checksum(header):
        raise BleInvalid("this is no carrier, or it is damaged: a tar header does not fit; want an uncompressed tar")
    kind, size = header[156:157], _octal(header[124:136])
    prefix, name = _text(header[345:500]) if header[262] == 0 else "", _text(header[:100])
    name = f"{prefix}/{name}" if prefix else name
    name = name.removeprefix("./")
    if kind in (b"0", b"\0"):
        return "file", name, size
    if kind == b"5" and size == 0 and _FOLDER.fullmatch(name.rstrip("/")):
        return "folder", name, 0
    if kind in (b"x", b"g") and size <= MAX_EXTENDED_BYTES:
        return "extended", name, size
    raise BleInvalid(f"{name!r} in the carrier is neither a file nor one of its folders: links are not taken")


def _open_folder(top: Path, folder: str) -> int:
    """Return a descriptor of `folder` below `top`, no part of it a link: a link may lead anywhere on this device."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    inner = os.open(top, flags)
    for part in folder.split("/"):
        try:
            deeper = os.open(part, flags | os.O_NOFOLLOW, dir_fd=inner)
        finally:
            os.close(inner)
        inner = deeper
    return inner


def _octal(field: bytes) -> int:
    digits = field.rstrip(b"\0 ").lstrip(b" ")
    if not digits or digits.strip(b"01234567"):
        raise BleInvalid(f"this is no carrier, or it is damaged: {field!r} is no octal number of a tar header")
    return int(digits, 8)


def _checksum(header: bytes) -> int:
    return sum(header) - sum(header[148:156]) + 8 * ord(" ")


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("ascii", "backslashreplace")


def _want_regular(descriptor: int, name: str) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise BleInvalid(f"{name!r} is no regular file; want a carrier file, or a directory with metadata and targets")


@contextmanager
def _closing_carrier(path: Path) -> Iterator[Source]:
    carrier = Carrier(path)
    try:
        yield carrier
    finally:
        carrier.close()


@contextmanager
def _directory(path: Path) -> Iterator[Source]:
    yield Directory(path)


def open_local(path: Path) -> AbstractContextManager[Source]:
    """Return the source at `path`, a carrier file or a directory; BleInvalid on entry when it is neither."""
    return _directory(path) if path.is_dir() else _closing_carrier(path)
