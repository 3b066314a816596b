# SPDX-License-Identifier: Apache-2.0
"""One key is stolen: what its thief can do, and what not. docs/trust.md has the table.

The thief signs with the real key whatever he likes. Every other file is the enterprise's own.
"""

import json
from functools import partial
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, Targets  # type: ignore[attr-defined]

from mamplus_host.ble.encode import encode
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.errors import BleInvalid
from mamplus_host.verdicts import Verdict
from tests.journey.attacks import DAY_S, SOON, Device, Files, feed, published
from tests.journey.repository import CREATED_S, Repository, entries, in_days, signed_by


def one(kind: Kind, value: str, **changes: Any) -> Entry:
    return Entry(**{"id": 7, "kind": kind, "value": value, "verdict": Verdict.BLOCK, "valid_until": SOON, **changes})


@pytest.fixture
def repository() -> Repository:
    return published(root_keys=3, root_threshold=2)


def only(repository: Repository, *roles: str) -> Repository:
    """Forget every key but those of `roles`: what a thief of these could go on signing with."""
    thief = {role: [CryptoSigner.generate_ed25519() for _ in keys] for role, keys in repository.keys.items()}
    repository.keys = {**thief, **{role: repository.keys[role] for role in roles}}
    return repository


# --- a stranger, and each single key -----------------------------------------------------------------


def test_a_stranger_can_publish_nothing(device: Device) -> None:
    stranger = Repository().publish(entries(10)).publish(entries(11))

    device.refuses(BleInvalid, lambda: device.load(stranger), match="not signed by this device's enterprise")


@pytest.mark.parametrize(
    "role",
    ["root", "targets", "snapshot", "timestamp", "carrier", "policy", "ble-enterprise", "ble-emergency", "ble-feeds"],
)
def test_with_one_stolen_key_nobody_publishes_a_list(device: Device, repository: Repository, role: str) -> None:
    """A layer's file is believed only under its role, the snapshot and the timestamp: three keys on two machines."""
    if role == "root":  # one of its quorum gives everything else to the thief
        repository.keys["root"] = repository.keys["root"][:1]
        repository.rotate("timestamp", "snapshot", "targets")
    else:
        only(repository, role)
    if role in ("targets", "policy"):
        repository.sign_states(role)
    for layer, made in ((Layer.ENTERPRISE, entries(11)), (Layer.EMERGENCY, entries(4)), (Layer.FEEDS, feed(21))):
        repository.publish(made, layer=layer)
        content = repository.carriers() if role == "carrier" else repository.files
        device.refuses(BleInvalid, partial(device.load, repository, content))
        device.refuses(BleInvalid, partial(device.fetch, content))


def test_one_root_key_of_a_quorum_of_two_makes_no_root(device: Device, repository: Repository) -> None:
    repository.keys["root"] = repository.keys["root"][:1]
    repository.rotate("timestamp", "snapshot").publish(entries(11))

    device.refuses(BleInvalid, lambda: device.load(repository), match=r"2\.root\.json")


def test_one_root_key_that_signs_twice_is_one_key(device: Device, repository: Repository) -> None:
    """Two signatures under one id, and one key under two ids: a threshold of two wants two keys."""
    stolen = repository.keys["root"][0]
    repository.state.version = 2
    once = Metadata[Root].from_bytes(signed_by(repository.state, [stolen]))
    doubled = once.to_dict()
    doubled["signatures"] = doubled["signatures"] * 2
    files = {**repository.files, "metadata/2.root.json": json.dumps(doubled).encode()}
    device.refuses(BleInvalid, lambda: device.load(repository, files))

    renamed = once.to_dict()
    renamed["signatures"] = [*renamed["signatures"], {**renamed["signatures"][0], "keyid": "ab" * 32}]
    files["metadata/2.root.json"] = json.dumps(renamed).encode()
    device.refuses(BleInvalid, lambda: device.load(repository, files))


def test_the_targets_key_alone_delegates_to_nobody(device: Device, repository: Repository) -> None:
    """It could give layers to the thief; but without snapshot and timestamp no device hears of it."""
    repository.rotate_delegated("ble-enterprise")
    only(repository, "targets", "ble-enterprise").publish(entries(11))

    device.refuses(BleInvalid, lambda: device.load(repository))


