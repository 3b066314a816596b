# SPDX-License-Identifier: Apache-2.0
"""The age ladder: a list grows old, and enforces; a clock moved by hand."""

from mamplus_host.generations.age import Step
from mamplus_host.policy.policy import AgeLadder, Policy
from tests.journey.device import BAD, PROGRAMS, Device, device

__all__ = ["device"]  # the fixture
DAY_S = 86_400.0
LADDER = AgeLadder(
    stale_s=int(DAY_S), old_s=int(2 * DAY_S), very_old_s=int(3 * DAY_S),
    stale=("report",), old=("report", "refuse-unknown"), very_old=("suspect-as-block", "refuse-unknown"),
)  # fmt: skip


def test_a_list_goes_down_the_ladder_step_by_step_and_enforces_on_each(device: Device) -> None:
    device.config = device.config.__class__(
        paths=device.config.paths, exec=device.config.exec.__class__(on_deadline="allow", on_responder_down="allow")
    )
    device.start()
    device.set_policy(Policy(version=1, age=LADDER))
    device.link.is_up = False
    seen = []
    for _ in range(4):
        device.run(60)
        now = device.generations.aging.now
        seen.append((now.step, device.tables.postures[-1:], len(device.sent), device.tables.number))
        device.sleep(DAY_S)

    assert seen == [
        (Step.FRESH, [], 0, 1),
        (Step.STALE, [("allow", False)], 1, 1),
        (Step.OLD, [("refuse", False)], 2, 1),
        (Step.VERY_OLD, [("refuse", True)], 2, 1),  # the policy has nothing reported here
    ]
    assert device.generations.aging.declared.on_deadline == "refuse"

    device.clock.confirm(device.clock.wall)
    device.run(10)

    assert device.generations.aging.now.step is Step.FRESH
    assert device.tables.postures[-1] == ("allow", False)
    assert [alert.rule for alert in device.sent] == ["list-age", "list-age"]


def test_each_step_is_told_once_also_over_restarts_and_again_after_it_was_fresh(device: Device) -> None:
    device.set_policy(Policy(version=1, age=LADDER))
    device.sleep(DAY_S)
    for _ in range(3):
        device.run(60)
        device.start()
    assert len(device.sent) == 1
    device.clock.confirm(device.clock.wall)
    device.run(10)

    device.sleep(DAY_S)
    device.run(10)

    assert len(device.sent) == 2


def test_a_list_in_force_that_is_not_the_newest_ages_however_fresh_the_proof(device: Device) -> None:
    device.set_policy(Policy(version=1, age=LADDER))
    device.take(2, BAD, *PROGRAMS)
    device.run(125)
    assert device.generations.number == 1

    device.sleep(DAY_S)
    device.clock.confirm(device.clock.wall)
    device.run(10)

    seen = [device.generations.aging.now.step]
    device.answered()
    device.take(3, BAD)
    device.run(10)
    assert [*seen, device.generations.aging.now.step] == [Step.STALE, Step.FRESH]


def test_after_a_restart_the_posture_of_the_step_holds_again(device: Device) -> None:
    device.set_policy(Policy(version=1, age=LADDER))
    device.sleep(3 * DAY_S)
    device.run(10)
    device.tables.postures.clear()

    device.start()
    device.run(5)

    assert device.tables.postures == [("refuse", True)]


def test_a_clock_ten_years_ahead_makes_a_list_no_older_than_what_is_believed_of_it(device: Device) -> None:
    device.clock.wall += 3650 * DAY_S

    device.run(60)

    assert device.generations.aging.now.step is Step.STALE  # seven days at most, of the default ladder's three
