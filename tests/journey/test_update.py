# SPDX-License-Identifier: Apache-2.0
"""`Update_BLE()`: over the network and from a stick, cut off anywhere, twice at once, on a full disk."""

import fcntl
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mamplus_host.ble.store import BleStore
from mamplus_host.ble.update import FetchResult, update
from mamplus_host.ble.update_helper import update_here
from mamplus_host.errors import BleInvalid, BleRollback, MamplusError, NotPossible, UplinkFailed
from tests.journey.powercut import forked
from tests.journey.repository import Repository, entries
from tests.journey.served import Request, Served, files, make_certificate, served

ROOT = Path(__file__).parents[2]


@pytest.fixture
def repository() -> Repository:
    return Repository().publish(entries(10))


@pytest.fixture
def state(tmp_path: Path, repository: Repository) -> Path:
    return repository.enroll(tmp_path / "device")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def number(state: Path) -> int:
    """Return the generation that a device would enforce after a restart, read through as a whole; 0: none."""
    store = BleStore(state)
    current = store.current()
    assert store.note == ""
    if current is None:
        return 0
    with current:
        for part in current.parts():
            part.check()
        return current.number


# --- the network --------------------------------------------------------------------------------


def test_an_update_over_pinned_tls_takes_one_connection(state: Path, repository: Repository, certificate: Path) -> None:
    with served(files(repository.files), certificate=certificate) as server:
        repository.belong(state, server.url, server.fingerprint)
        result = update(state)

    assert (result.generation, result.entries, result.new) == (1, 10, True)
    assert number(state) == 1
    assert server.connections == 1


def test_a_server_with_another_certificate_is_asked_for_nothing(
    state: Path, repository: Repository, certificate: Path
) -> None:
    with served(files(repository.files), certificate=certificate) as server:
        repository.belong(state, server.url, "ab" * 32)
        with pytest.raises(UplinkFailed, match=f"fingerprint {server.fingerprint}, want abab"):
            update(state)

    assert server.requests == []


def test_plain_http_at_a_server_that_speaks_tls_is_told_to_say_https(
    state: Path, repository: Repository, certificate: Path
) -> None:
    with served(files(repository.files), certificate=certificate) as server:
        plain = "http" + server.url.removeprefix("https")

        with pytest.raises(UplinkFailed, match=f"if that server speaks TLS, say '{server.url}'"):
            update_here(state, plain)


def test_an_enterprise_that_is_down_is_a_failed_uplink(state: Path, repository: Repository) -> None:
    with served(files({})) as server:
        url = server.url
    repository.belong(state, url, "")

    with pytest.raises(UplinkFailed, match="does not answer"):
        update(state)


def test_a_redirect_is_not_followed(state: Path, repository: Repository) -> None:
    def answer(request: Request) -> None:
        request.write(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")

    with served(answer) as server:
        repository.belong(state, server.url, "")
        with pytest.raises(UplinkFailed, match="status 302, want 200"):
            update_here(state, None)


def trickling(served_: list[Served], head: bytes) -> Callable[[Request], None]:
    """Answer with `head`, then with one byte every 20 ms until the client has had enough."""

    def answer(request: Request) -> None:
        request.write(head)
        while not served_[0].stopping.wait(0.02):
            request.write(b" ")

    return answer


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"], ids=["header", "body"]
)
def test_a_server_that_trickles_is_left_after_the_total_time(state: Path, repository: Repository, head: bytes) -> None:
    holder: list[Served] = []
    with served(trickling(holder, head)) as server:
        holder.append(server)
        repository.belong(state, server.url, "")
        began = time.monotonic()
        with pytest.raises(UplinkFailed, match=r"took more than 0\.\d+ s"):
            update_here(state, None, total_s=0.5)
        assert time.monotonic() - began < 5


def test_a_server_that_never_stops_sending_is_cut_off(state: Path, repository: Repository) -> None:
    sent = 0

    def answer(request: Request) -> None:
        nonlocal sent
        request.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            request.write(b" " * 65536)  # ends when the client goes away
            sent += 65536

    with served(answer) as server:
        repository.belong(state, server.url, "")
        with pytest.raises(BleInvalid, match="goes on after"):
            update_here(state, None)
    assert sent < 64 << 20  # what fits into socket buffers, and not more


