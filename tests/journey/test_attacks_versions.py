# SPDX-License-Identifier: Apache-2.0
"""Attacks that show a device the past, the future, or a mixture: rollback, freeze, fast-forward, mix and match."""

import time

import pytest

from mamplus_host.ble.entry import Entry
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.store import BleStore
from mamplus_host.clock import DeviceClock
from mamplus_host.errors import BleExpired, BleInvalid, BleRollback
from tests.journey.attacks import Device, Files
from tests.journey.repository import CREATED_S, Repository, entries

YEAR_S = 364 * 86_400  # root and targets vouch for a little more
TEN_YEARS_S = 10 * 365 * 86_400
FAR = (1 << 62) + 1
FAR_VERSION = 9_999_999_000  # a version has ten digits at most


def test_every_layer_arrives_with_its_own_number(device: Device) -> None:
    assert device.numbers() == {"enterprise": 1, "emergency": 2, "feeds": 3}


# --- rollback -------------------------------------------------------------------------------------


def test_an_older_timestamp_is_a_rollback(device: Device, repository: Repository) -> None:
    older = dict(repository.files)
    device.load(repository.publish(entries(11)))

    wanted = r"timestamp\.json' has version 3, want 4 or newer; export a new carrier"
    device.refuses(BleRollback, lambda: device.load(repository, older), match=wanted)


def test_an_older_snapshot_under_a_new_timestamp_is_a_rollback(device: Device, repository: Repository) -> None:
    """The timestamp key is stolen: it names the snapshot of before."""
    before = repository.files["metadata/3.snapshot.json"]
    device.load(repository.publish(entries(11)))
    repository.version = 9
    stamp = repository.timestamp(before)  # leads to a "9.snapshot.json" that holds snapshot 3
    mixed = {**repository.files, "metadata/timestamp.json": stamp, "metadata/9.snapshot.json": before}

    device.refuses(BleRollback, lambda: device.load(repository, mixed), match=r"snapshot\.json")


@pytest.mark.parametrize("role", ["targets", "ble-enterprise", "ble-emergency", "ble-feeds", "policy"])
def test_a_snapshot_that_names_an_older_role_is_a_rollback(device: Device, repository: Repository, role: str) -> None:
    """Snapshot and timestamp keys are stolen: everything else is genuine, one role is that of before."""
    before = repository.meta[f"{role}.json"]
    device.load(repository.sign_states(role))
    repository.meta[f"{role}.json"] = before
    repository.stamp()

    device.refuses(BleRollback, lambda: device.load(repository), match=rf"{role}\.json")


def test_a_snapshot_that_forgets_a_role_is_refused(device: Device, repository: Repository) -> None:
    del repository.meta["ble-emergency.json"]
    repository.stamp()

    device.refuses(BleInvalid, lambda: device.load(repository), match="missing info for 'ble-emergency")


@pytest.mark.parametrize("layer", list(Layer))
def test_a_fresh_role_cannot_carry_a_layer_of_before(device: Device, repository: Repository, layer: Layer) -> None:
    """The layer's key is stolen, and all online keys: every version rises, the number inside falls."""
    device.load(repository.publish(repository_entries(layer, 12), layer=layer))
    repository.publish(repository_entries(layer, 13), layer=layer, generation=1)

    device.refuses(BleRollback, lambda: device.load(repository), match=f"generation is 1 of {layer.role}")


def test_the_same_number_cannot_come_with_another_content(device: Device, repository: Repository) -> None:
    repository.publish(entries(13), generation=1)

    device.refuses(BleRollback, lambda: device.load(repository), match="want newer than 1")


def repository_entries(layer: Layer, count: int) -> list[Entry]:
    ends = CREATED_S + 86_400 if layer is Layer.FEEDS else 0
    return entries(count, first=500 * layer, valid_until=ends)


# --- freeze ---------------------------------------------------------------------------------------


def test_a_server_that_never_shows_anything_new_is_found_out_when_its_timestamp_ends(
    device: Device, repository: Repository
) -> None:
    """Freeze: the same genuine files for ever. The list stays enforced; the device knows that it is old."""
    repository.publish(entries(11), days=7)
    device.fetch(repository.files)
    source = Files(repository.files, is_network=True)
    week = time.time() + 8 * 86_400

    device.refuses(BleExpired, lambda: device.verify(source, now_s=week), match=r"timestamp\.json expired")
    assert device.numbers()["enterprise"] == 4


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "ble-feeds"])
def test_each_signature_has_an_end_of_its_own(device: Device, repository: Repository, role: str) -> None:
    ends = {"root": 3650, "targets": 365, "snapshot": 30, "ble-feeds": 365}[role]
    repository.stamp(days=4000 if role != "snapshot" else 30)
    later = time.time() + (ends + 1) * 86_400

    with pytest.raises(BleExpired):
        device.verify(Files(repository.files), now_s=later)


