# SPDX-License-Identifier: Apache-2.0
"""The chain of signatures from the enrolled root to a role's word: TUF's client workflow over python-tuf's rules.

Journey: carrier -> [chain] -> trust.

python-tuf's `TrustedMetadataSet` verifies; its `Updater` is not used, for three reasons: it takes
the time from the system's clock, it keeps an old timestamp where a carrier brings a fresh one of
the same version, and it works on files. Here everything is bytes in memory: what was remembered,
what is fetched, and `files`, what is to be remembered.

A key that was rotated takes with it what it signed: remembered metadata that the current root (or
targets) no longer vouches for is no longer compared with. That is the way back when a stolen key
drove versions up. So it is with time: what the snapshot's key says of it counts as long as the root
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
        signed = Metadata[Snapshot].from_bytes(self.files["snapshot.json"])
        return frozenset(self.root.get_verification_result("snapshot", signed.signed_bytes, signed.signatures).signed)

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
        remembered = self._remembered.get("timestamp.json")
        if remembered is not None:
            self._try(self._trusted.update_timestamp, remembered)
        data = self._fetch("timestamp.json", MAX_TIMESTAMP_BYTES)
        if is_network:
            self._refuse_carriers(data)
        try:
            self._trusted.update_timestamp(data)
        except tuf_errors.EqualVersionNumberError:
            self._replace_timestamp(data)
        self.files["timestamp.json"] = data
        self._want_device(device_id)

    def _replace_timestamp(self, data: bytes) -> None:
        """Use the fetched timestamp of the same version: a carrier's ends later, the network's is not a carrier's."""
        before = self._trusted.timestamp.snapshot_meta
        self._trusted = self._set(self._root)
        self._trusted.update_timestamp(data)
        if self._trusted.timestamp.snapshot_meta != before:
            raise tuf_errors.BadVersionNumberError("two timestamps of one version lead to different snapshots")

    def _refuse_carriers(self, data: bytes) -> None:
        """Raise BleInvalid when a carriers' key signed: who copied a stick could hold devices on it for months."""
        carriers = _field(self.root).get("carrier", [])
        signed_by = Metadata[Timestamp].from_bytes(data).signatures
        if isinstance(carriers, list) and any(keyid in carriers for keyid in signed_by):
            raise BleInvalid(
                "'metadata/timestamp.json' is a carrier's, and this is the network; want the one that the enterprise"
                " serves: load what comes from a stick with `mamplus ble load FILE`"
            )

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
