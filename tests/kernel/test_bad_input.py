# SPDX-License-Identifier: Apache-2.0
"""Whatever an agent is fed, it says one clear sentence and goes on enforcing what it had."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mamplus_host.control.protocol import short_address
from story.actors import died_of, variant
from story.stage import BIN, Device, Enterprise, Stage, sh, wait_for

pytestmark = pytest.mark.kernel
ROOT = Path(__file__).parents[2]


class Place:
    """An enterprise, an enforcing device and what must stay refused on it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.enterprise = Enterprise(stage)
        self.digest = variant("/usr/bin/touch", stage.disk / "listed", "bad-input")
        self.enterprise.run("ble", "add", "sha256", self.digest, "--verdict", "block")
        self.enterprise.run("ble", "add", "ip", "203.0.113.7", "--verdict", "block")
        self.enterprise.run("ble", "publish")
        self.older = stage.root / "older.carrier"
        self.enterprise.run("ble", "export", self.older)
        self.enterprise.run("ble", "add", "ip", "203.0.113.6", "--verdict", "block")
        self.enterprise.run("ble", "publish")
        self.carrier = stage.root / "good.carrier"
        self.enterprise.run("ble", "export", self.carrier)
        self.enterprise.start()
        self.device = Device(stage, "fed")
        self.device.run("enroll", self.enterprise.url, "--token", self.enterprise.run("token", "new").split()[-1])
        self.device.run("ble", "refresh")
        self.device.start()
        self.generation = self.device.generation()

    def still_enforces(self) -> bool:
        marker, copy = self.stage.disk / "ran", self.stage.disk / "copy"
        shutil.copy(self.stage.disk / "listed", copy)
        how = died_of(self.stage.spawn(copy, marker, cgroup=self.device.cgroup))
        return how == "signal 9" and not marker.exists() and self.device.generation() == self.generation


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        yield Place(Stage(stack))


def mamplus(*words: object) -> "subprocess.CompletedProcess[str]":
    argv = [str(BIN / "mamplus"), *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)


def load(place: Place, source: Path) -> "subprocess.CompletedProcess[str]":
    return mamplus("ble", "load", source, "--config", place.device.config)


def is_one_sentence(text: str) -> bool:
    lines = [line for line in text.strip().splitlines() if line]
    return len(lines) == 1 and "Traceback" not in text


def _truncated(place: Place, path: Path) -> None:
    path.write_bytes(place.carrier.read_bytes()[:4000])


def _flipped(place: Place, path: Path) -> None:
    data = bytearray(place.carrier.read_bytes())
    with tarfile.open(place.carrier) as tar:  # in a list: what lies between the files, and an older root, nobody reads
        member = next(one for one in tar if one.name.endswith(".mble"))
    data[member.offset_data + member.size // 2] ^= 0x10
    path.write_bytes(data)


def _stranger(place: Place, path: Path) -> None:
    home = place.stage.root / "stranger"
    if not home.exists():
        subprocess.run([BIN / "mamplus-enterprise", "init", home, "--dev"], check=True, capture_output=True)
    subprocess.run([BIN / "mamplus-enterprise", "--dir", home, "ble", "export", path], check=True, capture_output=True)


def _older(place: Place, path: Path) -> None:
    shutil.copy(place.older, path)


def _empty(_place: Place, path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "code"),
    [(_truncated, 11), (_flipped, 11), (_stranger, 11), (_empty, 11), (_older, 13)],
    ids=["truncated", "bit-flipped", "stranger", "empty-file", "older"],
)
def test_a_bad_carrier_is_refused_with_its_exit_code_and_the_old_generation_stays(
    place: Place, tmp_path: Path, make: Callable[[Place, Path], None], code: int
) -> None:
    make(place, tmp_path / "carrier")

    done = load(place, tmp_path / "carrier")

    assert done.returncode == code, done.stderr
    assert is_one_sentence(done.stderr), done.stderr
    assert place.still_enforces()


def test_the_same_carrier_again_is_no_error(place: Place) -> None:
    done = load(place, place.carrier)

    assert done.returncode == 0, done.stderr
    assert "nothing newer" in done.stdout


