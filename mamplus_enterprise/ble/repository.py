# SPDX-License-Identifier: Apache-2.0
"""The signed repository on disk: TUF metadata and the one target, as static files.

Journey: publish -> [repository] -> devices, caches, carriers.

timestamp.json is written last, by rename: whoever reads it finds everything it leads to.
A publisher that dies earlier leaves files that nothing names; the next one overwrites them.
Writers hold the publish lock; readers need none.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # re-exported in its documents
from tuf.api.metadata import (  # type: ignore[attr-defined]  # re-exported in its public documents
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from mamplus_enterprise.ble.keys import ROLES, Signers
from mamplus_enterprise.errors import PublishFailed
from mamplus_enterprise.home import Home
from mamplus_host.files import write_whole

TARGET = "ble.mble"
LIFETIME = {
    "root": timedelta(days=730),
    "targets": timedelta(days=365),
    "snapshot": timedelta(days=90),
    "timestamp": timedelta(days=30),
}
KEPT_VERSIONS = 8  # for devices and caches that are in the middle of reading
States = tuple[Targets, Snapshot, Timestamp]
_T = TypeVar("_T", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True, slots=True)
class Published:
    """What the repository offers now."""

    generation: int
    entries: int


def create(home: Home, signers: Signers, data: bytes, offered: Published) -> None:
    """Make the repository with its first root and its first generation."""
    home.metadata.mkdir(parents=True)
    home.targets.mkdir()
    root = Root(version=1, expires=_expiry("root"), consistent_snapshot=True)
    for role in ROLES:
        root.add_key(signers[role].public_key, role)
    write_whole(home.metadata / "1.root.json", _signed(root, signers["root"]), mode=0o644)
    _write(home, signers, Targets(), Snapshot(), Timestamp(), (data, offered))


def current(home: Home) -> Published:
    """Return what timestamp.json leads to; PublishFailed when the repository is damaged."""
    custom = _target(_states(home)[0]).custom
    return Published(int(custom["generation"]), int(custom["entries"]))


def add(home: Home, signers: Signers, data: bytes, offered: Published) -> None:
    """Publish `data` as the generation `offered`."""
    _write(home, signers, *_next(_states(home)), (data, offered))
    _prune(home)


def renew(home: Home, signers: Signers) -> list[str]:
    """Sign again what is past half of its lifetime; return the roles. The list stays what it is.

    Without this, an enterprise with nothing to publish would look dead after 30 days. The
    root is renewed only where its key is among `signers`.
    """
    targets, snapshot, timestamp = _states(home)
    root = _read(_roots(home)[-1], Root)
    signed: dict[str, Signed] = {
        "root": root, "targets": targets, "snapshot": snapshot, "timestamp": timestamp
    }  # fmt: skip
    aged = [role for role in signers if _is_aged(role, signed[role])]
    if "root" in aged:
        _write_root(home, signers["root"], root)
    if set(aged) - {"root"}:
        _write(home, signers, *_next((targets, snapshot, timestamp)), None)
    return aged


def first_root(home: Home) -> bytes:
    """Return what devices trust first."""
    return (home.metadata / "1.root.json").read_bytes()


def current_files(home: Home) -> list[Path]:
    """Return the files that a carrier holds: every root, timestamp, and what it leads to."""
    targets, snapshot, _ = _states(home)
    return [
        *_roots(home),
        home.metadata / "timestamp.json",
        home.metadata / f"{snapshot.version}.snapshot.json",
        home.metadata / f"{targets.version}.targets.json",
        home.targets / f"{_target(targets).hashes['sha256']}.{TARGET}",
    ]


def _states(home: Home) -> States:
    """Read down from timestamp.json; again when a publisher removed what an old one named."""
    timestamp = _read(home.metadata / "timestamp.json", Timestamp)
    snapshot = _read(home.metadata / f"{timestamp.snapshot_meta.version}.snapshot.json", Snapshot)
    targets = _read(home.metadata / f"{snapshot.meta['targets.json'].version}.targets.json", Targets)
    return targets, snapshot, timestamp


def _read(path: Path, kind: type[_T]) -> _T:
    try:
        signed = Metadata.from_file(str(path)).signed
    except Exception as error:  # python-tuf: StorageError, DeserializationError; both mean a damaged repository
        raise PublishFailed(
            f"the repository's {path.name!r} cannot be read: {error}; restore it from a backup"
        ) from None
    if not isinstance(signed, kind):
        raise PublishFailed(f"the repository's {path.name!r} is no {kind.__name__}; restore it from a backup")
    return signed


def _target(targets: Targets) -> TargetFile:
    return targets.targets[TARGET]


def _next(states: States) -> States:
    for signed in states:
        signed.version += 1
    return states


def _write(
    home: Home, signers: Signers, targets: Targets, snapshot: Snapshot, timestamp: Timestamp,
    target: tuple[bytes, Published] | None,
) -> None:  # fmt: skip
    """Write all three, and the target when there is a new one; timestamp last."""
    if target is not None:
        targets.targets[TARGET] = _write_target(home, *target)
    snapshot.meta["targets.json"] = MetaFile(targets.version)
    timestamp.snapshot_meta = MetaFile(snapshot.version)
    for role, signed, name in (
        ("targets", targets, f"{targets.version}.targets.json"),
        ("snapshot", snapshot, f"{snapshot.version}.snapshot.json"),
        ("timestamp", timestamp, "timestamp.json"),
    ):
        signed.expires = _expiry(role)
        write_whole(home.metadata / name, _signed(signed, signers[role]), mode=0o644)


def _write_target(home: Home, data: bytes, offered: Published) -> TargetFile:
    target = TargetFile.from_data(TARGET, data, ["sha256"])
    target.unrecognized_fields["custom"] = msgspec.to_builtins(offered)
    write_whole(home.targets / f"{target.hashes['sha256']}.{TARGET}", data, mode=0o644)
    return target


def _write_root(home: Home, signer: CryptoSigner, root: Root) -> None:
    root.version += 1
    root.expires = _expiry("root")
    write_whole(home.metadata / f"{root.version}.root.json", _signed(root, signer), mode=0o644)


def _signed(signed: Any, signer: CryptoSigner) -> bytes:
    metadata: Metadata[Any] = Metadata(signed)
    metadata.sign(signer)
    return metadata.to_bytes()


def _expiry(role: str) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + LIFETIME[role]


def _is_aged(role: str, signed: Signed) -> bool:
    return signed.expires < datetime.now(UTC) + LIFETIME[role] / 2


def _roots(home: Home) -> list[Path]:
    return sorted(home.metadata.glob("*.root.json"), key=_version)


def _version(path: Path) -> int:
    return int(path.name.split(".")[0])


def _prune(home: Home) -> None:
    """Remove snapshots, targets metadata and lists older than the newest KEPT_VERSIONS."""
    kept = set()
    for role in ("snapshot", "targets"):
        versions = sorted(home.metadata.glob(f"[0-9]*.{role}.json"), key=_version)
        for path in versions[:-KEPT_VERSIONS]:
            path.unlink()
        if role == "targets":
            kept = {_target(_read(path, Targets)).hashes["sha256"] for path in versions[-KEPT_VERSIONS:]}
    for path in home.targets.glob(f"*.{TARGET}"):
        if path.name.split(".")[0] not in kept:
            path.unlink()
