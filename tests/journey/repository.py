# SPDX-License-Identifier: Apache-2.0
"""A small TUF repository for tests: made in memory, so that every attack can be made with the real keys.

The enterprise has its own maker; this one also makes what an honest enterprise never would.
"""

import hashlib
import io
import tarfile
import time
import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
from tuf.api.metadata import (  # type: ignore[attr-defined]
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from mamplus_host.ble.encode import encode, encode_delta, withdrawal
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.enterprise import Enterprise, enterprise_path
from mamplus_host.verdicts import Verdict

ROLES = ("root", "targets", "snapshot", "timestamp")
DELEGATED = ("policy", *(layer.role for layer in Layer))
DEVICE_ID = "d" * 64
ENTERPRISE_ID = "enterprise-of-the-test"
SEAL = "5e" * 32
CREATED_S = 1_700_000_000


def entries(count: int, *, first: int = 1, **changes: Any) -> list[Entry]:
    """Return `count` block entries for distinct hashes; `changes` are fields of each."""
    values = [(number, hashlib.sha256(str(number).encode()).hexdigest()) for number in range(first, first + count)]
    made = [Entry(id=number, kind=Kind.SHA256, value=value, verdict=Verdict.BLOCK) for number, value in values]
    return [msgspec.structs.replace(entry, **changes) for entry in made]


class Repository:
    """Files by name, as an enterprise serves them; `publish` adds a generation."""

    def __init__(self, *, root_keys: int = 1, root_threshold: int = 1) -> None:
        everyone = (*ROLES, "carrier", *DELEGATED)
        self.keys = {role: [CryptoSigner.generate_ed25519()] for role in everyone}
        self.keys["root"] += [CryptoSigner.generate_ed25519() for _ in range(root_keys - 1)]
        self.version = 0  # of snapshot and timestamp, and the number that was given last
        self.files: dict[str, bytes] = {}
        self.lists: dict[Layer, bytes] = {}
        self.targets = Targets(version=1, expires=in_days(365), delegations=self._delegations())
        self.roles = {role: Targets(version=1, expires=in_days(365)) for role in DELEGATED}
        self.meta: dict[str, MetaFile] = {}
        self.state = Root(consistent_snapshot=True, expires=in_days(3650))
        for role in (*ROLES, "carrier"):
            for key in self.keys[role]:
                self.state.add_key(key.public_key, "timestamp" if role == "carrier" else role)
        self.state.roles["root"].threshold = root_threshold
        self.state.unrecognized_fields["x-mamplus"] = {"carrier": self.carrier_keyids(), "seal": SEAL}
        self.root = self.sign("root", self.state)
        self.files["metadata/1.root.json"] = self.root
        self.put("targets", self.targets)
        for role in DELEGATED:
            self.put(role, self.roles[role])

    def carrier_keyids(self) -> list[str]:
        return [key.public_key.keyid for key in self.keys["carrier"]]

    def _delegations(self) -> Delegations:
        every = {role: DelegatedRole(role, [], 1, terminating=True, paths=[f"{role}/*"]) for role in DELEGATED}
        holder = Targets(delegations=Delegations({}, every))
        for role in DELEGATED:
            holder.add_key(self.keys[role][0].public_key, role)
        assert holder.delegations is not None
        return holder.delegations

    def publish(
        self, chosen: Iterable[Entry], *, layer: Layer = Layer.ENTERPRISE, generation: int | None = None,
        days: float = 30.0, audience: str = "", may_shrink: bool = False, custom: dict[str, Any] | None = None,
        created_s: int = CREATED_S, delta: bool = False,
    ) -> "Repository":  # fmt: skip
        """Publish a layer's next list, good for `days`; `delta`: and what makes it out of the one before."""
        number = self.version + 1 if generation is None else generation
        data = encode(chosen, generation=number, created_s=created_s, audience=audience, may_shrink=may_shrink)
        made = Generation(data)
        said = custom or {"generation": number, "entries": made.count, "root": made.root.hex()}
        if delta:
            self.add_delta(layer, made, created_s=created_s, audience=audience, may_shrink=may_shrink)
        self.lists[layer] = data
        return self.publish_file(data, said, layer=layer, days=days)

    def add_delta(self, layer: Layer, made: Generation, **how: Any) -> None:
        """Name what makes `made` out of the layer's list so far."""
        before = Generation(self.lists[layer])
        kept = {(entry.kind, entry.value) for entry in made.entries()}
        known = {(entry.kind, entry.value): entry for entry in before.entries()}
        changed = [entry for entry in made.entries() if known.get((entry.kind, entry.value)) != entry]
        gone = [withdrawal(kind, value) for kind, value in known if (kind, value) not in kept]
        data = encode_delta([*changed, *gone], [before], generation=made.number, **how)
        self.name_delta(layer, before.number, made, zlib.compress(data))

    def name_delta(self, layer: Layer, since: int, made: Generation, content: bytes) -> None:
        custom = {"generation": made.number, "from": since, "entries": 1, "root": made.root.hex()}
        self.name(layer.role, f"{layer.role}/{since}-{made.number}.delta", content, custom)

    def publish_file(
        self, data: bytes, custom: dict[str, Any], *, layer: Layer = Layer.ENTERPRISE, days: float = 30.0
    ) -> "Repository":
        """Publish any bytes as a layer's list."""
        self.name(layer.role, f"{layer.role}/list.mble", data, custom)
        return self.sign_states(layer.role, days=days)

    def name(self, role: str, path: str, data: bytes, custom: dict[str, Any]) -> None:
        """Let `role` name a file, which may be one that it has no right to."""
        target = TargetFile.from_data(path, data, ["sha256"])
        target.unrecognized_fields["custom"] = custom
        folder, _, base = path.rpartition("/")
        self.files[f"targets/{folder}/{target.hashes['sha256']}.{base}"] = data
        self.roles[role].targets[path] = target

    def sign_states(self, *roles: str, days: float = 30.0) -> "Repository":
        """Sign the changed `roles` with their next version, then snapshot and timestamp."""
        for role in roles:
            signed = self.targets if role == "targets" else self.roles[role]
            signed.version += 1
            signed.expires = in_days(365)
            self.put(role, signed)
        return self.stamp(days=days)

    def stamp(
        self, *, days: float = 30.0, by: str = "timestamp", signed_at: int | None = None, **said: Any
    ) -> "Repository":
        """Sign the next snapshot, which says when, and timestamp; `said` is the timestamp's own field."""
        self.version += 1
        snapshot = Snapshot(version=self.version, expires=in_days(days), meta=dict(self.meta))
        snapshot.unrecognized_fields["x-mamplus"] = {"signed_at": int(time.time()) if signed_at is None else signed_at}
        data = self.sign("snapshot", snapshot)
        self.files[f"metadata/{self.version}.snapshot.json"] = data
        self.files["metadata/timestamp.json"] = self.timestamp(data, days=days, by=by, **said)
        return self

    def timestamp(self, snapshot: bytes, *, days: float = 30.0, by: str = "timestamp", **said: Any) -> bytes:
        stamp = Timestamp(version=self.version, expires=in_days(days), snapshot_meta=meta_of(self.version, snapshot))
        stamp.unrecognized_fields["x-mamplus"] = said
        return self.sign(by, stamp)

    def carriers(self, *, days: float = 90.0, **said: Any) -> dict[str, bytes]:
        """Return the files of a carrier: the same, under a timestamp of the carriers' key."""
        snapshot = self.files[f"metadata/{self.version}.snapshot.json"]
        stamp = self.timestamp(snapshot, days=days, by="carrier", **said)
        return {**self.files, "metadata/timestamp.json": stamp}

    def put(self, role: str, signed: Signed) -> None:
        """Sign a role's metadata; the next snapshot will name it."""
        data = self.sign(role, signed)
        self.files[f"metadata/{signed.version}.{role}.json"] = data
        self.meta[f"{role}.json"] = meta_of(signed.version, data)

    def rotate(self, *roles: str) -> "Repository":
        """Publish the next root with new keys for top-level roles (and `carrier`), signed by old and new root keys."""
        old_root = list(self.keys["root"])
        for role in roles:
            name = "timestamp" if role == "carrier" else role
            fresh = [CryptoSigner.generate_ed25519() for _ in self.keys[role]]
            for key in self.keys[role]:
                self.state.revoke_key(key.public_key.keyid, name)
            for key in fresh:
                self.state.add_key(key.public_key, name)
            self.keys[role] = fresh
        self.state.unrecognized_fields["x-mamplus"]["carrier"] = self.carrier_keyids()
        self.state.version += 1
        signers = {key.public_key.keyid: key for key in [*old_root, *self.keys["root"]]}
        self.files[f"metadata/{self.state.version}.root.json"] = signed_by(self.state, list(signers.values()))
        self.put("targets", self.targets)
        return self

    def rotate_delegated(self, role: str) -> "Repository":
        """Give a delegated role a new key: role targets says so, and signs its next version."""
        self.targets.revoke_key(self.keys[role][0].public_key.keyid, role)
        self.keys[role] = [CryptoSigner.generate_ed25519()]
        self.targets.add_key(self.keys[role][0].public_key, role)
        return self.sign_states("targets", role)

    def sign(self, role: str, signed: Any) -> bytes:
        return signed_by(signed, self.keys[role])

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


def signed_by(signed: Any, signers: Iterable[CryptoSigner]) -> bytes:
    metadata: Metadata[Any] = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


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


def meta_of(version: int, data: bytes) -> MetaFile:
    return MetaFile(version=version, length=len(data), hashes={"sha256": hashlib.sha256(data).hexdigest()})


def in_days(days: float) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
