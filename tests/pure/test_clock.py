# SPDX-License-Identifier: Apache-2.0
"""The clock floor: a clock moved by hand, ten years both ways, through reboots and power cuts."""

from pathlib import Path

import pytest

from mamplus_host.clock import KEEP_EVERY_S, DeviceClock, SystemClock, forget
from mamplus_host.files import write_whole

DAY_S = 86_400.0
YEAR_S = 365 * DAY_S
NOW_S = 1_800_000_000.0


class Hands:
    """What the kernel's clocks show, set by hand."""

    def __init__(self) -> None:
        self.wall, self.boot, self.name = NOW_S, 1000.0, "first boot"

    def run(self, seconds: float) -> None:
        self.wall, self.boot = self.wall + seconds, self.boot + seconds

    def reboot(self, *, off_s: float = 0.0) -> None:
        self.wall, self.boot, self.name = self.wall + off_s, 20.0, self.name + " and another"


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    moved = Hands()
    monkeypatch.setattr(SystemClock, "wall_s", lambda _self: moved.wall)
    monkeypatch.setattr(SystemClock, "boot_ns", lambda _self: int(moved.boot * 1e9))
    return moved


def start(state: Path, hands: Hands) -> DeviceClock:
    return DeviceClock(state, boot_id=lambda: hands.name)


def test_before_anything_was_signed_the_clock_is_believed(tmp_path: Path, hands: Hands) -> None:
    clock = start(tmp_path, hands)

    assert (clock.list_s(), clock.accept_s(), clock.age_s()) == (NOW_S, NOW_S, 0)


def test_a_clock_ten_years_back_ends_nothing_later_and_makes_nothing_fresh(tmp_path: Path, hands: Hands) -> None:
    clock = start(tmp_path, hands)
    clock.confirm(NOW_S)
    hands.run(100)
    hands.wall -= 10 * YEAR_S

    assert clock.list_s() == clock.accept_s() == NOW_S + 100
    assert clock.age_s() == 100


def test_a_clock_ten_years_ahead_ends_at_most_what_ends_within_the_bound(tmp_path: Path, hands: Hands) -> None:
    clock = start(tmp_path, hands)
    clock.confirm(NOW_S)
    hands.run(100)
    hands.wall += 10 * YEAR_S

    assert clock.list_s() == NOW_S + 100 + clock.ahead_s
    assert clock.accept_s() == hands.wall, "accepting stays strict"
    assert clock.ahead_of_proof_s() == pytest.approx(10 * YEAR_S - clock.ahead_s)


def test_a_clock_ten_years_ahead_does_not_raise_the_floor(tmp_path: Path, hands: Hands) -> None:
    clock = start(tmp_path, hands)
    clock.confirm(NOW_S)
    hands.wall += 10 * YEAR_S
    hands.boot += 2 * KEEP_EVERY_S
    clock.tick()
    clock.close()
    hands.wall = NOW_S + 2 * KEEP_EVERY_S  # somebody set it right

    again = start(tmp_path, hands)

    assert again.list_s() == again.accept_s() == NOW_S + 2 * KEEP_EVERY_S


def test_the_enterprises_time_confirms_a_clock_that_seemed_ahead(tmp_path: Path, hands: Hands) -> None:
    clock = start(tmp_path, hands)
    clock.confirm(NOW_S)
    hands.wall += YEAR_S  # in a drawer, switched off
    assert clock.list_s() < hands.wall

    clock.confirm(hands.wall - 10)

    assert clock.list_s() == hands.wall
    assert clock.age_s() == 10


def test_suspend_and_running_time_count_when_the_clock_stands_still(tmp_path: Path, hands: Hands) -> None:
    clock = start(tmp_path, hands)
    clock.confirm(NOW_S)
    hands.boot += 30 * DAY_S  # CLOCK_BOOTTIME goes on in suspend

    assert clock.age_s() == 30 * DAY_S


