# SPDX-License-Identifier: Apache-2.0
"""A feed's file as text: plain, gzip or zip, UTF-8 or UTF-16, in chunks of lines."""

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from mamplus_host.errors import ConfigInvalid

MAX_LINE_CHARS = 8192
MAX_DOCUMENT_BYTES = 256 << 20  # unpacked; decoded it takes several times that
_UNREADABLE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)  # the last: its compression
HEAD_LINES = 200
_CHUNK_LINES = 20_000
Line = tuple[int, str, bool]  # number from 1, stripped text, whether it is whole
Progress = Callable[[int], None]  # bytes of the file read so far


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, IO[bytes]]]:
    """Yield (content, file): what is to be read, and the file whose position tells how far that is."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start[:2] == b"\x1f\x8b":
                with gzip.open(file) as content:
                    yield content, file
            elif start == b"PK\x03\x04":
                with zipfile.ZipFile(file) as archive, archive.open(_only(archive, path)) as member:
                    yield member, file
            else:
                yield file, file
    except _UNREADABLE as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        why = "it is a pipe, and is read twice" if isinstance(error, io.UnsupportedOperation) else why
        raise ConfigInvalid(f"cannot read {str(path)!r}: {why}; want a text file, or one in gzip or zip") from None


def _only(archive: zipfile.ZipFile, path: Path) -> str:
    names = [name for name in archive.namelist() if not name.endswith("/")]
    if len(names) != 1:
        raise ConfigInvalid(f"{str(path)!r} holds {len(names)} files, want one; unpack it first")
    if archive.getinfo(names[0]).flag_bits & 0x1:
        raise ConfigInvalid(f"{str(path)!r} is encrypted; unpack it first")
    return names[0]


def text_of(content: Any) -> io.TextIOWrapper:
    """Return `content` as text; bytes that are no UTF-8 become U+FFFD, which is in no value."""
    start = content.peek(2)[:2]
    encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return io.TextIOWrapper(content, encoding=encoding, errors="replace")


def head_of(path: Path) -> list[str]:
    """Return the first lines, stripped."""
    with opened(path) as (content, _):
        return [text for _, text, _ in islice(_lines(text_of(content)), HEAD_LINES)]


def chunks_of(path: Path, progress: Progress) -> Iterator[list[Line]]:
    """Yield the lines of `path`, many at a time; memory stays the same however long the file is."""
    with opened(path) as (content, file):
        text = text_of(content)  # held to the end: it closes the file when it goes
        lines = _lines(text)
        while chunk := list(islice(lines, _CHUNK_LINES)):
            progress(file.tell())
            yield chunk


def document_of(path: Path) -> bytes:
    """Return the whole content, as UTF-8 without a mark; ConfigInvalid when it is larger than MAX_DOCUMENT_BYTES."""
    with opened(path) as (content, _):
        data: bytes = content.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ConfigInvalid(f"{str(path)!r} has more than {MAX_DOCUMENT_BYTES} bytes; split it")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace").encode()
    return data.removeprefix(b"\xef\xbb\xbf")


def _lines(file: io.TextIOWrapper) -> Iterator[Line]:
    """Yield each line; the rest of an overlong one is skipped."""
    number = 0
    while text := file.readline(MAX_LINE_CHARS):
        number += 1
        whole = text.endswith("\n") or len(text) < MAX_LINE_CHARS
        rest = text
        while not rest.endswith("\n") and len(rest) == MAX_LINE_CHARS:
            rest = file.readline(MAX_LINE_CHARS)
        yield number, text.strip().removeprefix("\ufeff"), whole