def test_an_answer_that_ends_early_is_a_failed_uplink(state: Path, repository: Repository) -> None:
    with served(lambda request: request.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")) as server:
        repository.belong(state, server.url, "")
        with pytest.raises(UplinkFailed, match="does not answer"):
            update_here(state, None)


def test_an_update_from_an_address_takes_a_repository_or_a_carrier(
    tmp_path: Path, state: Path, repository: Repository, certificate: Path
) -> None:
    """Whoever serves it: the signatures decide, so this server's certificate is nobody's business."""
    content = {**repository.files, "stick.tar": repository.carrier()}
    with served(files(content), certificate=certificate) as server:
        for index, address in enumerate(("", "/repo", "/repo/", "/repo/stick.tar")):
            device = repository.enroll(tmp_path / f"device-{index}")
            assert update_here(device, server.url + address).new
        with pytest.raises(UplinkFailed, match="neither a repository nor a carrier"):
            update_here(state, server.url + "/nothing")


# --- the helper process ---------------------------------------------------------------------------


def test_the_helper_leaves_no_tuf_in_the_process_that_asked(
    state: Path, repository: Repository, tmp_path: Path
) -> None:
    stick = repository.write(tmp_path / "stick")
    program = f"""
import sys
from pathlib import Path
from mamplus_host.ble.update import update
assert update(Path({str(state)!r}), source={str(stick)!r}).new
print([name for name in sys.modules if name.split(".")[0] in ("tuf", "securesystemslib", "cryptography", "urllib3")])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_helper_does_not_run_what_lies_in_the_working_directory(
    state: Path, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stick = repository.write(tmp_path / "stick")
    (stick / "tuf.py").write_text("raise SystemExit('ran what lay on the stick')")
    monkeypatch.chdir(stick)

    assert update(state, source=str(stick)).new


def test_each_cause_has_its_own_exit_code(state: Path, repository: Repository, tmp_path: Path) -> None:
    sticks: dict[int, dict[str, bytes]] = {13: dict(repository.files)}
    sticks[0] = dict(repository.publish(entries(11)).files)
    sticks[15] = dict(repository.publish([]).files)
    sticks[14] = dict(repository.publish(entries(11), audience="another").files)
    sticks[12] = dict(repository.publish(entries(12), days=-1).files)
    sticks[11] = dict(Repository().publish(entries(12)).files)
    codes = {}
    for wanted in (0, 11, 12, 13, 14, 15):
        stick = repository.write(tmp_path / str(wanted), sticks[wanted])
        command = [
            sys.executable,
            "-m",
            "mamplus_host.ble.update_helper",
            "--state",
            str(state),
            "--source",
            str(stick),
            "--json",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        codes[wanted] = done.returncode
        assert ("error" in json.loads(done.stdout)) == bool(wanted)
    assert codes == {wanted: wanted for wanted in codes}


def test_what_the_helper_refuses_is_raised_by_its_name(state: Path, repository: Repository, tmp_path: Path) -> None:
    older = repository.write(tmp_path / "older")
    update(state, source=str(repository.publish(entries(11)).write(tmp_path / "newer")))

    with pytest.raises(BleRollback, match="older than the one") as caught:
        update(state, source=str(older))
    assert caught.value.exit_code == 13


# --- cut off, twice at once, no room -----------------------------------------------------------------


def test_an_update_cut_off_at_any_step_leaves_the_old_list_or_the_new_one(
    state: Path, repository: Repository, tmp_path: Path
) -> None:
    update_here(state, str(repository.write(tmp_path / "1")))
    ends = []
    for step in range(1, 200):
        generation = repository.version + 1
        stick = str(repository.publish(entries(10 + generation)).write(tmp_path / str(generation)))
        before = number(state)
        status = forked(lambda stick=stick: (update_here(state, stick), None)[1], end_at=step)  # type: ignore[misc]
        ends.append(status)
        assert number(state) in (before, generation)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        assert update_here(state, stick).generation == generation  # and the next attempt gets there
    assert ends[-1] == 0
    assert len(ends) > 10  # that many steps were cut off


def test_the_helper_killed_at_random_leaves_a_whole_list(state: Path, repository: Repository, tmp_path: Path) -> None:
    update_here(state, str(repository.write(tmp_path / "1")))
    chance = random.Random(11)
    for generation in range(2, 8):
        stick = repository.publish(entries(3000 + generation), may_shrink=True).write(tmp_path / str(generation))
        command = [
            sys.executable,
            "-m",
            "mamplus_host.ble.update_helper",
            "--state",
            str(state),
            "--source",
            str(stick),
            "--json",
        ]
        before = number(state)
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as helper:
            try:
                helper.wait(chance.uniform(0.15, 0.45))
            except subprocess.TimeoutExpired:
                helper.kill()
        assert number(state) in (before, generation)
    assert update_here(state, str(stick)).generation == 7


def test_of_two_updates_at_once_one_waits_and_both_end_well(
    state: Path, repository: Repository, tmp_path: Path
) -> None:
    stick = str(repository.write(tmp_path / "stick"))
    results: list[FetchResult] = []
    threads = [threading.Thread(target=lambda: results.append(update(state, source=stick))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(result.new for result in results) == [False, True]
    assert number(state) == 1


def test_an_update_does_not_wait_for_another_one_for_ever(state: Path, repository: Repository, tmp_path: Path) -> None:
    stick = str(repository.write(tmp_path / "stick"))
    (state / "ble").mkdir()
    with (state / "ble" / "update.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(NotPossible, match="another update runs"):
            update_here(state, stick, lock_wait_s=0.2)
    assert update_here(state, stick).new


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.kernel
def test_a_full_disk_keeps_the_old_list_and_says_so(small_disk: Path, repository: Repository, tmp_path: Path) -> None:
    state = repository.enroll(small_disk / "device")
    update_here(state, str(repository.write(tmp_path / "1")))
    large = str(repository.publish(entries(1000)).write(tmp_path / "2"))

    with pytest.raises(NotPossible, match="make room"):
        update(state, source=large)
    assert number(state) == 1
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    assert update(state, source=large).generation == 2


# --- what is on disk ----------------------------------------------------------------------------------


@pytest.fixture
def grown(state: Path, repository: Repository, tmp_path: Path) -> Path:
    """A device with generations 1 to 3."""
    update_here(state, str(repository.write(tmp_path / "1")))
    for generation in (2, 3):
        stick = repository.publish(entries(10 + generation)).write(tmp_path / str(generation))
        update_here(state, str(stick))
    return state


def test_a_damaged_list_is_replaced_by_the_newest_intact_one_and_fetched_again(grown: Path, tmp_path: Path) -> None:
    path = grown / "ble" / "enterprise-3.mble"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    store = BleStore(grown)
    current = store.current()

    assert current is not None
    assert current.number == 2
    assert "generation 3 is damaged" in store.note
    result = update_here(grown, str(tmp_path / "3"))
    assert (result.generation, result.new) == (3, True)
    assert number(grown) == 3


@pytest.mark.parametrize("damage", [b"", b"\0" * 64, b"{}", None], ids=["empty", "zeros", "other", "gone"])
def test_a_damaged_record_is_made_up_from_the_lists_themselves(grown: Path, damage: bytes | None) -> None:
    record = grown / "ble" / "installed.json"
    record.unlink() if damage is None else record.write_bytes(damage)
    store = BleStore(grown)

    current = store.current()
    assert current is not None
    assert current.number == 3
    assert [record.number for record in store.records()] == [3]
    assert (damage is None) == (store.note == "")


def test_the_history_keeps_ten_generations_and_their_files(state: Path, repository: Repository, tmp_path: Path) -> None:
    for generation in range(1, 13):
        update_here(state, str(repository.write(tmp_path / str(generation))))
        repository.publish(entries(10))
    kept = list(range(12, 2, -1))

    assert [record.number for record in BleStore(state).records()] == kept
    assert sorted(path.name for path in (state / "ble").glob("*.mble")) == sorted(f"enterprise-{n}.mble" for n in kept)


def test_an_entry_of_an_earlier_generation_can_still_be_explained(grown: Path) -> None:
    store = BleStore(grown)

    assert store.entry(1, 10) == entries(10)[-1]
    assert store.entry(1, 11) is None
    assert store.entry(99, 1) is None


def test_a_state_directory_without_lists_has_none(tmp_path: Path) -> None:
    assert number(tmp_path) == 0
    assert BleStore(tmp_path).records() == []


def test_the_helper_that_breaks_is_an_error_and_not_silence(state: Path) -> None:
    (state / "ble").write_text("a file where the directory of the lists should be")

    with pytest.raises(MamplusError, match="ended with status"):
        update(state, source="/nowhere")
