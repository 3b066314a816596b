# SPDX-License-Identifier: Apache-2.0
"""Which generation a device trusts, asked of a real TUF repository and of what an attacker makes of it."""

import json
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from mamplus_host.ble.carrier import CHUNK_BYTES, Carrier, Directory, Missing
from mamplus_host.ble.record import Installed
from mamplus_host.ble.store import BleStore
from mamplus_host.ble.trust import Offered, Trust
from mamplus_host.ble.update import FetchResult
from mamplus_host.ble.update_helper import update_here
from mamplus_host.clock import DeviceClock
from mamplus_host.errors import (
    BleExpired,
    BleInvalid,
    BleRejected,
    BleRollback,
    BleShrunk,
    BleWrongDevice,
    EnrollRefused,
    UplinkFailed,
)
from tests.journey.repository import DELEGATED, DEVICE_ID, ENTERPRISE_ID, Repository, entries

NOW_S = 1_700_000_000.0


class Device:
    """An enrolled device's state directory."""

    def __init__(self, state: Path, repository: Repository) -> None:
        self.state = repository.enroll(state)
        self._sticks = 0

    def load(self, repository: Repository, files: dict[str, bytes] | None = None) -> FetchResult:
        self._sticks += 1
        stick = self.state.parent / f"{self.state.name}-stick-{self._sticks}"
        return update_here(self.state, str(repository.write(stick, files)))

    def remembered(self) -> bytes:
        return (self.state / "trust" / "metadata.json").read_bytes()

    def installed(self) -> Installed | None:
        return BleStore(self.state).installed()


@pytest.fixture
def repository() -> Repository:
    return Repository().publish(entries(10))


@pytest.fixture
def device(tmp_path: Path, repository: Repository) -> Device:
    return Device(tmp_path / "device", repository)


def refused(device: Device, kind: type[BleRejected], act: Callable[[], object], match: str | None = None) -> None:
    """Assert that `act` raises exactly `kind`, and that what the device believes and has installed is as before."""
    before = device.remembered(), device.installed()
    with pytest.raises(kind, match=match) as caught:
        act()
    assert type(caught.value) is kind
    assert (device.remembered(), device.installed()) == before
    assert not (device.state / "ble" / "work").exists()


def test_a_signed_generation_is_accepted_and_opens_as_what_was_published(
    device: Device, repository: Repository
) -> None:
    result = device.load(repository)

    assert (result.generation, result.entries, result.new) == (1, 10, True)
    current = BleStore(device.state).current()
    assert current is not None
    with current:
        assert sorted((entry for _layer, entry in current.entries()), key=lambda entry: entry.id) == entries(10)


def test_a_newer_generation_replaces_the_older_one(device: Device, repository: Repository) -> None:
    device.load(repository)
    result = device.load(repository.publish(entries(11)))

    assert (result.generation, result.new) == (2, True)
    installed = device.installed()
    assert installed is not None
    assert (installed.number, installed.entries, installed.enterprise_id) == (2, 11, ENTERPRISE_ID)


def test_the_installed_generation_again_is_no_error_and_nothing_new(device: Device, repository: Repository) -> None:
    device.load(repository)
    before = device.installed()
    result = device.load(repository)

    assert (result.generation, result.new) == (1, False)
    assert device.installed() == before


def test_the_installed_generation_on_a_damaged_stick_is_called_damaged(device: Device, repository: Repository) -> None:
    device.load(repository)
    target = next(name for name in repository.files if name.startswith("targets/"))
    damaged = {**repository.files, target: repository.files[target][:-1] + b"!"}

    refused(device, BleInvalid, lambda: device.load(repository, damaged))


def test_an_older_repository_state_is_a_rollback(device: Device, repository: Repository) -> None:
    older = dict(repository.files)
    device.load(repository.publish(entries(11)))

    refused(
        device, BleRollback, lambda: device.load(repository, older), match="older than the one this device has seen"
    )


