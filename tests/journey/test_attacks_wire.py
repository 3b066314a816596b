# SPDX-License-Identifier: Apache-2.0
"""Attacks on the way and on the disk: other bytes, too many, too slow; changed between two reads; no room, no power."""

import random
import signal
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mamplus_host.ble import network, trust_layer
from mamplus_host.ble.carrier import CHUNK_BYTES
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.store import BleStore
from mamplus_host.ble.trust_chain import MAX_ROLE_BYTES, MAX_ROOT_BYTES, MAX_TIMESTAMP_BYTES
from mamplus_host.ble.update import FetchResult, update
from mamplus_host.ble.update_helper import update_here
from mamplus_host.errors import BleInvalid, BleRejected, NotPossible, UplinkFailed
from tests.journey.attacks import Device, Files, published
from tests.journey.powercut import forked
from tests.journey.repository import Repository, entries
from tests.journey.served import Request, Served, files, served


@pytest.fixture
def repository() -> Repository:
    return published(200, feed_first=1000)


# --- other bytes ------------------------------------------------------------------------------------


def test_other_bytes_in_any_file_are_refused_or_change_nothing(device: Device, repository: Repository) -> None:
    """Arbitrary content: in each file of the next state a bit, a cut, an end, another file."""
    before = set(repository.files)
    repository.publish(entries(201), delta=True)
    asked = Files(repository.files)
    device.verify(asked)
    chance = random.Random(5)
    for name in sorted(set(asked.asked) & set(repository.files)):
        whole = repository.files[name]
        at = chance.randrange(len(whole))
        for wrong in (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], whole[:-1], whole + b" ", b"", b"{}"):
            source = Files({**repository.files, name: wrong})
            try:
                said = device.verify(source)
            except BleRejected:
                continue
            assert name in before or wrong.strip() == whole.strip(), name  # white space after JSON says nothing
            assert said.number == repository.version


def test_a_list_with_another_remark_is_refused_by_its_hash(device: Device, repository: Repository) -> None:
    """The format holds it for a list, and its header names the signed root: only length and hash tell."""
    repository.publish(entries(201, reason="honest"))
    name = next(name for name, data in repository.files.items() if name.endswith(".mble") and b"honest" in data)
    forged = repository.files[name].replace(b"honest", b"forged")

    with pytest.raises(BleInvalid, match="does not belong to the others"):
        device.verify(Files({**repository.files, name: forged}))


@pytest.mark.parametrize("content", [b"no zlib", zlib.compress(b"no list"), b""], ids=["noise", "no list", "empty"])
def test_a_signed_delta_that_is_no_delta_is_refused(device: Device, repository: Repository, content: bytes) -> None:
    repository.publish(entries(201))
    repository.name_delta(Layer.ENTERPRISE, 1, Generation(repository.lists[Layer.ENTERPRISE]), content)
    repository.sign_states("ble-enterprise")

    device.refuses(BleInvalid, lambda: device.load(repository))


def test_a_delta_that_unpacks_without_end_is_cut_off(
    device: Device, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust_layer, "MAX_DELTA_BYTES", 1 << 20)
    repository.publish(entries(8000, first=5000), may_shrink=True)
    bomb = zlib.compress(bytes(8 << 20), 9)
    repository.name_delta(Layer.ENTERPRISE, 1, Generation(repository.lists[Layer.ENTERPRISE]), bomb)
    repository.sign_states("ble-enterprise")

    device.refuses(BleInvalid, lambda: device.load(repository), match="unpacks to more than 1048576 bytes")


# --- too many bytes -----------------------------------------------------------------------------------


def endless(repository: Repository, name: str, sent: list[int]) -> Callable[[Request], tuple[int, bytes] | None]:
    """Serve everything, and `name` without an end."""
    honest = files(repository.files)

    def answer(request: Request) -> tuple[int, bytes] | None:
        if not request.path.endswith(name):
            return honest(request)
        request.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            request.write(b" " * CHUNK_BYTES)  # ends when the client goes away
            sent.append(CHUNK_BYTES)

    return answer


BOUNDS = {
    "2.root.json": MAX_ROOT_BYTES, "timestamp.json": MAX_TIMESTAMP_BYTES, "4.snapshot.json": MAX_ROLE_BYTES,
    "3.ble-enterprise.json": MAX_ROLE_BYTES, ".list.mble": 1 << 20,
}  # fmt: skip


@pytest.mark.parametrize("name", list(BOUNDS))
def test_a_file_without_an_end_is_cut_off_at_its_signed_length_or_its_bound(
    device: Device, repository: Repository, name: str
) -> None:
    repository.publish(entries(201))
    sent: list[int] = []

    device.refuses(BleInvalid, lambda: device.fetch(endless(repository, name, sent)), match="goes on after")
    assert sum(sent) < BOUNDS[name] + (16 << 20)  # what fits into socket buffers, and not more


# --- too slow -----------------------------------------------------------------------------------------


def trickling(holder: list[Served], head: bytes) -> Callable[[Request], None]:
    """Answer with `head`, then with a few bytes every 20 ms: far below the least that is taken."""

    def answer(request: Request) -> None:
        request.write(head)
        while not holder[0].stopping.wait(0.02):
            request.write(b"  ")

    return answer


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n"], ids=["header", "body"]
)
def test_a_server_slower_than_the_least_is_left_long_before_the_total_time(
    device: Device, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "WINDOW_S", 0.5)
    holder: list[Served] = []
    with served(trickling(holder, head)) as server:
        holder.append(server)
        Repository.belong(device.state, server.url, "")
        began = time.monotonic()
        device.refuses(UplinkFailed, lambda: update_here(device.state, None), match="less than 1024 bytes a second")
        assert time.monotonic() - began < 10