# --- fast-forward, and the way back -----------------------------------------------------------------


def test_after_a_fast_forward_of_the_versions_a_new_root_is_the_way_back(
    device: Device, repository: Repository
) -> None:
    """Online keys are stolen and drive versions up; the enterprise, at its own low versions, rotates them."""
    honest = repository.version
    repository.version = FAR_VERSION
    device.load(repository.publish(entries(11), generation=honest + 1))
    repository.version = honest + 1
    repository.publish(entries(12))
    device.refuses(BleRollback, lambda: device.load(repository))

    repository.rotate("timestamp", "snapshot", "carrier").publish(entries(13))

    assert device.load(repository).new
    assert device.numbers()["enterprise"] == repository.version


def test_after_a_fast_forward_of_a_roles_version_the_snapshots_new_key_is_the_way_back(
    device: Device, repository: Repository
) -> None:
    """The snapshot says each role's version; so long as its key stands, devices remember what it said."""
    role = repository.roles["ble-enterprise"]
    honest, role.version = role.version, FAR_VERSION
    device.load(repository.publish(entries(11)))
    role.version = honest
    repository.publish(entries(12))
    device.refuses(BleRollback, lambda: device.load(repository), match=r"snapshot\.json")
    repository.rotate("timestamp", "carrier").publish(entries(12))
    device.refuses(BleRollback, lambda: device.load(repository), match=r"snapshot\.json")

    repository.rotate("snapshot").publish(entries(13))

    assert device.load(repository).new


def test_after_a_fast_forward_of_a_layers_number_its_new_key_is_the_way_back(
    device: Device, repository: Repository
) -> None:
    """The layer's key is stolen and takes a number that no publication will ever reach."""
    honest = repository.version + 1
    device.load(repository.publish(entries(11), generation=FAR))
    repository.publish(entries(12), generation=honest + 1)
    device.refuses(BleRollback, lambda: device.load(repository), match=f"want newer than {FAR}")

    repository.rotate_delegated("ble-enterprise")
    result = device.load(repository)

    assert (result.new, device.numbers()["enterprise"]) == (True, honest + 1)