def test_an_unknown_key_stops_the_start_with_exit_2(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text("[agent]\nmood = 'enforce'\n")

    done = mamplus("run", "--config", config)

    assert done.returncode == 2
    assert "did you mean 'mode'?" in done.stderr
    assert is_one_sentence(done.stderr)


def test_a_second_agent_on_the_same_state_names_the_first(place: Place) -> None:
    assert place.device.agent is not None

    done = mamplus("run", "--config", place.device.config)

    assert done.returncode == 1
    assert str(place.device.agent.pid) in done.stderr
    assert is_one_sentence(done.stderr)
    assert place.still_enforces()


def test_silent_and_babbling_clients_do_not_stop_the_agent(place: Place) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(8):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            with short_address(place.device.socket) as address:
                sock.connect(address)
            if number % 2:
                sock.sendall(b"\0\xff garbage\n")

        assert place.still_enforces()
        assert place.device.ask("status")["losses"]["control_clients"] >= 1


def test_a_full_disk_loses_no_refusal_and_no_alert(stage_with_small_state: tuple[Place, Device]) -> None:
    place, device = stage_with_small_state
    state = device.config.parent / "state"
    filler = state / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"x" * 65536)
            file.flush()

    marker, copy = place.stage.disk / "full-ran", place.stage.disk / "full-copy"
    shutil.copy(place.stage.disk / "listed", copy)
    how = died_of(place.stage.spawn(copy, marker, cgroup=device.cgroup))

    assert (how, marker.exists()) == ("signal 9", False)
    wait_for("the escalation to wait in memory", lambda: device.ask("status")["pipeline"]["unstored"] == 1)
    assert [one["finding"] for one in device.ask("alerts")] == ["confirmed"]
    filler.unlink()
    wait_for("the escalation to be stored after all", lambda: device.ask("status")["outbox"]["put"] == 1)
    assert device.ask("status")["pipeline"]["unstored"] == 0
    assert sum(device.ask("status")["losses"].values()) == 0


@pytest.fixture
def stage_with_small_state(place: Place) -> Iterator[tuple[Place, Device]]:
    device = Device(place.stage, f"small-{len(list(place.stage.root.iterdir()))}")
    state = device.config.parent / "state"
    state.mkdir()
    sh("mount", "-t", "tmpfs", "-o", "size=4m", "mamplus-small", state)
    try:
        device.run("enroll", place.enterprise.url, "--token", place.enterprise.run("token", "new").split()[-1])
        device.run("ble", "refresh")
        device.start()
        yield place, device
    finally:
        device.leave()
        sh("umount", "-l", state)


def test_a_second_agent_on_the_same_pins_is_refused_and_the_first_goes_on(place: Place, tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    text = place.device.config.read_text()
    config.write_text(text.replace(f"{place.device.config.parent}/", f"{tmp_path}/"))

    done = mamplus("run", "--config", config)

    assert done.returncode == 1
    assert str(place.device.bpffs) in done.stderr
    assert is_one_sentence(done.stderr)
    assert place.still_enforces()


def test_a_namespace_that_does_not_exist_stops_the_start_with_exit_2(place: Place, tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    text = place.device.config.read_text().replace(f"{place.device.config.parent}/", f"{tmp_path}/")
    config.write_text(text.replace(place.stage.netns, "mpstory-none"))

    done = mamplus("run", "--config", config)

    assert done.returncode == 2
    assert "ip netns add mpstory-none" in done.stderr


def test_a_user_who_is_not_root_is_told_so(place: Place, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    run = ["setpriv", "--reuid", "65534", "--clear-groups", sys.executable, "-m", "mamplus_host.service"]

    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)

    assert (done.returncode, is_one_sentence(done.stderr)) == (1, True), done.stderr
    assert "use sudo" in done.stderr
    assert place.still_enforces()


def test_a_damaged_vault_is_told_to_the_enterprise_once_with_what_was_lost(place: Place) -> None:
    document, index = place.stage.disk / "document", place.device.config.parent / "state" / "vault" / "index.sqlite"
    document.write_text("as agreed")
    place.device.run("protect", document)
    place.device.kill()
    for one in index.parent.glob("index.sqlite*"):  # with its log, which a killed agent leaves
        one.unlink()
    index.write_bytes(b"no database" * 1000)
    for _start in range(2):
        place.device.start()
        wait_for("the alert to be there", lambda: told_of_the_vault(place))
        wait_for("nothing to wait", lambda: place.device.ask("status")["outbox"]["queued"] == 0)
        place.device.kill()
    place.device.start()

    (alert,) = told_of_the_vault(place)
    assert "1 contents are kept aside" in alert["summary"]
    place.device.run("protect", document)
    assert place.still_enforces()


def told_of_the_vault(place: Place) -> list[dict[str, Any]]:
    return [one for one in json.loads(place.enterprise.run("alerts", "--json")) if one["rule"] == "vault-damaged"]