def test_a_reboot_loses_at_most_an_hour_of_the_floor(tmp_path: Path, hands: Hands) -> None:
    clock = start(tmp_path, hands)
    clock.confirm(NOW_S)
    for _ in range(10):
        hands.run(KEEP_EVERY_S / 2)
        clock.tick()
    hands.run(KEEP_EVERY_S / 2 - 1)
    lived_s = hands.wall - NOW_S
    hands.reboot()  # power cut: no close
    hands.wall = 0.0  # and the battery of its clock is dead

    again = start(tmp_path, hands)

    assert lived_s - KEEP_EVERY_S <= again.accept_s() - NOW_S - hands.boot <= lived_s


def test_the_floor_is_written_seldom(tmp_path: Path, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[Path] = []

    def counted(path: Path, data: bytes) -> None:
        writes.append(path)
        write_whole(path, data)

    monkeypatch.setattr("mamplus_host.clock.write_whole", counted)
    clock = start(tmp_path, hands)
    clock.confirm(NOW_S)
    for _ in range(24 * 720):  # a day of ticks
        hands.run(5)
        clock.tick()
        clock.confirm(NOW_S)

    assert len(writes) <= 25


def test_an_update_in_another_process_raises_the_same_floor(tmp_path: Path, hands: Hands) -> None:
    service, update = start(tmp_path, hands), start(tmp_path, hands)
    service.confirm(NOW_S)
    update.confirm(NOW_S + 5000)
    hands.wall = 0.0

    hands.boot += 2 * KEEP_EVERY_S
    service.tick()  # must not write its older floor over the later one

    assert start(tmp_path, hands).signed_s == service.signed_s == NOW_S + 5000
    assert service.accept_s() == NOW_S + 5000 + 2 * KEEP_EVERY_S


def test_what_a_rotated_key_said_of_the_time_is_forgotten_and_the_others_word_stays(
    tmp_path: Path, hands: Hands
) -> None:
    service, update = start(tmp_path, hands), start(tmp_path, hands)
    update.confirm(NOW_S, ["honest"])
    update.confirm(NOW_S + YEAR_S, ["stolen"], trusted=["honest", "stolen"])
    service.reload()
    assert service.signed_s == NOW_S + YEAR_S
    assert service.accept_s(["honest", "new"]) == NOW_S

    update.confirm(NOW_S + 10, ["new"], trusted=["honest", "new"])
    hands.boot += 2 * KEEP_EVERY_S
    service.tick()  # must not write back what it still remembers

    assert start(tmp_path, hands).signed_s == service.signed_s == NOW_S + 10


def test_the_floor_goes_on_from_the_honest_keys_time_when_the_stolen_one_is_gone(tmp_path: Path, hands: Hands) -> None:
    clock = start(tmp_path, hands)
    clock.confirm(NOW_S, ["honest"])
    clock.confirm(NOW_S + YEAR_S, ["stolen"])
    hands.run(100)
    hands.wall -= 10 * YEAR_S

    clock.confirm(0.0, [], trusted=["honest"])

    assert clock.accept_s() == NOW_S + 100


def test_a_new_enrolment_forgets_the_time_also_in_a_running_agent(tmp_path: Path, hands: Hands) -> None:
    service = start(tmp_path, hands)
    service.confirm(NOW_S + YEAR_S)
    hands.boot += 2 * KEEP_EVERY_S

    forget(tmp_path)
    service.tick()

    assert (service.signed_s, service.accept_s(), start(tmp_path, hands).accept_s()) == (0, NOW_S, NOW_S)


@pytest.mark.parametrize("content", [b"", b"{", b'{"signed_s": "x"}', b"\xff"])
def test_a_damaged_floor_is_none_and_the_next_signature_makes_it_anew(
    tmp_path: Path, hands: Hands, content: bytes
) -> None:
    (tmp_path / "clock.json").write_bytes(content)
    clock = start(tmp_path, hands)
    assert clock.list_s() == NOW_S

    clock.confirm(NOW_S + 50)

    assert start(tmp_path, hands).accept_s() == NOW_S + 50