def test_power_that_goes_before_a_rotated_layer_is_installed_does_not_take_the_way_back(
    device: Device, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What trust remembers excuses a number that falls: it is remembered after the list is installed, not before."""
    device.load(repository.publish(entries(11), generation=FAR))
    repository.publish(entries(12), generation=repository.version + 1)
    repository.rotate_delegated("ble-enterprise")
    with monkeypatch.context() as patched:
        patched.setattr(BleStore, "install", _power_goes)
        with pytest.raises(KeyboardInterrupt):
            device.load(repository)

    assert device.load(repository).new
    assert device.numbers()["enterprise"] < FAR


def _power_goes(_store: BleStore, _record: object) -> None:
    raise KeyboardInterrupt


def test_a_role_that_delegates_as_before_keeps_its_number(device: Device, repository: Repository) -> None:
    """Another layer's key was rotated: that says nothing about this one's number."""
    device.load(repository.publish(entries(11)))
    repository.publish(entries(12), generation=1)
    repository.rotate_delegated("ble-feeds")

    device.refuses(BleRollback, lambda: device.load(repository), match="generation is 1 of ble-enterprise")


def test_a_number_that_fell_with_a_new_key_is_followed_by_higher_ones_again(
    device: Device, repository: Repository
) -> None:
    device.load(repository.publish(entries(11), generation=FAR))
    repository.rotate_delegated("ble-enterprise")
    device.load(repository.publish(entries(12)))
    number = device.numbers()["enterprise"]

    repository.publish(entries(13), generation=number - 1)

    device.refuses(BleRollback, lambda: device.load(repository), match=f"want newer than {number}")


# --- mix and match ------------------------------------------------------------------------------------


def test_genuine_files_of_two_states_do_not_make_a_third(device: Device, repository: Repository) -> None:
    first = dict(repository.files)
    second = dict(repository.publish(entries(11)).files)
    third = dict(repository.publish(entries(12)).files)
    (list_2,) = (name for name in second.keys() - first.keys() if name.startswith("targets/"))
    (list_3,) = (name for name in third.keys() - second.keys() if name.startswith("targets/"))
    role = "metadata/{}.ble-enterprise.json".format
    mixes = {
        "snapshot": {"metadata/5.snapshot.json": second["metadata/4.snapshot.json"]},
        "role": {role(4): second[role(3)]},
        "another layer's role": {role(4): third["metadata/2.ble-emergency.json"]},
        "list": {list_3: second[list_2]},
    }

    for name, files in mixes.items():
        device.refuses(BleInvalid, lambda files=files: device.load(repository, {**third, **files}), match=".")  # type: ignore[misc]
        assert device.numbers()["enterprise"] == 1, name


def test_two_timestamps_of_one_version_that_say_different_things_are_refused(
    device: Device, repository: Repository
) -> None:
    repository.version -= 1
    repository.publish(entries(11))  # the same version again, signed with the same keys, for another list

    device.refuses(BleRollback, lambda: device.load(repository), match="different snapshots")


# --- time -----------------------------------------------------------------------------------------------


def test_a_clock_ten_years_back_revives_nothing_that_has_ended(device: Device, repository: Repository) -> None:
    """The floor is what the enterprise has signed; a list that ended before is refused by it."""
    signed_s = DeviceClock(device.state).signed_s
    assert signed_s > time.time() - 60
    repository.stamp(days=-1)

    class Back(DeviceClock):
        def wall_s(self) -> float:
            return time.time() - TEN_YEARS_S

    now_s = Back(device.state).accept_s()
    assert now_s >= signed_s
    device.refuses(BleExpired, lambda: device.verify(Files(repository.files), now_s=now_s))


def test_a_clock_ten_years_ahead_refuses_what_comes_and_keeps_what_is_installed(
    device: Device, repository: Repository
) -> None:
    repository.publish(entries(11))
    ahead_s = time.time() + TEN_YEARS_S

    device.refuses(
        BleExpired, lambda: device.verify(Files(repository.files), now_s=ahead_s), match="set the clock if it is wrong"
    )
    assert device.says(Layer.ENTERPRISE) == entries(10)
    assert device.load(repository).new, "once the clock is right again, the same files are taken"


def test_stolen_online_keys_cannot_push_the_devices_clock_beyond_the_offline_ones(
    device: Device, repository: Repository
) -> None:
    """What the timestamp says of itself raises the clock's floor: it is held to what root and targets vouch for."""
    repository.stamp(signed_at=int(time.time()) + TEN_YEARS_S)

    device.refuses(BleInvalid, lambda: device.load(repository), match="do not vouch")


@pytest.mark.parametrize("thief", ["timestamp", "carrier"])
def test_the_timestamps_and_the_carriers_key_say_nothing_about_the_time(
    device: Device, repository: Repository, thief: str
) -> None:
    """One stick, or one answer, that claims to be from next year; the offline keys would vouch for it."""
    snapshot = repository.files["metadata/3.snapshot.json"]
    stamp = repository.timestamp(snapshot, days=3000, by=thief, signed_at=int(time.time()) + YEAR_S)
    device.load(repository, {**repository.files, "metadata/timestamp.json": stamp})

    assert abs(DeviceClock(device.state).signed_s - time.time()) < 60
    assert device.fetch(repository.publish(entries(12)).files).new


def test_a_time_to_come_falls_with_the_snapshots_key_that_said_it(device: Device, repository: Repository) -> None:
    """The server is stolen as a whole, and moves the clock as far as the offline keys vouch: almost a year."""
    repository.stamp(days=3000, signed_at=int(time.time()) + YEAR_S)
    device.load(repository)
    assert DeviceClock(device.state).list_s() > time.time() + YEAR_S - 60
    repository.publish(entries(12))
    device.refuses(BleExpired, lambda: device.fetch(repository.files))

    repository.rotate("snapshot", "timestamp").publish(entries(13))

    assert device.fetch(repository.files).new
    clock = DeviceClock(device.state)
    assert abs(clock.list_s() - time.time()) < 60
    assert clock.age_s() < 60


def test_a_list_made_in_the_future_is_refused(device: Device, repository: Repository) -> None:
    """Its feeds would end later than their key may say, and the clock's floor would rise with it."""
    repository.publish(entries(11), created_s=int(time.time()) + 3 * 86_400)

    device.refuses(BleInvalid, lambda: device.load(repository), match="said to be made at")