def test_a_server_that_says_nothing_at_all_is_left_too(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "WINDOW_S", 0.3)
    holder: list[Served] = []

    def answer(_request: Request) -> None:
        holder[0].stopping.wait(30)

    with served(answer) as server:
        holder.append(server)
        Repository.belong(device.state, server.url, "")
        device.refuses(UplinkFailed, lambda: update_here(device.state, None), match="less than 1024 bytes a second")


def test_a_slow_but_honest_network_is_waited_for(
    device: Device, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2.4 KB in 0.2 s pieces: many windows, each with enough."""
    monkeypatch.setattr(network, "WINDOW_S", 0.4)
    repository.publish(entries(600))

    def answer(request: Request) -> tuple[int, bytes] | None:
        status, data = files(repository.files)(request) or (404, b"")
        if not request.path.endswith(".list.mble"):
            return status, data
        request.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data))
        for at in range(0, len(data), 2400):
            request.write(data[at : at + 2400])
            time.sleep(0.1)
        return None

    assert device.fetch(answer).new


# --- verified, then changed -----------------------------------------------------------------------------


class Swapping(Files):
    """A stick whose files are genuine when they are read first, and the attacker's from then on."""

    def __init__(self, genuine: dict[str, bytes], forged: dict[str, bytes]) -> None:
        super().__init__(genuine)
        self._forged = forged

    def read(self, name: str) -> Iterator[bytes]:
        self._content = self._forged if name in self.asked else self._content
        return super().read(name)


def test_each_file_of_a_stick_is_read_once(device: Device, repository: Repository) -> None:
    """Verify, then swap: what was verified is what is installed, because nothing is read again."""
    genuine = dict(repository.publish(entries(201)).files)
    forged = dict.fromkeys(genuine, b"forged")
    source = Swapping(genuine, forged)

    offered = device.verify(source)

    assert len(source.asked) == len(set(source.asked))
    (offer,) = (layer for layer in offered.layers if layer.layer is Layer.ENTERPRISE)
    assert offer.full is not None
    assert offer.full.read_bytes() == repository.lists[Layer.ENTERPRISE]


def test_a_stick_that_changes_while_it_is_read_installs_the_one_or_the_other_or_nothing(
    device: Device, repository: Repository, tmp_path: Path
) -> None:
    states = [dict(repository.publish(entries(201 + number)).files) for number in range(2)]
    folder = repository.write(tmp_path / "stick", states[0])
    stop = threading.Event()

    def swap() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            for name, data in states[turn % 2].items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(15):
            try:
                update_here(device.state, str(folder))
            except BleRejected:
                continue
    finally:
        stop.set()
        swapper.join()
    number = device.numbers()["enterprise"]
    wanted = {1: entries(200), 4: entries(201), 5: entries(202)}
    assert device.says(Layer.ENTERPRISE) == wanted[number]
    repository.write(folder, states[1])
    update_here(device.state, str(folder))
    assert device.says(Layer.ENTERPRISE) == entries(202), "none of the tries stands in the way of a stick that is whole"


# --- two at once, no room, no power -----------------------------------------------------------------------


def test_of_two_updaters_at_once_each_ends_well_and_one_list_is_installed(
    device: Device, repository: Repository, tmp_path: Path
) -> None:
    repository.publish(entries(210), delta=True)
    repository.publish(entries(5, first=900), layer=Layer.EMERGENCY, delta=True)
    source = str(repository.write(tmp_path / "both"))
    results: list[FetchResult] = []
    threads = [threading.Thread(target=lambda: results.append(update(device.state, source=source))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(result.new for result in results) == [False, False, True]
    assert device.numbers() == {"enterprise": 4, "emergency": 5, "feeds": 3}
    assert device.says(Layer.ENTERPRISE) == entries(210)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 KiB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.kernel
def test_a_full_disk_keeps_every_layer_as_it_was_and_says_so(
    small_disk: Path, repository: Repository, tmp_path: Path
) -> None:
    device = Device(small_disk / "device", repository)
    update_here(device.state, str(repository.write(tmp_path / "1")))
    repository.publish(entries(4, first=900), layer=Layer.EMERGENCY)
    source = str(repository.publish(entries(4000)).write(tmp_path / "2"))

    device.refuses(NotPossible, lambda: update(device.state, source=source), match="make room")
    assert device.says(Layer.ENTERPRISE) == entries(200)
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert update(device.state, source=source).generation == 5


@pytest.mark.parametrize(("delta", "rotated"), [(False, False), (True, False), (False, True)])
def test_power_that_goes_at_any_write_leaves_all_layers_of_before_or_all_of_after(
    device: Device, repository: Repository, tmp_path: Path, delta: bool, rotated: bool
) -> None:
    """Both layers change in one state, also under a new key: no device may end with one new and the other old."""
    cut = 0
    for step in range(1, 200):
        before = device.numbers()
        count = 200 + step
        if rotated:
            repository.rotate_delegated("ble-enterprise")
        repository.publish(entries(count), delta=delta)
        repository.publish(entries(3 + step, first=900), layer=Layer.EMERGENCY, delta=delta)
        source = str(repository.write(tmp_path / str(step)))
        after = before | {"enterprise": repository.version - 1, "emergency": repository.version}
        status = forked(lambda source=source: (update_here(device.state, source), None)[1], end_at=step)  # type: ignore[misc]
        store = BleStore(device.state)
        store.installed()
        assert store.note == ""
        assert device.numbers() in (before, after)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        cut += 1
        assert update_here(device.state, source).generation == repository.version  # the next attempt gets there
        assert device.says(Layer.ENTERPRISE) == entries(count)
    assert status == 0
    assert cut > 10
