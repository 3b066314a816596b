# SPDX-License-Identifier: Apache-2.0
"""Who signs what: the roles of the repository, how long their word holds, and what they may name.

Role `targets` names no file: it delegates, each path to one role, terminating. So a stolen key of
one layer cannot write another. docs/trust.md says what each key can and cannot do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from securesystemslib.signer import Key  # type: ignore[attr-defined]  # re-exported in its documents
from tuf.api.metadata import (  # type: ignore[attr-defined]  # re-exported in its public documents
    DelegatedRole,
    Delegations,
    Root,
    Targets,
)

from mamplus_host.ble.layer import Layer

OFFLINE = ("root", "targets")  # with thresholds; in a safe but for rotations and renewals
TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")
LAYERS = tuple(layer.role for layer in Layer)
DELEGATED = ("policy", *LAYERS)
CARRIER = "carrier"  # a second key of role timestamp, for what travels on sticks
SEAL = "seal"  # X25519: devices encrypt for the enterprise with it; it signs nothing
MAINTENANCE = "maintenance"  # Ed25519: signs the codes that open a maintenance window on a device
SERVING = ("snapshot", "timestamp")  # without them nothing is published: their keys lie in DIR/keys
ONLINE = ("snapshot", "timestamp", CARRIER, *DELEGATED)  # what `serve` loads, as far as it is there
SIGNING = (*TOP_LEVEL, CARRIER, *DELEGATED)
NAMED = (SEAL, MAINTENANCE)  # the root names their public half in our field; they sign no metadata
ALL = (*SIGNING, *NAMED)
FIELD = "x-mamplus"  # our own signed field, in root, snapshot and timestamp
RENEWED_AFTER = {"timestamp": timedelta(days=1)}  # devices call their list stale by it; others: half of their time
LIFETIME = {
    "root": timedelta(days=730),
    "targets": timedelta(days=365),
    **dict.fromkeys(DELEGATED, timedelta(days=365)),
    "snapshot": timedelta(days=365),  # a carrier lives no longer than what is left of this
    "timestamp": timedelta(days=7),  # how long somebody in between can hold devices on an old list unnoticed
    CARRIER: timedelta(days=90),
}


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many keys a role has, and how many must sign."""

    keys: int = 1
    threshold: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= self.keys <= 16:
            raise ValueError(f"{self.threshold} of {self.keys} keys; want 1 <= threshold <= keys <= 16")


def expiry(role: str) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + LIFETIME[role]


def is_aged(role: str, expires: datetime) -> bool:
    """Whether it is time to sign the role again."""
    return expires < datetime.now(UTC) + LIFETIME[role] - RENEWED_AFTER.get(role, LIFETIME[role] / 2)


def delegations(keys: Mapping[str, Key]) -> Delegations:
    """Return what role `targets` says: `keys` holds the first key of each delegated role."""
    made = Delegations(
        {}, {role: DelegatedRole(role, [], 1, terminating=True, paths=[f"{role}/*"]) for role in DELEGATED}
    )
    holder = Targets(delegations=made)
    for role in DELEGATED:
        holder.add_key(keys[role], role)
    return made


def carrier_keyids(root: Root) -> list[str]:
    """Return the ids of the keys whose timestamps are for carriers only."""
    return list(root.unrecognized_fields.get(FIELD, {}).get("carrier", []))


def keyids(role: str, root: Root, targets: Targets) -> list[str]:
    """Return the ids of the keys that `role` signs with."""
    if role == CARRIER:
        return carrier_keyids(root)
    if role in DELEGATED:
        return list(_delegated(targets)[role].keyids)
    of_carriers = carrier_keyids(root) if role == "timestamp" else []
    return [keyid for keyid in root.roles[role].keyids if keyid not in of_carriers]


def threshold(role: str, root: Root, targets: Targets) -> int:
    """Return how many keys of `role` must sign."""
    if role == CARRIER:
        return 1
    return int(_delegated(targets)[role].threshold if role in DELEGATED else root.roles[role].threshold)


def _delegated(targets: Targets) -> Mapping[str, DelegatedRole]:
    assert targets.delegations is not None  # made by `delegations` above
    assert targets.delegations.roles is not None
    return targets.delegations.roles
