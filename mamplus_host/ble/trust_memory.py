# SPDX-License-Identifier: Apache-2.0
"""What this device has learnt about its enterprise's repository, in one file: `state/trust/metadata.json`.

Only verified files are in it, so what needs a key of the root (`seal_key`) reads it without TUF.
A memory that is damaged, or was made under another enrolment, is no memory: the enrolled root and
the numbers in the store remain.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from mamplus_host.files import write_whole

MAX_BYTES = 8 << 20
_BOOTSTRAP = "bootstrap"  # SHA-256 of the enrolled root that all of it hangs from


class Memory:
    """The file below `folder`, `state/trust`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "metadata.json"

    def read(self, bootstrap: bytes) -> dict[str, bytes]:
        """Return the remembered files by name, none when they do not hang from `bootstrap`."""
        try:
            data = self._path.read_bytes()
            learnt = msgspec.json.decode(data, type=dict[str, str]) if len(data) <= MAX_BYTES else {}
        except (FileNotFoundError, msgspec.MsgspecError):
            return {}
        if learnt.pop(_BOOTSTRAP, "") != _digest(bootstrap):
            return {}
        return {name: text.encode() for name, text in learnt.items()}

    def write(self, bootstrap: bytes, files: Mapping[str, bytes]) -> None:
        learnt = {_BOOTSTRAP: _digest(bootstrap)} | {name: data.decode() for name, data in files.items()}
        write_whole(self._path, msgspec.json.encode(learnt))


class _Signed(msgspec.Struct):
    version: int
    mamplus: dict[str, object] = msgspec.field(name="x-mamplus", default_factory=dict)


class _Root(msgspec.Struct):
    signed: _Signed


def seal_key(state: Path) -> bytes | None:
    """Return the X25519 public key (32 bytes) that the newest trusted root names, None when it names none.

    What only the enterprise may read is encrypted for it: its private half is in the enterprise's keys.
    """
    return _named_key(state, "seal")


def maintenance_key(state: Path) -> bytes | None:
    """Return the Ed25519 public key (32 bytes) of maintenance codes, None when the newest trusted root names none."""
    return _named_key(state, "maintenance")


def _named_key(state: Path, name: str) -> bytes | None:
    bootstrap = (state / "trust" / "root.json").read_bytes()
    known = Memory(state / "trust").read(bootstrap)
    roots = [bootstrap, *(data for name, data in known.items() if name.endswith(".root.json"))]
    newest = max((msgspec.json.decode(data, type=_Root).signed for data in roots), key=lambda signed: signed.version)
    said = newest.mamplus.get(name)
    return bytes.fromhex(said) if isinstance(said, str) and len(said) == 64 else None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
