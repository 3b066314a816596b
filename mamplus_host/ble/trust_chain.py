# SPDX-License-Identifier: Apache-2.0
"""The chain of signatures from the enrolled root to a role's word: TUF's client workflow over python-tuf's rules.

Journey: carrier -> [chain] -> trust.

python-tuf's `TrustedMetadataSet` verifies; its `Updater` is not used, for three reasons: it takes
the time from the system's clock, it keeps an old timestamp where a carrier brings a fresh one of
the same version, and it works on files. Here everything is bytes in memory: what was remembered,
what is fetched, and `files`, what is to be remembered.

A key that was rotated takes with it what it signed: remembered metadata that the current root (or
targets) no longer vouches for is no longer compared with. That is the way back when a stolen key
drove versions up. A carrier's timestamp is compared with carriers' alone, so a thief of their key
stops no network; the snapshot that both lead to is compared with what was seen on either way.
So it is with time: what the snapshot's key says of it counts as long as the root
names that key. The timestamp's key and the carriers' cannot say what time it is.
"""

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import (  # type: ignore[attr-defined]  # re-exported in its public documents
    Metadata,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from mamplus_host.ble.carrier import Missing
from mamplus_host.errors import BleInvalid, BleWrongDevice

CARRIERS = "carrier.timestamp.json"  # the name under which a carrier's timestamp is remembered, beside the network's
FIELD = "x-mamplus"  # our own signed field, in root, snapshot and timestamp
MAX_ROTATIONS = 256  # root versions that a device may have missed
MAX_ROOT_BYTES = 1 << 19
MAX_TIMESTAMP_BYTES = 1 << 14
MAX_ROLE_BYTES = 1 << 18  # where the signed length is not said
Fetch = Callable[[str, int], bytes]  # name below metadata/, bytes at most; raises Missing
TimeBy = Callable[[Collection[str]], float]  # ids of the keys whose word on it counts -> seconds since the epoch


class Chain:
    """What one source says, as far as the signatures carry it. `refresh` first."""

    def __init__(self, bootstrap: bytes, remembered: Mapping[str, bytes], fetch: Fetch, *, time_by: TimeBy) -> None:
        """`remembered`: the `files` of an earlier chain, or nothing."""
        self.files: dict[str, bytes] = {}
        self._remembered, self._fetch, self._time_by = remembered, fetch, time_by
        self._now = datetime.fromtimestamp(0, UTC)  # until the root is known: it says whose time counts
        self._trusted = self._set(bootstrap)
        self._root = bootstrap

    def refresh(self, *, is_network: bool, device_id: str) -> None:
        """Follow root, timestamp, snapshot and targets; raises what python-tuf and `fetch` raise, and BleRejected."""
        self._follow_root()
        self._now = self._trusted.reference_time = datetime.fromtimestamp(self._time_by(self.time_keys), UTC)
        self._take_timestamp(is_network=is_network, device_id=device_id)
        self._take_snapshot()
        self._take("targets", "root")

    @property
    def root(self) -> Root:
        return self._trusted.root

    @property
    def signed_at_s(self) -> int:
        """When the enterprise last said that this is its newest state; 0: it does not say."""
        said = _field(self._trusted.snapshot).get("signed_at", 0)
        return said if isinstance(said, int) and said >= 0 else 0

    @property
    def time_keys(self) -> frozenset[str]:
        """Ids of the keys whose word on the time counts."""
        return frozenset(self.root.roles["snapshot"].keyids)

    @property
    def time_signers(self) -> frozenset[str]:
        """Ids of those that did sign `signed_at_s`."""
        return self._signers("snapshot", self.files["snapshot.json"])

    @property
    def offline_end_s(self) -> int:
        """Until when the offline keys vouch for the others: no word of theirs can be from later."""
        return int(min(self.root.expires, self._trusted.targets.expires).timestamp())

    def role(self, name: str) -> Targets:
        """Return the metadata of a delegated role; BleInvalid when role targets does not delegate it so."""
        self._want_delegation(name)
        return self._take(name, "targets")

    def was_rotated(self, name: str) -> bool:
        """Whether what is remembered of a delegated role was signed by keys that it no longer has."""
        data = self._remembered.get(f"{name}.json")
        if data is None:
            return False
        try:
            known = Metadata[Targets].from_bytes(data)
            self._trusted.targets.verify_delegate(name, known.signed_bytes, known.signatures)
        except tuf_errors.RepositoryError:
            return True
        return False

    def _set(self, root: bytes) -> TrustedMetadataSet:
        made = TrustedMetadataSet(root, EnvelopeType.METADATA)
        made.reference_time = self._now
        return made

    def _follow_root(self) -> None:
        for version in range(self.root.version + 1, self.root.version + 1 + MAX_ROTATIONS):
            name = f"{version}.root.json"
            data = self._known_root(name)
            if data is None:
                try:
                    data = self._fetch(name, MAX_ROOT_BYTES)
                except Missing:
                    return
                self._trusted.update_root(data)
            self._root = self.files[name] = data

    def _known_root(self, name: str) -> bytes | None:
        data = self._remembered.get(name)
        try:
            if data is not None:
                self._trusted.update_root(data)
        except tuf_errors.RepositoryError:
            return None
        return data

    def _take_timestamp(self, *, is_network: bool, device_id: str) -> None:
        data = self._fetch("timestamp.json", MAX_TIMESTAMP_BYTES)
        if is_network:
            self._refuse_carriers(data)
        name = CARRIERS if self._signers("timestamp", data) & self._carriers() else "timestamp.json"
        remembered = self._remembered.get(name)
        if remembered is not None:
            self._try(self._trusted.update_timestamp, remembered)
        try:
            self._trusted.update_timestamp(data)
        except tuf_errors.EqualVersionNumberError:
            self._replace_timestamp(data)
        self.files |= {one: kept for one in (CARRIERS, "timestamp.json") if (kept := self._remembered.get(one))}
        self.files[name] = data
        self._want_device(device_id)
        self._want_no_older_snapshot()

    def _replace_timestamp(self, data: bytes) -> None:
        """Use the fetched timestamp of the same version: a carrier's ends later, the network's is not a carrier's."""
        before = self._trusted.timestamp.snapshot_meta
        self._trusted = self._set(self._root)
        self._trusted.update_timestamp(data)
        if self._trusted.timestamp.snapshot_meta != before:
            raise tuf_errors.BadVersionNumberError("two timestamps of one version lead to different snapshots")

    def _refuse_carriers(self, data: bytes) -> None:
        """Raise BleInvalid when a carriers' key signed: who copied a stick could hold devices on it for months."""
        if self._carriers() & Metadata[Timestamp].from_bytes(data).signatures.keys():
            raise BleInvalid(
                "'metadata/timestamp.json' is a carrier's, and this is the network; want the one that the enterprise"
                " serves: load what comes from a stick with `mamplus ble load FILE`"
            )

    def _carriers(self) -> frozenset[str]:
        said = _field(self.root).get("carrier", [])
        return frozenset(one for one in said if isinstance(one, str)) if isinstance(said, list) else frozenset()

    def _signers(self, role: str, data: bytes) -> frozenset[str]:
        """Return the ids of the role's keys that did sign `data`."""
        signed = Metadata[Any].from_bytes(data)
        return frozenset(self.root.get_verification_result(role, signed.signed_bytes, signed.signatures).signed)

    def _want_no_older_snapshot(self) -> None:
        """Raise BadVersionNumberError when the timestamp leads to before the snapshot that was seen last."""
        remembered = self._remembered.get("snapshot.json")
        if remembered is None or not self._signers("snapshot", remembered):
            return
        version, seen = self._trusted.timestamp.snapshot_meta.version, Metadata[Snapshot].from_bytes(remembered).signed
        if version < seen.version:
            raise tuf_errors.BadVersionNumberError(f"it leads to snapshot {version}, want {seen.version} or newer")

    def _want_device(self, device_id: str) -> None:
        device = _field(self._trusted.timestamp).get("device", "")
        if device not in ("", device_id):
            raise BleWrongDevice(
                f"the carrier was made for device {str(device)[:64]!r}, this is {device_id!r};"
                " get the one for this device"
            )

    def _take_snapshot(self) -> None:
        remembered = self._remembered.get("snapshot.json")
        if remembered is not None and self._try(self._trusted.update_snapshot, remembered, True):
            self.files["snapshot.json"] = remembered
            return
        meta = self._trusted.timestamp.snapshot_meta
        data = self._fetch(f"{meta.version}.snapshot.json", meta.length or MAX_ROLE_BYTES)
        self._trusted.update_snapshot(data)
        self.files["snapshot.json"] = data

    def _take(self, role: str, delegator: str) -> Targets:
        if self._trusted.contains(role, delegator):
            return cast("Targets", self._trusted[role])
        name = f"{role}.json"
        remembered = self._remembered.get(name)
        if remembered is not None and self._try(self._trusted.update_delegated_targets, remembered, role, delegator):
            self.files[name] = remembered
            return cast("Targets", self._trusted[role])
        meta = self._trusted.snapshot.meta.get(name)
        if meta is None:
            raise tuf_errors.RepositoryError(f"the snapshot does not name {name!r}")
        data = self._fetch(f"{meta.version}.{name}", meta.length or MAX_ROLE_BYTES)
        taken = self._trusted.update_delegated_targets(data, role, delegator)
        self.files[name] = data
        return taken

    def _want_delegation(self, name: str) -> None:
        """Raise BleInvalid unless the files below `name/` are that role's word, and only that role's."""
        delegations = self._trusted.targets.delegations
        leading = list(delegations.get_roles_for_target(f"{name}/any")) if delegations is not None else []
        if not leading or leading[0] != (name, True):
            raise BleInvalid(
                f"role targets gives {name!r} to {leading[:3]!r}, want the role of that name alone, terminating"
            )

    @staticmethod
    def _try(update: Callable[..., Any], *arguments: Any) -> bool:
        try:
            update(*arguments)
        except tuf_errors.RepositoryError:  # old, expired, or signed by a key that was rotated: fetch it
            return False
        return True


def _field(signed: Root | Timestamp | Snapshot) -> Mapping[str, Any]:
    said = signed.unrecognized_fields.get(FIELD, {})
    return said if isinstance(said, dict) else {}


def file_name(target: TargetFile) -> str:
    """Return the name below targets/ under which a target is served: with its hash before the last part."""
    directory, _, base = target.path.rpartition("/")
    return f"{directory}/{target.hashes['sha256']}.{base}"
