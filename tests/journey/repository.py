# SPDX-License-Identifier: Apache-2.0
"""A small TUF repository for tests: made in memory, so that every attack can be made with the real keys.

The enterprise has its own maker; this one also makes what an honest enterprise never would.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
from tuf.api.metadata import (  # type: ignore[attr-defined]
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from mamplus_host.ble.encode import encode
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.enterprise import Enterprise, enterprise_path
from mamplus_host.verdicts import Verdict

ROLES = ("root", "targets", "snapshot", "timestamp")
DEVICE_ID = "d" * 64
ENTERPRISE_ID = "enterprise-of-the-test"


def entries(count: int, *, first: int = 1) -> list[Entry]:
    """Return `count` block entries for distinct hashes."""
    values = [(number, hashlib.sha256(str(number).encode()).hexdigest()) for number in range(first, first + count)]
    return [Entry(id=number, kind=Kind.SHA256, value=value, verdict=Verdict.BLOCK) for number, value in values]


class Repository:
    """Files by name, as an enterprise serves them; `publish` adds a generation."""

    def __init__(self) -> None:
        self.keys = {role: CryptoSigner.generate_ed25519() for role in ROLES}
        self.version = 0
        self.files: dict[str, bytes] = {}
        root = Root(consistent_snapshot=True, expires=_in_days(3650))
        for role in ROLES:
            root.add_key(self.keys[role].public_key, role)
        self.root = self._sign("root", root)
        self.files["metadata/1.root.json"] = self.root

    def publish(
        self, chosen: Iterable[Entry], *, generation: int | None = None, days: float = 30.0, audience: str = "",
        may_shrink: bool = False, custom: dict[str, Any] | None = None, created_s: int = 1_700_000_000,
    ) -> "Repository":  # fmt: skip
        """Publish a generation, by default the next one; `days` is how long its metadata is good for."""
        self.version += 1
        number = self.version if generation is None else generation
        data = encode(chosen, generation=number, created_s=created_s, audience=audience, may_shrink=may_shrink)
        count = int.from_bytes(data[32:36], "little")
        return self.publish_file(data, custom or {"generation": number, "entries": count}, days=days)

    def publish_file(self, data: bytes, custom: dict[str, Any], *, days: float = 30.0) -> "Repository":
        """Publish any bytes as the target."""
        target = TargetFile.from_data("ble.mble", data, ["sha256"])
        target.unrecognized_fields["custom"] = custom
        self.files[f"targets/{target.hashes['sha256']}.ble.mble"] = data
        targets = Targets(version=self.version, expires=_in_days(days), targets={"ble.mble": target})
        return self.sign_states(targets, days=days)

    def sign_states(self, targets: Targets, *, days: float) -> "Repository":
        version = self.version
        targets_bytes = self._sign("targets", targets)
        meta = {"targets.json": _meta(version, targets_bytes)}
        snapshot_bytes = self._sign("snapshot", Snapshot(version=version, expires=_in_days(days), meta=meta))
        timestamp = Timestamp(version=version, expires=_in_days(days), snapshot_meta=_meta(version, snapshot_bytes))
        self.files[f"metadata/{version}.targets.json"] = targets_bytes
        self.files[f"metadata/{version}.snapshot.json"] = snapshot_bytes
        self.files["metadata/timestamp.json"] = self._sign("timestamp", timestamp)
        return self

    def rotate_root(self) -> "Repository":
        """Publish root version 2 with new keys for all other roles."""
        old = Metadata[Root].from_bytes(self.root)
        for role in ROLES[1:]:
            keyid = old.signed.roles[role].keyids[0]
            old.signed.revoke_key(keyid, role)
            self.keys[role] = CryptoSigner.generate_ed25519()
            old.signed.add_key(self.keys[role].public_key, role)
        old.signed.version = 2
        self.files["metadata/2.root.json"] = self._sign("root", old.signed)
        return self

    def _sign(self, role: str, signed: Any) -> bytes:
        metadata: Metadata[Any] = Metadata(signed)
        metadata.sign(self.keys[role])
        return metadata.to_bytes()

    def write(self, folder: Path, files: dict[str, bytes] | None = None) -> Path:
        """Write the repository as a directory."""
        for name, data in (files or self.files).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder

    def carrier(self, files: dict[str, bytes] | None = None) -> bytes:
        """Return the repository as a carrier."""
        return tar([tarinfo(name, data) for name, data in (files or self.files).items()])

    def enroll(self, state: Path) -> Path:
        """Write what an enrolled device has: the root of trust, and to whom it belongs."""
        (state / "trust").mkdir(parents=True)
        (state / "identity").mkdir()
        (state / "trust" / "root.json").write_bytes(self.root)
        self.belong(state, "https://127.0.0.1:1", "0" * 64)
        return state

    @staticmethod
    def belong(state: Path, url: str, fingerprint: str) -> None:
        member = Enterprise(url, fingerprint, ENTERPRISE_ID, DEVICE_ID, 1_700_000_000, ("127.0.0.1",))
        enterprise_path(state).write_bytes(msgspec.json.encode(member))


def tarinfo(name: str, data: bytes = b"", **changes: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return a tar member; `changes` are attributes of TarInfo."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in changes.items():
        setattr(info, key, value)
    return info, data


def tar(members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """Return an uncompressed POSIX tar of `members`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _meta(version: int, data: bytes) -> MetaFile:
    return MetaFile(version=version, length=len(data), hashes={"sha256": hashlib.sha256(data).hexdigest()})


def _in_days(days: float) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
