# SPDX-License-Identifier: Apache-2.0
"""Attacks with carriers, with somebody else's list, and with an emptied one."""

import time
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Timestamp  # type: ignore[attr-defined]

from mamplus_host.ble.layer import Layer
from mamplus_host.errors import BleExpired, BleInvalid, BleRollback, BleShrunk, BleWrongDevice
from tests.journey.attacks import DAY_S, Device, Files, feed
from tests.journey.repository import DEVICE_ID, Repository, entries, signed_by

FAR_VERSION = 9_999_999_000


# --- carriers ------------------------------------------------------------------------------------------


def test_a_carriers_timestamp_is_taken_from_a_stick_and_refused_on_the_network(
    device: Device, repository: Repository
) -> None:
    """The stick is copied, and its files are served to a device in the field: a freeze for as long as it is good."""
    carriers = repository.publish(entries(11)).carriers()

    device.refuses(BleInvalid, lambda: device.fetch(carriers), match="is a carrier's, and this is the network")
    assert device.load(repository, carriers).new


def test_a_carriers_timestamp_with_the_online_signature_beside_is_refused_on_the_network_too(
    device: Device, repository: Repository
) -> None:
    repository.publish(entries(11))
    stamp = Metadata[Any].from_bytes(repository.carriers()["metadata/timestamp.json"])
    both = signed_by(stamp.signed, [repository.keys["timestamp"][0], repository.keys["carrier"][0]])

    device.refuses(
        BleInvalid, lambda: device.fetch({**repository.files, "metadata/timestamp.json": both}), match="carr"
    )


def test_a_stolen_carriers_key_holds_no_connected_device(device: Device, repository: Repository) -> None:
    """After a stick the device goes on following the network, whose timestamp has the same version and ends sooner."""
    repository.publish(entries(11), days=7)
    device.load(repository, repository.carriers(days=3000))
    assert not device.fetch(repository.files).new

    source = Files(repository.files, is_network=True)
    with pytest.raises(BleExpired, match=r"timestamp\.json expired"):
        device.verify(source, now_s=time.time() + 8 * DAY_S)


def test_a_version_that_a_stolen_carriers_key_drives_up_stops_no_network(
    device: Device, repository: Repository
) -> None:
    """One stick with a timestamp of a version that the enterprise never reaches; sticks have their way back."""
    device.load(repository, of_version(repository, repository.carriers(), FAR_VERSION, by="carrier"))

    assert device.fetch(repository.publish(entries(11)).files).new
    assert device.load(repository.publish(entries(12))).new, "the online timestamp, on a stick"
    device.refuses(BleRollback, lambda: device.load(repository, repository.publish(entries(13)).carriers()))
    repository.rotate("carrier").publish(entries(13))
    assert device.load(repository, repository.carriers()).new


def test_a_version_that_the_online_key_drives_up_stops_no_stick(device: Device, repository: Repository) -> None:
    device.fetch(of_version(repository, repository.files, FAR_VERSION, by="timestamp"))

    assert device.load(repository, repository.publish(entries(11)).carriers()).new


@pytest.mark.parametrize("way", ["stick first", "network first"])
def test_neither_a_stick_nor_the_network_leads_behind_what_was_seen_on_the_other(
    device: Device, repository: Repository, way: str
) -> None:
    before, carriers_before = dict(repository.files), repository.carriers()
    repository.publish(entries(11))
    if way == "stick first":
        device.load(repository, repository.carriers())
        device.refuses(BleRollback, lambda: device.fetch(before), match="leads to snapshot 3, want 4 or newer")
    else:
        device.fetch(repository.files)
        device.refuses(BleRollback, lambda: device.load(repository, carriers_before), match="leads to snapshot 3")


def of_version(repository: Repository, files: dict[str, bytes], version: int, *, by: str) -> dict[str, bytes]:
    """Return `files` under a timestamp of a version that no honest one has."""
    stamp = Metadata[Timestamp].from_bytes(files["metadata/timestamp.json"]).signed
    stamp.version = version
    return {**files, "metadata/timestamp.json": repository.sign(by, stamp)}


def test_a_fresh_carrier_serves_a_device_whose_online_timestamp_of_the_same_version_has_ended(
    device: Device, repository: Repository
) -> None:
    repository.publish(entries(11), days=100)
    snapshot = repository.files["metadata/4.snapshot.json"]
    repository.files["metadata/timestamp.json"] = repository.timestamp(snapshot, days=1)
    device.load(repository)

    offered = device.verify(Files(repository.carriers(days=90)), now_s=time.time() + 30 * DAY_S)

    assert offered.number == 4


def test_a_carrier_for_another_device_is_refused(device: Device, repository: Repository) -> None:
    repository.publish(entries(11))

    device.refuses(
        BleWrongDevice, lambda: device.load(repository, repository.carriers(device="e" * 64)),
        match="made for device 'eeee",
    )  # fmt: skip
    assert device.load(repository, repository.carriers(device=DEVICE_ID)).new


@pytest.mark.parametrize("layer", [Layer.ENTERPRISE, Layer.FEEDS])
def test_a_layer_for_another_device_is_refused(device: Device, repository: Repository, layer: Layer) -> None:
    content = entries(11) if layer is Layer.ENTERPRISE else feed(21)
    repository.publish(content, layer=layer, audience="e" * 64)

    device.refuses(BleWrongDevice, lambda: device.load(repository), match="made for device 'eeee")


# --- emptied lists ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", list(Layer))
@pytest.mark.parametrize("by", ["list", "delta"])
def test_a_layer_that_lost_more_than_half_unsaid_is_refused(
    device: Device, repository: Repository, layer: Layer, by: str
) -> None:
    left = {Layer.ENTERPRISE: entries(4), Layer.EMERGENCY: entries(1, first=900), Layer.FEEDS: feed(9)}[layer]
    repository.publish(left, layer=layer, delta=by == "delta")
    device.refuses(BleShrunk, lambda: device.load(repository), match=layer.role)

    repository.publish(left, layer=layer, delta=by == "delta", may_shrink=True)
    assert device.load(repository).new


def test_a_new_device_takes_no_list_that_is_empty_as_a_whole_unsaid(tmp_path: Path) -> None:
    repository = Repository().publish([], may_shrink=True).publish([], layer=Layer.FEEDS)
    device = Device(tmp_path / "new", repository)

    device.refuses(BleShrunk, lambda: device.load(repository), match="all layers together")
    assert device.load(repository.publish([], layer=Layer.FEEDS, may_shrink=True)).new


def test_a_rotated_key_does_not_lift_the_guard_against_an_emptied_layer(device: Device, repository: Repository) -> None:
    """Its number is forgotten with the old key; how many entries the device enforces is not."""
    repository.rotate_delegated("ble-enterprise").publish(entries(4))
    device.refuses(BleShrunk, lambda: device.load(repository), match="the installed one 10")

    assert device.load(repository.publish(entries(5))).new