def test_all_online_keys_together_allow_nothing_and_write_no_administrators_entry(
    device: Device, repository: Repository
) -> None:
    """The server is taken over as a whole; the administrators' key is not on it."""
    only(repository, "snapshot", "timestamp", "carrier", "ble-emergency", "ble-feeds")
    allowed = entries(3, first=900, verdict=Verdict.ALLOW)
    for layer in (Layer.EMERGENCY, Layer.FEEDS):
        repository.publish(allowed, layer=layer)
        device.refuses(BleInvalid, lambda: device.load(repository), match="verdict other than block and suspect")
        repository.publish(feed(20) if layer is Layer.FEEDS else entries(3, first=900), layer=layer)
    repository.publish(entries(11))
    device.refuses(BleInvalid, lambda: device.load(repository), match="ble-enterprise")


def test_all_online_keys_together_can_block_for_a_while(device: Device, repository: Repository) -> None:
    """What is left to them, said openly: an emergency block until an administrator answers, a feed's for 90 days."""
    only(repository, "snapshot", "timestamp", "ble-emergency", "ble-feeds")
    repository.publish(entries(4, first=900), layer=Layer.EMERGENCY)
    repository.publish([*feed(20), one(Kind.DOMAIN, "shop.example", id=500)], layer=Layer.FEEDS)

    assert device.load(repository).new
    assert [entry.value for entry in device.says(Layer.FEEDS) if entry.kind is Kind.DOMAIN] == ["shop.example"]


# --- limits of the online layers ---------------------------------------------------------------------

TOO_MUCH = {
    "an allow": (one(Kind.SHA256, "ab" * 32, verdict=Verdict.ALLOW), "verdict"),
    "no end": (one(Kind.IP, "203.0.113.7", valid_until=0), "no end"),
    "an end in 91 days": (one(Kind.IP, "203.0.113.7", valid_until=CREATED_S + 91 * DAY_S), "no end, or one more than"),
    "a certificate": (one(Kind.TLS, "ab" * 32), "a kind that feeds may not have"),
    "a port": (one(Kind.PORT, "443"), "a port, or a network shorter"),
    "half of the internet": (one(Kind.CIDR, "128.0.0.0/1"), "a port, or a network shorter"),
    "all of it": (one(Kind.CIDR, "0.0.0.0/0"), "a port, or a network shorter"),
    "all of IPv6": (one(Kind.CIDR, "::/0"), "a port, or a network shorter"),
    "all of IPv6, a port": (one(Kind.CIDR, "[2000::/3]:443"), "a port, or a network shorter"),
}


@pytest.mark.parametrize("what", list(TOO_MUCH))
@pytest.mark.parametrize("by", ["list", "delta"])
def test_the_feeds_key_says_no_more_than_it_may(device: Device, repository: Repository, what: str, by: str) -> None:
    entry, words = TOO_MUCH[what]
    repository.publish([*feed(20), entry], layer=Layer.FEEDS, delta=by == "delta")

    device.refuses(BleInvalid, lambda: device.load(repository), match=words)
    assert device.numbers()["feeds"] == 3


def test_the_feeds_key_says_what_it_may(device: Device, repository: Repository) -> None:
    may = [
        one(Kind.IP, "203.0.113.7", id=11), one(Kind.IP, "2001:db8::1", id=12), one(Kind.CIDR, "198.51.0.0/16", id=13),
        one(Kind.CIDR, "2001:db8::/32", id=14), one(Kind.DOMAIN, "bad.example", id=15),
        one(Kind.IP, "203.0.113.8:443/tcp", id=16), one(Kind.SHA256, "cd" * 32, id=17, verdict=Verdict.SUSPECT),
        one(Kind.CIDR, "10.0.0.0/8", id=18), one(Kind.DOMAIN, "end.example", id=19, valid_until=CREATED_S + 90 * DAY_S),
    ]  # fmt: skip
    repository.publish([*feed(20), *may], layer=Layer.FEEDS)

    assert device.load(repository).new
    assert len(device.says(Layer.FEEDS)) == 20 + len(may)


