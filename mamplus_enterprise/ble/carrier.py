# SPDX-License-Identifier: Apache-2.0
"""The repository in one file, for a USB stick: an uncompressed tar of what a device needs.

Its timestamp is the carriers' own, signed by a key that devices refuse on the network: it lives
longer than the online one, and whoever copies a stick cannot hold a connected device on it. It may
name the one device that the stick is for.
"""

import io
import re
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mamplus_enterprise.ble import repository, roles, shelf
from mamplus_enterprise.ble.keys import Signers
from mamplus_enterprise.ble.repository import Published, State
from mamplus_enterprise.ble.roles import CARRIER, DELEGATED, FIELD
from mamplus_enterprise.errors import PublishFailed
from mamplus_enterprise.home import Home
from mamplus_enterprise.lock import locked
from mamplus_host.errors import ConfigInvalid
from mamplus_host.files import replacing

_DEVICE = re.compile(r"[0-9a-f]{64}")


def export(home: Home, signers: Signers, out: Path, *, device: str = "") -> Published:
    """Write the current generation to `out`, whole or not at all; for one device (its id), or for all."""
    check_device(device)
    if str(out) == "-":
        raise ConfigInvalid("a carrier is a file, and `-` is none; say its name, or --format for a list on stdout")
    try:
        with locked(home.publish_lock), replacing(out, mode=0o666) as file:
            published = repository.current(home)
            _write(home, signers, device, file)
    except OSError as error:
        raise PublishFailed(f"cannot write {str(out)!r}: {error.strerror}; want a place that is writable") from None
    return published


def check_device(device: str) -> None:
    """Raise ConfigInvalid when `device` is neither empty nor an id."""
    if device and not _DEVICE.fullmatch(device):
        raise ConfigInvalid(f"device {device!r}; want its id, 64 hex digits: `devices --json` lists them")


def _write(home: Home, signers: Signers, device: str, file: IO[bytes]) -> None:
    state = repository.read(home)
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        stamp = _timestamp(state, signers, device)
        archive.addfile(_member("metadata/timestamp.json", len(stamp)), io.BytesIO(stamp))
        for path in [*repository.metadata_files(home, state), *_lists(home, state)]:
            with path.open("rb") as content:
                name = path.relative_to(home.metadata.parent)
                archive.addfile(_member(str(name), path.stat().st_size), content)


def _timestamp(state: State, signers: Signers, device: str) -> bytes:
    """Return the timestamp of today's state as the carriers' key says it."""
    stamp = state.timestamp
    stamp.expires = min(roles.expiry(CARRIER), repository.earliest_end(state))
    if device:
        stamp.unrecognized_fields[FIELD] = {"device": device}
    return repository.sign(state, CARRIER, signers, stamp)


def _lists(home: Home, state: State) -> Iterator[Path]:
    """Yield the files that the roles name: lists for devices of any age, deltas that spare the others a rewrite."""
    for role in DELEGATED:
        for target in state.delegated[role].targets.values():
            yield shelf.file_of(home.targets, target)


def _member(name: str, size: int) -> tarfile.TarInfo:
    """Return a header without names and numbers of the people who work at the enterprise."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o644, int(time.time())
    return member