def test_a_state_that_was_seen_but_never_installed_does_not_forbid_the_one_before(
    device: Device, repository: Repository
) -> None:
    device.load(repository)
    before = dict(repository.files)
    emptied = repository.publish([])
    refused(device, BleShrunk, lambda: device.load(emptied))

    assert device.load(repository, before).generation == 1


@pytest.mark.parametrize("number", [1, 2], ids=["older", "same"])
def test_a_fresh_state_cannot_carry_a_generation_that_is_not_newer(
    device: Device, repository: Repository, number: int
) -> None:
    device.load(repository.publish(entries(11)))
    repository.publish(entries(12), generation=number)

    refused(
        device,
        BleRollback,
        lambda: device.load(repository),
        match=rf"generation is {number} of .*, want newer than 2",
    )


def test_a_generation_of_an_earlier_enterprise_does_not_forbid_the_numbers_of_the_new_one(
    device: Device, repository: Repository
) -> None:
    for count in (11, 12, 13):
        device.load(repository.publish(entries(count)))
    newcomer = Repository().publish(entries(3))
    (device.state / "trust" / "root.json").write_bytes(newcomer.root)
    (device.state / "trust" / "metadata.json").unlink()
    path = device.state / "identity" / "enterprise.json"
    path.write_text(path.read_text().replace(ENTERPRISE_ID, "another"))

    assert device.load(newcomer).generation == 1


def test_an_expired_state_is_refused_and_the_message_says_what_to_do(device: Device, repository: Repository) -> None:
    device.load(repository)
    repository.publish(entries(11), days=-1)

    refused(device, BleExpired, lambda: device.load(repository), match="set the clock if it is wrong")


def test_a_clock_that_fell_back_does_not_make_an_expired_list_fresh(tmp_path: Path, repository: Repository) -> None:
    """The system's clock says that the metadata is good for a month; the snapshot's key has signed a later time."""
    repository.enroll(tmp_path)
    signer = repository.keys["snapshot"][0].public_key.keyid
    clock = DeviceClock(tmp_path)
    clock.confirm(time.time() + 60 * 86_400, [signer])
    stick = Directory(repository.write(tmp_path / "stick"))

    with pytest.raises(BleExpired, match=r"timestamp\.json expired"):
        Trust(tmp_path, device_id=DEVICE_ID).verify(stick, tmp_path / "work", {}, now_s=clock.accept_s)


def test_a_list_that_a_stranger_signed_is_refused(device: Device, repository: Repository) -> None:
    device.load(repository)
    stranger = Repository().publish(entries(10)).publish(entries(11))

    refused(device, BleInvalid, lambda: device.load(stranger), match="not signed by this device's enterprise")


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_the_key_of_one_role_does_not_sign_for_another(device: Device, repository: Repository, role: str) -> None:
    device.load(repository)
    repository.keys[role] = repository.keys["root"]
    repository.put("targets", repository.targets)
    repository.publish(entries(11))

    refused(device, BleInvalid, lambda: device.load(repository), match=role)


def test_keys_change_with_a_new_root_that_the_old_one_signed(device: Device, repository: Repository) -> None:
    device.load(repository)
    repository.rotate("targets", "snapshot", "timestamp").publish(entries(11))

    assert device.load(repository).generation == 2


def test_a_new_root_that_the_old_one_did_not_sign_is_refused(device: Device, repository: Repository) -> None:
    device.load(repository)
    repository.keys["root"] = Repository().keys["root"]
    repository.rotate("snapshot").publish(entries(11))

    refused(device, BleInvalid, lambda: device.load(repository), match=r"2\.root\.json")


def test_parts_of_two_states_do_not_make_one(device: Device, repository: Repository) -> None:
    """Mix and match: each file is genuine, together they were never published."""
    device.load(repository)
    first, second = dict(repository.files), dict(repository.publish(entries(11)).files)
    third = dict(repository.publish(entries(12)).files)
    (second_list,) = (name for name in second.keys() - first.keys() if name.startswith("targets/"))
    (third_list,) = (name for name in third.keys() - second.keys() if name.startswith("targets/"))
    role = "metadata/{}.ble-enterprise.json".format
    mixes = {
        "old snapshot under the new name": {"metadata/3.snapshot.json": second["metadata/2.snapshot.json"]},
        "old role under the new name": {role(4): second[role(3)]},
        "old list under the new name": {third_list: second[second_list]},
    }
    for files in mixes.values():
        refused(device, BleInvalid, partial(device.load, repository, {**third, **files}))


