# SPDX-License-Identifier: Apache-2.0
"""A maintenance code opens one window, once, on the device it was made for, before its time."""

import sqlite3
from pathlib import Path

import msgspec
import pytest

from mamplus_host.clock import DeviceClock
from mamplus_host.enterprise import Enterprise, enterprise_path
from mamplus_host.errors import (
    CodeExpired,
    CodeForged,
    CodeMalformed,
    CodeUsed,
    CodeWrongDevice,
    NotPossible,
)
from mamplus_host.maintenance import code as codes
from mamplus_host.maintenance.keeper import Keeper
from mamplus_host.maintenance.window import Kept, Window
from mamplus_host.verdicts import Escalation

from .company import Company


class Hands(DeviceClock):
    """A device's clock, moved by hand."""

    ahead = 0.0

    def wall_s(self) -> float:
        return super().wall_s() + self.ahead

    def boot_ns(self) -> int:
        return super().boot_ns() + int(self.ahead * 1e9)


class Device:
    """What a device keeps: whom it trusts, and its window."""

    def __init__(self, company: Company, state: Path, device_id: str) -> None:
        self.state = state
        (state / "trust").mkdir(parents=True)
        root = max((company.dir / "repository" / "metadata").glob("*.root.json"))
        (state / "trust" / "root.json").write_bytes(root.read_bytes())
        enterprise_path(state).parent.mkdir()
        belongs = Enterprise("https://127.0.0.1", "", "e" * 64, device_id, enrolled_at=1)
        enterprise_path(state).write_bytes(msgspec.json.encode(belongs))
        self.clock = Hands(state)
        self.window = Window(state, self.clock)


@pytest.fixture
def company(tmp_path: Path) -> "Company":
    made = Company(tmp_path / "enterprise").found()
    add(made, "scanner-7", "a7" * 32)
    add(made, "scanner-8", "b8" * 32)
    return made


def add(company: Company, name: str, device_id: str) -> None:
    company.change(
        "INSERT INTO devices (id, public_key, name, facts, report, generation, enrolled_at, last_seen) VALUES"
        f" ('{device_id}', x'{device_id}', '{name}', '{{}}', '{{}}', 0, 1, 1)"
    )


@pytest.fixture
def device(company: Company, tmp_path: Path) -> Device:
    return Device(company, tmp_path / "state", "a7" * 32)


def code_for(company: Company, device: str, *more: str) -> str:
    return str(company.json("maintenance", device, *more)["code"])


def test_a_code_opens_the_window_it_says_and_both_sides_write_it_down(company: Company, device: Device) -> None:
    told: list[Escalation] = []
    journal: list[dict[str, object]] = []
    guard: list[int] = []
    keeper = Keeper(device.state, device.clock, open_guard=guard.append, journal=journal.append, tell=told.append)
    made = company.json("maintenance", "scanner-7", "--for", "2h", "--reason", "new battery")

    keeper.begin(made["code"])

    assert keeper.status() == {"open_for_s": 7200, "code": made["id"]}
    assert guard[-1] - device.clock.boot_ns() > 7190e9
    assert "open for 120 minutes" in told[0].summary
    assert journal[0]["code"] == made["id"]
    with sqlite3.connect(company.dir / "database.sqlite") as db:
        what, subject, detail = db.execute("SELECT what, subject, detail FROM audit ORDER BY id DESC").fetchone()
    assert (what, subject.split()[0]) == ("granted maintenance", "scanner-7")
    assert "120 minutes" in detail
    assert made["id"] in detail
    assert "new battery" in detail

    device.clock.ahead = 7201
    keeper.look()

    assert keeper.status() == {"open_for_s": 0, "code": "none"}
    assert guard[-1] == 0
    assert "is closed" in told[1].summary


def test_a_window_can_be_closed_before_its_time_and_does_not_outlive_the_boot(company: Company, device: Device) -> None:
    device.window.open(code_for(company, "scanner-7"))
    assert device.window.covers(device.clock.boot_ns())
    device.window.end()
    assert device.window.left_s() == 0

    device.window.open(code_for(company, "scanner-7"))
    assert device.window.left_s() > 0
    after = Window(device.state, Hands(device.state, boot_id=lambda: "another"))
    assert after.left_s() == 0


def test_a_window_that_root_writes_into_the_file_is_none(company: Company, device: Device) -> None:
    code, signature = codes.read(code_for(company, "scanner-7"))
    longer = codes.spell(msgspec.structs.replace(code, minutes=10_000), signature)
    for text in (longer, "", "A" * 130):
        kept = Kept(since_ns=device.clock.boot_ns(), boot_id=device.clock.boot_id, text=text)
        (device.state / "maintenance.json").write_bytes(msgspec.json.encode(kept))
        assert Window(device.state, device.clock).left_s() == 0

    genuine = Kept(since_ns=device.clock.boot_ns(), boot_id=device.clock.boot_id, text=codes.spell(code, signature))
    (device.state / "maintenance.json").write_bytes(msgspec.json.encode(genuine))
    assert Window(device.state, device.clock).left_s() > 0
    device.clock.ahead = 25 * 3600  # beyond what the code could have granted
    assert Window(device.state, device.clock).left_s() == 0


