# SPDX-License-Identifier: Apache-2.0
"""The signed repository on disk: TUF metadata over the files of `shelf.py`, all of it static.

Journey: publish -> [repository] -> devices, caches, carriers.

timestamp.json is written last, by rename: whoever reads it finds everything it leads to.
A publisher that dies earlier leaves files that nothing names; the next one overwrites them.
Writers hold the publish lock; readers need none.
"""

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from securesystemslib.signer import Key, Signer  # type: ignore[attr-defined]  # re-exported in its documents
from tuf.api.metadata import (  # type: ignore[attr-defined]  # re-exported in its public documents
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from mamplus_enterprise.ble import roles, shelf
from mamplus_enterprise.ble.keys import Signers
from mamplus_enterprise.ble.roles import CARRIER, DELEGATED, FIELD, TOP_LEVEL, Quorum
from mamplus_enterprise.ble.shelf import LayerChange, LayerState
from mamplus_enterprise.errors import KeysUnavailable, PublishFailed
from mamplus_enterprise.home import Home
from mamplus_host.ble.layer import Layer
from mamplus_host.files import write_whole

CLOCK_BACK_S = 86_400  # the clock of the enterprise may fall back so far; devices grant a list as much
KEPT_VERSIONS = 8  # for devices and caches that are in the middle of reading
_COMPACT = JSONSerializer(compact=True)  # devices pay for every byte
_T = TypeVar("_T", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True, slots=True)
class Published:
    """What the repository offers now."""

    generation: int
    entries: int
    left: tuple[str, ...] = ()  # roles with something to publish whose keys were not at hand
    failed: tuple[str, ...] = ()  # why layers were left that cannot be published as they are written


@dataclass(slots=True)
class State:
    """The signed parts that timestamp.json leads to; changed in memory, then `save`d."""

    root: Root
    targets: Targets
    snapshot: Snapshot
    timestamp: Timestamp
    delegated: dict[str, Targets] = field(default_factory=dict)  # by role

    def signed(self, role: str) -> Signed:
        return self.delegated[role] if role in DELEGATED else getattr(self, role)

    def keyids(self, role: str) -> list[str]:
        return roles.keyids(role, self.root, self.targets)

    def threshold(self, role: str) -> int:
        return roles.threshold(role, self.root, self.targets)


def create(
    home: Home,
    signers: Signers,
    named: Mapping[str, str],
    changes: Sequence[LayerChange],
    quorums: Mapping[str, Quorum],
) -> None:
    """Make the repository with its first root and its first generation of every layer.

    `named`: the public halves, hex, of the roles that the root names in our field (`roles.NAMED`).
    """
    home.metadata.mkdir(parents=True)
    home.targets.mkdir()
    keys: dict[str, list[Key]] = {role: [one.public_key for one in having] for role, having in signers.items()}
    root = Root(version=1, expires=roles.expiry("root"), consistent_snapshot=True)
    for role in TOP_LEVEL:
        for key in keys[role]:
            root.add_key(key, role)
        root.roles[role].threshold = quorums[role].threshold if role in quorums else 1
    root.add_key(keys[CARRIER][0], "timestamp")
    root.unrecognized_fields[FIELD] = {"carrier": [keys[CARRIER][0].keyid], **named}
    targets = Targets(delegations=roles.delegations({role: keys[role][0] for role in DELEGATED}))
    state = State(root, targets, Snapshot(), Timestamp(), {role: Targets() for role in DELEGATED})
    for role in (*TOP_LEVEL[1:], *DELEGATED):
        state.signed(role).version = 0  # `save` makes it the first
    for change in changes:
        shelf.put(home.targets, state.delegated[change.layer.role], change)
    write_root(home, state, signers)
    save(home, signers, state, ("targets", *DELEGATED))


def read(home: Home) -> State:
    """Read down from timestamp.json; PublishFailed when a file is damaged or missing."""
    timestamp = _read(home.metadata / "timestamp.json", Timestamp)
    snapshot = _read(home.metadata / f"{timestamp.snapshot_meta.version}.snapshot.json", Snapshot)
    targets = _read(_versioned(home, "targets", snapshot), Targets)
    delegated = {role: _read(_versioned(home, role, snapshot), Targets) for role in DELEGATED}
    return State(_read(root_files(home)[-1], Root), targets, snapshot, timestamp, delegated)


def current(home: Home) -> Published:
    """Return what timestamp.json leads to; PublishFailed when the repository is damaged."""
    states = layers(home).values()
    return Published(max(state.number for state in states), sum(state.entries for state in states))


def layers(home: Home) -> dict[Layer, LayerState]:
    """Return what the repository offers of each layer."""
    state = read(home)
    return {layer: shelf.offered(state.delegated[layer.role]) for layer in Layer}


def add(
    home: Home, signers: Signers, changes: Sequence[LayerChange], *, policy: tuple[int, bytes] | None = None
) -> None:
    """Publish the new state of some layers, and the policy (version, content) when it is another, all at once."""
    state = read(home)
    for change in changes:
        shelf.put(home.targets, state.delegated[change.layer.role], change)
    changed = [change.layer.role for change in changes]
    if policy is not None and shelf.put_policy(home.targets, state.delegated["policy"], *policy):
        changed.append("policy")
    save(home, signers, state, changed)


def renew(home: Home, signers: Signers) -> list[str]:
    """Sign again what is due (`roles.is_aged`) and whose keys are at hand; return the roles.

    The list stays what it is. Without this, an enterprise with nothing to publish would look
    dead after a week. `aged` tells what is left for keys that lie elsewhere.
    """
    state = read(home)
    able = [role for role in _aged(state) if is_able(state, role, signers)]
    if able:
        want_clock(home)
    if "root" in able:
        state.root.version += 1
        state.root.expires = roles.expiry("root")
        write_root(home, state, signers)
    if set(able) - {"root"}:
        save(home, signers, state, [role for role in able if role == "targets" or role in DELEGATED])
    return able


def aged(home: Home) -> list[str]:
    """Return the roles that are to be signed again."""
    return _aged(read(home))


def want_clock(home: Home) -> None:
    """Raise PublishFailed when this machine's clock is far before what it has signed: devices would refuse the state.

    A rotation need not ask: devices forget what the snapshot's old key said about the time.
    """
    now_s, last_s = time.time(), _last_signed_s(read(home))
    if now_s < last_s - CLOCK_BACK_S:
        raise PublishFailed(
            f"this machine's clock says {_day(now_s)}, and what is published was signed at {_day(last_s)}; set the"
            " clock if it is wrong now. If it was wrong then: `root rotate --role snapshot --role timestamp`, then"
            " publish again, lets devices forget that time"
        )


def _last_signed_s(state: State) -> int:
    return int(state.snapshot.unrecognized_fields.get(FIELD, {}).get("signed_at", 0))


def _signing_s(state: State) -> int:
    """Return the time to sign: now, or that of the state before when the clock fell back a little."""
    now_s, last_s = int(time.time()), _last_signed_s(state)
    return last_s if now_s < last_s <= now_s + CLOCK_BACK_S else now_s


def _day(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M} UTC"


def _aged(state: State) -> list[str]:
    every = (*TOP_LEVEL, *DELEGATED)
    return [role for role in every if roles.is_aged(role, state.signed(role).expires)]


def newest_root(home: Home) -> bytes:
    """Return what a device that enrols now trusts first: keys that were revoked before are nothing to it."""
    return root_files(home)[-1].read_bytes()


def root_files(home: Home) -> list[Path]:
    """Return the files of all root versions, oldest first."""
    return sorted(home.metadata.glob("*.root.json"), key=_version)


def metadata_files(home: Home, state: State) -> list[Path]:
    """Return what timestamp.json leads to, but for itself; the lists are in `shelf`."""
    named = [_versioned(home, role, state.snapshot) for role in ("targets", *DELEGATED)]
    return [*root_files(home), home.metadata / f"{state.snapshot.version}.snapshot.json", *named]


def save(home: Home, signers: Signers, state: State, changed: Iterable[str], also: Signers | None = None) -> None:
    """Sign and write `changed` (targets and delegated roles), then snapshot and timestamp, which lead to it.

    `also` signs beside: a key that is about to be revoked, for devices that do not know the new root yet.
    """
    names = {f"{role}.json": role for role in changed}
    metas = {name: _write(home, signers, state, role, also) for name, role in names.items()}
    state.snapshot.meta.update(metas)
    state.snapshot.unrecognized_fields[FIELD] = {"signed_at": _signing_s(state)}
    state.timestamp.snapshot_meta = _write(home, signers, state, "snapshot", also)
    _write(home, signers, state, "timestamp", also)
    _prune(home, state)


def _write(home: Home, signers: Signers, state: State, role: str, also: Signers | None) -> MetaFile:
    signed = state.signed(role)
    signed.version += 1
    signed.expires = roles.expiry(role)
    data = sign(state, role, signers, signed, beside=(also or {}).get(role, ()))
    name = "timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"
    write_whole(home.metadata / name, data, mode=0o644)
    return MetaFile(signed.version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


def write_root(home: Home, state: State, signers: Signers, also: Signers | None = None) -> None:
    """Sign and write the root that `state` holds; `also`: the signers of the version before."""
    beside = (also or {}).get("root", ())
    data = sign(state, "root", signers, state.root, beside=beside)
    write_whole(home.metadata / f"{state.root.version}.root.json", data, mode=0o644)


def sign(state: State, role: str, signers: Signers, signed: Any, *, beside: Iterable[Signer] = ()) -> bytes:
    """Return `signed` with the signatures of `role`; KeysUnavailable when fewer keys than wanted are at hand."""
    want_keys(state, signers, [role])
    chosen = _fitting(state, role, signers)
    metadata: Metadata[Any] = Metadata(signed)
    for signer in {one.public_key.keyid: one for one in [*chosen, *beside]}.values():
        metadata.sign(signer, append=True)
    return metadata.to_bytes(_COMPACT)


def is_able(state: State, role: str, signers: Signers) -> bool:
    """Whether enough keys of `role` are at hand to sign for it."""
    return len(_fitting(state, role, signers)) >= state.threshold(role)


def want_keys(state: State, signers: Signers, wanted: Iterable[str]) -> None:
    """Raise KeysUnavailable for the first of these roles that cannot sign; nothing has been signed then."""
    for role in wanted:
        if not is_able(state, role, signers):
            raise _lacking(state, role, signers)


def _lacking(state: State, role: str, signers: Signers) -> KeysUnavailable:
    return KeysUnavailable(
        f"role {role} wants {state.threshold(role)} of its {len(state.keyids(role))} keys to sign,"
        f" {len(_fitting(state, role, signers))} are at hand; say --keys DIR where the others are, or plug in the token"
    )


def _fitting(state: State, role: str, signers: Signers) -> list[Signer]:
    trusted = state.keyids(role)
    return [signer for signer in signers.get(role, []) if signer.public_key.keyid in trusted]


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


def _versioned(home: Home, role: str, snapshot: Snapshot) -> Path:
    try:
        return home.metadata / f"{snapshot.meta[f'{role}.json'].version}.{role}.json"
    except KeyError:
        raise PublishFailed(
            f"the repository has no role {role}: it was made by an earlier release; make a new enterprise"
        ) from None


def _version(path: Path) -> int:
    return int(path.name.split(".")[0])


def _prune(home: Home, state: State) -> None:
    """Remove metadata older than the newest KEPT_VERSIONS, and files that what is left does not name."""
    for role in ("snapshot", "targets", *DELEGATED):
        versions = sorted(home.metadata.glob(f"[0-9]*.{role}.json"), key=_version)
        for path in versions[:-KEPT_VERSIONS]:
            path.unlink()
    for role in DELEGATED:
        kept = sorted(home.metadata.glob(f"[0-9]*.{role}.json"), key=_version)
        shelf.prune(home.targets / role, state.delegated[role], [_read(path, Targets) for path in kept[:-1]])


def earliest_end(state: State) -> datetime:
    """Return when the first of the signed parts that a carrier holds ends, its timestamp aside."""
    every = ("root", "targets", "snapshot", *DELEGATED)
    return min(state.signed(role).expires for role in every)