@pytest.mark.parametrize(
    "missing",
    [
        "metadata/timestamp.json",
        "metadata/1.snapshot.json",
        "metadata/1.targets.json",
        "metadata/2.ble-enterprise.json",
        "metadata/1.policy.json",
    ],
)
def test_a_stick_that_lacks_a_file_is_invalid_and_the_message_names_it(
    device: Device, repository: Repository, missing: str
) -> None:
    files = {name: data for name, data in repository.files.items() if name != missing}

    with pytest.raises(BleInvalid, match=missing):
        device.load(repository, files)


def test_a_list_for_another_device_is_refused(device: Device, repository: Repository) -> None:
    device.load(repository)
    repository.publish(entries(11), audience="e" * 64)

    refused(device, BleWrongDevice, lambda: device.load(repository), match="was made for device 'eeee")


def test_a_list_for_this_device_is_accepted(device: Device, repository: Repository) -> None:
    assert device.load(repository.publish(entries(11), audience=DEVICE_ID)).generation == 2


@pytest.mark.parametrize("left", [0, 4], ids=["empty", "less than half"])
def test_an_emptied_or_halved_list_is_refused(device: Device, repository: Repository, left: int) -> None:
    device.load(repository)
    repository.publish(entries(left))

    refused(
        device, BleShrunk, lambda: device.load(repository), match=f"the list has {left} entries, the installed one 10"
    )


def test_an_empty_list_is_refused_by_a_fresh_device_too(device: Device, repository: Repository) -> None:
    with pytest.raises(BleShrunk, match="the list has 0 entries, all layers together"):
        device.load(repository.publish([]))


@pytest.mark.parametrize("left", [0, 4])
def test_a_list_may_shrink_when_that_is_signed(device: Device, repository: Repository, left: int) -> None:
    device.load(repository)

    assert device.load(repository.publish(entries(left), may_shrink=True)).entries == left


def test_exactly_half_of_the_list_is_accepted(device: Device, repository: Repository) -> None:
    device.load(repository)

    assert device.load(repository.publish(entries(5))).entries == 5


def test_the_signed_number_must_be_the_one_in_the_file(device: Device, repository: Repository) -> None:
    device.load(repository)
    repository.publish(entries(11), custom={"generation": 3, "entries": 11, "root": "00" * 32})

    refused(device, BleInvalid, lambda: device.load(repository), match="generation 2 with 11 entries")


@pytest.mark.parametrize(
    "custom",
    [{}, {"generation": "2"}, {"generation": 2, "entries": 11}, {"generation": 2, "entries": 11, "root": "00"}],
    ids=str,
)
def test_a_target_without_its_number_and_count_is_invalid(
    device: Device, repository: Repository, custom: dict[str, object]
) -> None:
    device.load(repository)
    repository.publish(entries(11), custom=custom or {"other": 1})

    refused(device, BleInvalid, lambda: device.load(repository), match="custom")


def test_a_signed_file_that_is_no_list_is_invalid(device: Device, repository: Repository) -> None:
    device.load(repository)
    repository.publish_file(b"signed, and still no list", {"generation": 2, "entries": 1, "root": "00" * 32})

    refused(device, BleInvalid, lambda: device.load(repository), match="cut off")


class Endless:
    """A source that never ends one of its files."""

    def __init__(self, inner: Directory, name: str, *, is_network: bool) -> None:
        self._inner, self._name, self.is_network = inner, name, is_network
        self.sent = self.received = 0

    def read(self, name: str) -> Iterator[bytes]:
        if name != self._name:
            yield from self._inner.read(name)
            return
        while True:
            self.sent += CHUNK_BYTES
            yield b" " * CHUNK_BYTES


