# SPDX-License-Identifier: Apache-2.0
"""The kernel's keys of encrypted directories (fscrypt, policies of version 2): which, whether there, and away with it.

Journey: container lock, wipe -> [fscrypt] -> ioctl(2); linux/fscrypt.h.

Without its key a directory shows encrypted names and opens nothing. What the fscrypt(1) tool wraps a key with lies in
`.fscrypt/policies/` at the top of the file system: with that page gone, no passphrase brings the key back.
"""

import fcntl
import os
import struct
from enum import IntEnum
from pathlib import Path

from mamplus_host.errors import ActionFailed

_GET_POLICY, _REMOVE_FOR_ALL, _STATUS = 0xC0096616, 0xC0406619, 0xC080661A
_POLICY = struct.Struct("=QBBBBB3x16s")  # size; version, two modes, flags, unit size, key identifier
_SPEC = struct.Struct("=II32s")  # struct fscrypt_key_specifier
_BY_IDENTIFIER, _V2 = 2, 2
_REMOVE_BYTES, _STATUS_BYTES = 64, 128


class Key(IntEnum):
    """What the kernel says of a key."""

    ABSENT = 1
    PRESENT = 2
    BEING_REMOVED = 3  # away, but for files that are open


def key_of(directory: str) -> str:
    """Return the identifier of the key of an encrypted directory, 32 hex digits; ActionFailed when it is none."""
    answer = bytearray(_POLICY.size)
    _POLICY.pack_into(answer, 0, _POLICY.size - 8, 0, 0, 0, 0, 0, b"")
    try:
        _ioctl(directory, _GET_POLICY, answer)
    except OSError as error:
        raise ActionFailed(f"{directory!r} is no encrypted directory: {error.strerror}") from None
    _size, version, _contents, _names, _flags, _unit, identifier = _POLICY.unpack(answer)
    if version != _V2:
        raise ActionFailed(f"{directory!r} has an encryption policy of version {version}, want 2: encrypt it anew")
    return bytes(identifier).hex()


def status(directory: str, key: str) -> Key:
    """Return whether the kernel holds `key` for the file system of `directory`."""
    answer = bytearray(_STATUS_BYTES)
    _SPEC.pack_into(answer, 0, _BY_IDENTIFIER, 0, bytes.fromhex(key))
    try:
        _ioctl(str(top(directory)), _STATUS, answer)
    except OSError as error:
        raise ActionFailed(f"cannot ask for the key of {directory!r}: {error.strerror}") from None
    return Key(struct.unpack_from("=I", answer, 64)[0])


def remove(directory: str, key: str) -> Key:
    """Take `key` away from all users; BEING_REMOVED: some of its files are open, and stay readable until closed."""
    asked = bytearray(_REMOVE_BYTES)
    _SPEC.pack_into(asked, 0, _BY_IDENTIFIER, 0, bytes.fromhex(key))
    if status(directory, key) is not Key.ABSENT:
        try:
            _ioctl(str(top(directory)), _REMOVE_FOR_ALL, asked)  # an open directory would keep its own key
        except OSError as error:
            raise ActionFailed(f"the kernel keeps the key of {directory!r}: {error.strerror}") from None
    return status(directory, key)


def wrapped(directory: str, key: str) -> Path:
    """Return where the fscrypt(1) tool would keep the wrapped key: at the top of the file system."""
    return top(directory) / ".fscrypt" / "policies" / key[:32]


def top(directory: str) -> Path:
    """Return where the file system of `directory` is mounted."""
    found = Path(directory)
    while not found.is_mount():
        found = found.parent
    return found


def _ioctl(directory: str, request: int, argument: bytearray) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, request, argument, True)
    finally:
        os.close(descriptor)