def test_a_damaged_file_is_no_window_and_stops_neither_the_agent_nor_the_next_code(
    company: Company, device: Device
) -> None:
    device.window.open(code_for(company, "scanner-7"))
    (device.state / "maintenance.json").write_bytes(b"junk")

    keeper = Keeper(device.state, device.clock, open_guard=int, journal=repr, tell=repr)
    keeper.look()
    assert not keeper.covers(device.clock.boot_ns())

    keeper.begin(code_for(company, "scanner-7"))
    assert keeper.covers(device.clock.boot_ns())


def test_a_window_of_a_time_to_come_is_none(company: Company, device: Device) -> None:
    kept = Kept(since_ns=1 << 70, boot_id=device.clock.boot_id, text=code_for(company, "scanner-7"))
    (device.state / "maintenance.json").write_bytes(msgspec.json.encode(kept))

    assert device.window.left_s() == 0


def test_a_code_is_good_once(company: Company, device: Device) -> None:
    code = code_for(company, "scanner-7")
    device.window.open(code)
    device.window.end()

    with pytest.raises(CodeUsed, match="used already"):
        device.window.open(code)

    assert device.window.left_s() == 0


def test_a_second_code_makes_an_open_window_longer_and_never_shorter(company: Company, device: Device) -> None:
    began = device.clock.boot_ns()
    device.window.open(code_for(company, "scanner-7", "--for", "2h"))
    short = code_for(company, "scanner-7", "--for", "30m")
    device.clock.ahead = 60

    with pytest.raises(NotPossible, match="open for 119 minutes yet"):
        device.window.open(short)
    assert device.window.left_s() > 7000

    device.window.open(code_for(company, "scanner-7", "--for", "3h"))
    assert device.window.left_s() == pytest.approx(3 * 3600, abs=30)
    assert device.window.covers(began + 30_000_000_000)  # what comes late of the first window is of a window
    device.window.end()
    device.window.open(short)  # it was not used up
    assert not device.window.covers(began + 30_000_000_000)


def test_a_code_for_another_device_is_refused_by_name(company: Company, device: Device) -> None:
    with pytest.raises(CodeWrongDevice, match="begins with b8b8b8, this one's begins with a7a7a7"):
        device.window.open(code_for(company, "scanner-8"))


def test_a_code_for_another_device_whose_id_begins_alike_is_forged_here(company: Company, device: Device) -> None:
    add(company, "twin", "a7a7a7" + "c" * 58)

    with pytest.raises(CodeForged):
        device.window.open(code_for(company, "twin"))


def test_a_code_is_refused_after_its_time_by_the_devices_clock(company: Company, device: Device) -> None:
    code = code_for(company, "scanner-7", "--within", "1h")
    device.clock.ahead = 3601

    with pytest.raises(CodeExpired, match="had to be entered"):
        device.window.open(code)

    device.clock.ahead = 0
    device.clock.confirm(
        device.clock.wall_s() + 7200
    )  # the enterprise has signed a later time: setting back helps nobody
    with pytest.raises(CodeExpired):
        device.window.open(code)


def test_a_code_that_was_changed_or_signed_by_another_key_is_forged(
    company: Company, device: Device, tmp_path: Path
) -> None:
    code, signature = codes.read(code_for(company, "scanner-7"))
    longer = msgspec.structs.replace(code, minutes=10_000)
    stranger = Company(tmp_path / "stranger").found()
    add(stranger, "scanner-7", "a7" * 32)

    for text in (codes.spell(longer, signature), code_for(stranger, "scanner-7"), codes.spell(code, bytes(64))):
        with pytest.raises(CodeForged, match="not signed by this device's enterprise"):
            device.window.open(text)
    assert device.window.left_s() == 0


def test_a_misread_code_names_its_line(device: Device, company: Company) -> None:
    lines = code_for(company, "scanner-7").splitlines()
    first = "2" if lines[2][0] != "2" else "3"

    with pytest.raises(CodeMalformed, match="line 3"):
        device.window.open("\n".join([*lines[:2], first + lines[2][1:], *lines[3:]]))


def test_after_a_rotation_the_old_key_opens_nothing(company: Company, tmp_path: Path) -> None:
    before = code_for(company, "scanner-7")
    company.run("root", "rotate", "--role", "maintenance")
    now = Device(company, tmp_path / "followed", "a7" * 32)

    with pytest.raises(CodeForged):
        now.window.open(before)
    now.window.open(code_for(company, "scanner-7"))
    assert len(list((company.dir / "keys").glob("maintenance.*.pem"))) == 1


def test_an_enterprise_of_before_has_no_such_key_and_both_sides_say_the_way_out(
    company: Company, device: Device
) -> None:
    code = code_for(company, "scanner-7")
    root = device.state / "trust" / "root.json"
    said = msgspec.json.decode(root.read_bytes())
    del said["signed"]["x-mamplus"]["maintenance"]
    root.write_bytes(msgspec.json.encode(said))
    next((company.dir / "keys").glob("maintenance.*.pem")).unlink()

    with pytest.raises(NotPossible, match="root rotate --role maintenance"):
        device.window.open(code)
    done = company.attempt("maintenance", "scanner-7")
    assert done.returncode == 1
    assert "root rotate --role maintenance" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nobody",), "no device has 'nobody'"),
        (("scanner-7", "--for", "8d"), "want 1 to 10080"),
        (("scanner-7", "--for", "soon"), "want a number and m, h or d"),
        (("scanner-7", "--within", "60d"), "want a minute to 30 days"),
    ],
)
def test_what_cannot_be_granted_is_said(company: Company, words: tuple[str, ...], said: str) -> None:
    done = company.attempt("maintenance", *words)

    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert done.stdout == ""