@pytest.mark.parametrize("name", ["metadata/timestamp.json", "metadata/1.targets.json", "metadata/2.root.json"])
def test_endless_data_is_cut_off_at_the_bound(tmp_path: Path, repository: Repository, name: str) -> None:
    repository.enroll(tmp_path)
    source = Endless(Directory(repository.write(tmp_path / "stick")), name, is_network=True)

    with pytest.raises(BleInvalid, match="goes on after"):
        Trust(tmp_path, device_id=DEVICE_ID).verify(source, tmp_path / "work", {}, now_s=NOW_S)
    assert source.sent <= (1 << 19) + CHUNK_BYTES


class Unreachable:
    is_network = True
    received = 0

    def read(self, name: str) -> Iterator[bytes]:
        raise Missing(name)


def test_a_repository_that_is_not_there_is_no_forgery_but_a_failed_uplink(
    tmp_path: Path, repository: Repository
) -> None:
    repository.enroll(tmp_path)

    with pytest.raises(UplinkFailed, match="missing"):
        Trust(tmp_path, device_id=DEVICE_ID).verify(Unreachable(), tmp_path / "work", {}, now_s=NOW_S)


def test_without_enrolment_nothing_is_trusted(tmp_path: Path, repository: Repository) -> None:
    with pytest.raises(EnrollRefused, match="mamplus enroll"):
        update_here(tmp_path, str(repository.write(tmp_path / "stick")))


def test_a_damaged_memory_of_the_repository_leaves_root_and_number_to_protect(
    device: Device, repository: Repository
) -> None:
    older = dict(repository.files)
    device.load(repository.publish(entries(11)))
    (device.state / "trust" / "metadata.json").write_bytes(b"\0" * 100)

    with pytest.raises(BleRollback, match="want newer than 2"):
        device.load(repository, older)
    assert device.load(repository.publish(entries(12))).generation == 3


class Attempts:
    """Verifies carriers made of bytes against one device, in one process, quickly."""

    def __init__(self, folder: Path, repository: Repository) -> None:
        self._state = repository.enroll(folder / "device")
        self._folder, self._count = folder, 0

    def verify(self, carrier: bytes) -> Offered:
        self._count += 1
        path, work = self._folder / "carrier", self._folder / f"work-{self._count}"
        path.write_bytes(carrier)
        source = Carrier(path)
        try:
            return Trust(self._state, device_id=DEVICE_ID).verify(source, work, {}, now_s=NOW_S)
        finally:
            source.close()


def test_a_carrier_cut_off_anywhere_in_its_first_4_kib_is_refused(tmp_path: Path, repository: Repository) -> None:
    attempts, whole = Attempts(tmp_path, repository), repository.carrier()
    assert attempts.verify(whole).number == 1

    for length in range(4096):
        with pytest.raises(BleInvalid):
            attempts.verify(whole[:length])


def test_a_carrier_cut_off_in_what_matters_is_refused(tmp_path: Path, repository: Repository) -> None:
    attempts, whole = Attempts(tmp_path, repository), repository.carrier()
    content = len(whole.rstrip(b"\0"))

    for length in sorted(random.Random(3).sample(range(4096, content), 100)):
        with pytest.raises(BleInvalid):
            attempts.verify(whole[:length])


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path, repository: Repository) -> None:
    attempts, whole = Attempts(tmp_path, repository), repository.carrier()
    published = attempts.verify(whole).layers[0].root
    refusals = 0
    for position in random.Random(7).sample(range(len(whole) * 8), 200):
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        try:
            assert attempts.verify(bytes(flipped)).layers[0].root == published
        except BleInvalid:
            refusals += 1
    assert refusals >= 20  # most of a small tar is padding, where a bit says nothing


def test_the_memory_holds_no_more_than_the_repositorys_metadata(device: Device, repository: Repository) -> None:
    device.load(repository)

    assert sorted(json.loads(device.remembered())) == sorted(
        ["bootstrap", "snapshot.json", "targets.json", "timestamp.json", *(f"{role}.json" for role in DELEGATED)]
    )
