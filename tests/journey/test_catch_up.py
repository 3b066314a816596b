# SPDX-License-Identifier: Apache-2.0
"""A device that missed generations: deltas or the whole list, whichever has fewer bytes; and what it cost."""

from pathlib import Path

import msgspec
import pytest

from mamplus_host.ble import native
from mamplus_host.ble.carrier import check_name
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.store import BleStore
from mamplus_host.ble.update import update
from mamplus_host.ble.update_helper import held_of
from mamplus_host.errors import BleInvalid
from tests.journey.attacks import Device, Files
from tests.journey.repository import Repository, entries
from tests.journey.served import files, served


@pytest.fixture
def repository() -> Repository:
    return Repository().publish(entries(2000))


@pytest.fixture
def device(tmp_path: Path, repository: Repository) -> Device:
    made = Device(tmp_path / "device", repository)
    made.load(repository)
    return made


def targets(source: Files) -> list[str]:
    """Return what was read of the targets, by kind."""
    return [check_name(name).rpartition(".")[2] for name in source.asked if name.startswith("targets/")]


def asked_for(device: Device, repository: Repository) -> list[str]:
    """Return what a device reads of the targets for the next state, with what it holds now."""
    record = BleStore(device.state).installed()
    assert record is not None
    source = Files(repository.files)
    device.verify(source, held_of(record))
    return targets(source)


def test_a_small_change_comes_as_a_delta(device: Device, repository: Repository) -> None:
    repository.publish(entries(2003), delta=True)

    assert asked_for(device, repository) == ["delta"]
    assert device.load(repository).patched == ["enterprise-1-2.delta.mble"]
    assert device.says(Layer.ENTERPRISE) == entries(2003)


def test_thirty_missed_generations_come_as_thirty_deltas_when_these_are_smaller(
    device: Device, repository: Repository
) -> None:
    for count in range(2001, 2031):
        repository.publish(entries(count), delta=True)

    assert asked_for(device, repository) == ["delta"] * 30
    assert device.load(repository).generation == 31
    assert device.says(Layer.ENTERPRISE) == entries(2030)


def test_changes_larger_than_the_list_come_as_the_list(device: Device, repository: Repository) -> None:
    for number in range(1, 12):
        repository.publish(entries(2000, first=1 + 3000 * number), delta=True, may_shrink=True)

    assert asked_for(device, repository) == ["mble"]
    assert device.load(repository).new
    assert device.says(Layer.ENTERPRISE) == entries(2000, first=1 + 3000 * 11)


def test_a_device_that_missed_more_than_is_kept_takes_the_list(device: Device, repository: Repository) -> None:
    repository.publish(entries(2001), delta=True)
    del repository.roles["ble-enterprise"].targets["ble-enterprise/1-2.delta"]
    repository.publish(entries(2002), delta=True)

    assert asked_for(device, repository) == ["mble"]


def test_where_a_delta_is_missing_the_list_is_taken(device: Device, repository: Repository) -> None:
    repository.publish(entries(2003), delta=True)
    files_ = {name: data for name, data in repository.files.items() if not name.endswith(".delta")}

    assert device.load(repository, files_).patched == []
    assert device.says(Layer.ENTERPRISE) == entries(2003)


def test_withdrawn_values_go_and_a_changed_verdict_stays_changed(device: Device, repository: Repository) -> None:
    kept = entries(1990, first=11)
    repository.publish([msgspec.structs.replace(kept[0], id=9001, reason="again"), *kept[1:]], delta=True)
    device.load(repository)

    said = {entry.id: entry for entry in device.says(Layer.ENTERPRISE)}

    assert len(said) == 1990
    assert said[9001].reason == "again"
    assert not set(range(1, 12)) & set(said)


def test_a_layer_that_did_not_change_costs_nothing(device: Device, repository: Repository) -> None:
    repository.publish(entries(2, first=9000), layer=Layer.EMERGENCY)
    source = Files(repository.files)
    record = BleStore(device.state).installed()
    assert record is not None
    offered = device.verify(source, held_of(record))

    assert [bool(layer.full or layer.deltas) for layer in offered.layers] == [False, True]
    assert len(targets(source)) == 1


def test_deltas_that_do_not_fit_what_is_installed_are_mended_by_the_list(
    device: Device, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record says that generation 1 is installed; what is there sums up to something else."""
    real = native.after
    repository.publish(entries(2003), delta=True)
    monkeypatch.setattr(native, "after", lambda *arguments: (bytes(32), real(*arguments)[1]))

    result = device.load(repository)

    assert (result.generation, result.patched) == (2, [])
    assert "took the whole list" in result.note
    assert device.says(Layer.ENTERPRISE) == entries(2003)


def test_a_delta_that_says_another_root_than_the_list_is_refused(device: Device, repository: Repository) -> None:
    repository.publish(entries(2003), delta=True)
    repository.publish(entries(2004))
    role = repository.roles["ble-enterprise"]
    delta = next(name for name in repository.files if name.endswith("1-2.delta"))
    custom = dict(role.targets["ble-enterprise/list.mble"].unrecognized_fields["custom"])
    repository.name("ble-enterprise", "ble-enterprise/1-3.delta", repository.files[delta], custom)
    repository.sign_states("ble-enterprise")

    device.refuses(BleInvalid, lambda: device.load(repository), match="its signed name 1 to 3")


def test_bytes_on_the_wire_are_what_the_connection_carried(device: Device, repository: Repository) -> None:
    repository.publish(entries(2003), delta=True)
    sizes = {name: len(data) for name, data in repository.files.items()}
    role = sizes["metadata/3.ble-enterprise.json"] + sizes["metadata/2.snapshot.json"]
    role += sizes["metadata/timestamp.json"]
    delta = next(size for name, size in sizes.items() if name.endswith(".delta"))
    with served(files(repository.files)) as server:
        Repository.belong(device.state, server.url, "")
        result = update(device.state)

    assert server.connections == 1
    assert role + delta < result.bytes < role + delta + 4000  # with the headers of five requests and answers


def test_a_thousand_changes_cost_less_than_sixty_kilobytes_on_the_wire(device: Device, repository: Repository) -> None:
    """However long the list is: the delta and the metadata on the way to it, TLS aside."""
    repository.publish(entries(3000), delta=True)
    with served(files(repository.files)) as server:
        Repository.belong(device.state, server.url, "")
        result = update(device.state)

    assert device.numbers()["enterprise"] == repository.version
    assert result.bytes < 60_000


def test_a_policy_arrives_with_the_list_and_is_not_read_twice(device: Device, repository: Repository) -> None:
    repository.name("policy", "policy/policy.json", b'{"version": 1}', {"version": 1})
    repository.sign_states("policy")
    first = device.fetch(repository.files)
    source = Files(repository.publish(entries(2001)).files)

    device.load(repository)
    device.verify(source)

    assert not first.new
    assert not [name for name in source.asked if "policy.json" in name and name.startswith("targets/")]


def test_a_policy_that_this_device_cannot_read_stops_no_list(device: Device, repository: Repository) -> None:
    repository.name("policy", "policy/policy.json", b'{"version": "of a later release"}', {"version": 1})
    repository.sign_states("policy")

    result = device.load(repository.publish(entries(2001)))

    assert (result.generation, "policy cannot be used" in result.note) == (3, True)
    assert device.says(Layer.ENTERPRISE) == entries(2001)