@pytest.mark.parametrize("by", ["list", "delta"])
def test_the_emergency_key_allows_nothing(device: Device, repository: Repository, by: str) -> None:
    bad = [*entries(3, first=900), one(Kind.IP, "203.0.113.7", verdict=Verdict.ALLOW)]
    repository.publish(bad, layer=Layer.EMERGENCY, delta=by == "delta")

    device.refuses(
        BleInvalid, lambda: device.load(repository), match="ble-emergency holds ip '203.0.113.7' with a verd"
    )


def test_the_emergency_layer_is_small(device: Device, repository: Repository) -> None:
    repository.publish(entries(10_001, first=5_000), layer=Layer.EMERGENCY)
    device.refuses(BleInvalid, lambda: device.load(repository), match="want at most 10000")

    repository.publish(entries(10_000, first=5_000), layer=Layer.EMERGENCY)
    assert device.load(repository).new


def test_the_emergency_layer_does_not_grow_beyond_its_size_by_deltas(device: Device, repository: Repository) -> None:
    for count in (6_000, 9_000, 10_001):
        repository.publish(entries(count, first=5_000), layer=Layer.EMERGENCY, delta=True)

    device.refuses(BleInvalid, lambda: device.load(repository), match="want at most 10000")


# --- paths: one layer's key writes no other layer ------------------------------------------------------


@pytest.mark.parametrize("thief", ["ble-feeds", "ble-emergency", "policy"])
def test_a_role_that_names_another_layers_file_is_not_asked(device: Device, repository: Repository, thief: str) -> None:
    """Delegation path escape: the thief's metadata is genuine and names a list of the administrators' layer."""
    forged = encode(entries(30, verdict=Verdict.ALLOW), generation=9, created_s=CREATED_S)
    made = Generation(forged)
    custom = {"generation": 9, "entries": made.count, "root": made.root.hex()}
    for path in ("ble-enterprise/list.mble", "ble-enterprise/1-9.delta"):
        repository.name(thief, path, forged, custom)
    repository.sign_states(thief)

    assert not device.load(repository).new
    assert device.says(Layer.ENTERPRISE) == entries(10)


def test_a_role_that_delegates_further_convinces_nobody(device: Device, repository: Repository) -> None:
    """The thief of the feeds' key lets a role of his own answer for everything."""
    role = Targets(version=9, expires=in_days(365))
    own = CryptoSigner.generate_ed25519()
    names = {"mine": DelegatedRole("mine", [own.public_key.keyid], 1, terminating=False, paths=["ble-enterprise/*"])}
    repository.roles["ble-feeds"].delegations = Delegations({own.public_key.keyid: own.public_key}, names)
    repository.files["metadata/9.mine.json"] = signed_by(role, [own])
    repository.sign_states("ble-feeds")
    source = Files(repository.files)

    device.verify(source)

    assert "metadata/9.mine.json" not in source.asked


@pytest.mark.parametrize(
    "roles",
    [
        {"ble-feeds": (["ble-*/*"], False)},
        {"ble-feeds": (["*"], True)},
        {"ble-enterprise": (["other/*"], True)},
        {"ble-enterprise": (["ble-enterprise/*"], False)},
    ],
    ids=["shared and not terminating", "everything", "nothing of its own", "not terminating"],
)
def test_a_delegation_that_would_let_two_roles_speak_for_a_layer_is_refused(
    device: Device, repository: Repository, roles: dict[str, tuple[list[str], bool]]
) -> None:
    """Signed by the offline key, so a mistake and no theft; a device says so instead of choosing."""
    delegations = repository.targets.delegations
    assert delegations is not None
    assert delegations.roles is not None
    for name, (paths, terminating) in roles.items():
        changed = delegations.roles.pop(name)
        changed.paths, changed.terminating = paths, terminating
        delegations.roles = {name: changed, **delegations.roles}
    repository.sign_states("targets")

    device.refuses(BleInvalid, lambda: device.load(repository), match="role targets gives")


def test_a_list_named_by_role_targets_itself_is_not_asked_for(device: Device, repository: Repository) -> None:
    forged = encode(entries(30), generation=9, created_s=CREATED_S)
    repository.roles["targets"] = repository.targets
    repository.name("targets", "ble-enterprise/list.mble", forged, {"generation": 9, "entries": 30, "root": "00" * 32})
    repository.sign_states("targets")

    assert not device.load(repository).new
