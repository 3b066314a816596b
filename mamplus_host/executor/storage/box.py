# SPDX-License-Identifier: Apache-2.0
"""A file out of reach: encrypted with a key of this device, in pieces, so that its size does not matter.

Journey: quarantine -> box_helper -> [box] -> disk.

    48 bytes   "MAMPBOX1", SHA-256 of the action's id (32), a random prefix (7), a zero
    pieces     1 MiB each, the last one shorter: ChaCha20-Poly1305 over the piece, 16 bytes of tag behind it

The nonce of a piece is the prefix, its number (4 bytes, from 0) and whether it is the last (1 byte); the header is
bound to every piece. So pieces that changed places, are missing at the end, or belong to another box are found.

Imports the cryptography package: for the helper, not for the service.
"""

import hashlib
import os
import struct
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.storage.boxes import HEADER_BYTES, MAGIC, PIECE_BYTES, TAG_BYTES

_HEADER = struct.Struct("<8s32s7sx")
_NONCE = struct.Struct(">7sIB")

Content = tuple[str, int]  # SHA-256 in hex, bytes


def pack(source: int, target: int, key: bytes, action_id: str) -> Content:
    """Write the content of descriptor `source`, encrypted, to `target`; return what it was."""
    header = _HEADER.pack(MAGIC, _named(action_id), os.urandom(7))
    cipher, digest, size = ChaCha20Poly1305(key), hashlib.sha256(), 0
    _write(target, header)
    for number, (piece, is_last) in enumerate(_pieces(source)):
        digest.update(piece)
        size += len(piece)
        _write(target, cipher.encrypt(_nonce(header, number, is_last), piece, header))
    return digest.hexdigest(), size


def unpack(source: int, target: int, key: bytes, action_id: str) -> Content:
    """Write what is in the box to `target`; ActionFailed when it is damaged, cut off, or another action's."""
    header = os.pread(source, HEADER_BYTES, 0)
    if len(header) != HEADER_BYTES or _HEADER.unpack(header)[:2] != (MAGIC, _named(action_id)):
        raise ActionFailed(f"the box of {action_id} is damaged: its head is not as it was written")
    cipher, digest, size = ChaCha20Poly1305(key), hashlib.sha256(), 0
    at, end, number = HEADER_BYTES, os.fstat(source).st_size, 0
    while at < end or number == 0:
        sealed = os.pread(source, PIECE_BYTES + TAG_BYTES, at)
        at += len(sealed)
        try:
            piece = cipher.decrypt(_nonce(header, number, at >= end), sealed, header)
        except (InvalidTag, ValueError):
            raise ActionFailed(f"the box of {action_id} is damaged in piece {number}, or cut off") from None
        number += 1
        digest.update(piece)
        size += len(piece)
        _write(target, piece)
    return digest.hexdigest(), size


def _pieces(source: int) -> Iterator[tuple[bytes, bool]]:
    """Yield the pieces of a file, and whether each is the last; an empty file is one empty piece."""
    at, piece = 0, os.pread(source, PIECE_BYTES, 0)
    while True:
        at += len(piece)
        after = os.pread(source, PIECE_BYTES, at) if len(piece) == PIECE_BYTES else b""
        yield piece, not after
        if not after:
            return
        piece = after


def _named(action_id: str) -> bytes:
    return hashlib.sha256(action_id.encode("ascii")).digest()


def _nonce(header: bytes, number: int, is_last: bool) -> bytes:
    return _NONCE.pack(_HEADER.unpack(header)[2], number, is_last)


def _write(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
