# SPDX-License-Identifier: Apache-2.0
"""The dead-man timer: a swap after which the enterprise is silent is taken back; a clock moved by hand."""

import pytest

from mamplus_host.errors import KernelRefused
from mamplus_host.policy.policy import Policy
from mamplus_host.verdicts import Finding
from tests.journey.device import BAD, PROGRAMS, Device, device

__all__ = ["device"]  # the fixture
HOUR_S = 3600.0


def test_a_generation_after_which_the_enterprise_is_silent_is_rolled_back_once(device: Device) -> None:
    device.take(2, BAD, *PROGRAMS)
    device.link.is_up = False
    device.run(115)
    assert device.generations.number == 2, "not before its time"

    device.run(10)

    assert (device.generations.number, device.tables.number) == (1, 1)
    assert device.generations.standing.bad == (2,)
    (alert,) = device.sent
    assert (alert.rule, alert.finding, alert.generation, alert.evidence["rolled_back"]) == (
        "dead-man", Finding.SUSPECTED, 1, 2,
    )  # fmt: skip
    device.run(3600)
    device.generations.reload()
    device.start()
    assert (device.generations.number, len(device.sent)) == (1, 1), "the bad one is not tried again"
    assert device.tables.loads.count(2) == 1


def test_contact_on_a_connection_made_after_the_swap_ends_the_timer(device: Device) -> None:
    device.take(2, BAD, *PROGRAMS)
    device.run(100)
    device.answered()
    device.run(10)
    device.link.is_up = False

    device.run(1000)

    assert (device.generations.number, device.sent) == (2, [])


def test_contact_on_a_connection_from_before_the_swap_proves_nothing(device: Device) -> None:
    device.take(2, BAD, *PROGRAMS)  # `answered` was before: its connection lives on

    device.run(125)

    assert device.generations.number == 1


def test_an_enterprise_that_was_silent_before_the_swap_sets_no_timer(device: Device) -> None:
    device.link.is_up = False
    device.take(2, BAD, *PROGRAMS)

    device.run(1000)

    assert (device.generations.number, device.generations.standing.watch, device.sent) == (2, None, [])


def test_what_was_fetched_while_no_agent_ran_is_under_the_timer_from_the_start(device: Device) -> None:
    device.install(2, BAD, *PROGRAMS)
    device.start(reach=False)
    device.run(115)
    assert (device.generations.number, device.sent) == (2, [])

    device.run(10)

    assert (device.generations.number, device.generations.standing.bad) == (1, (2,))
    assert [alert.rule for alert in device.sent] == ["dead-man"]


def test_contact_after_the_start_ends_the_timer_of_what_was_fetched_before(device: Device) -> None:
    device.install(2, BAD, *PROGRAMS)
    device.link.is_up = False
    device.start()
    device.run(60)
    device.answered()

    device.run(1000)

    assert (device.generations.number, device.generations.standing.watch, device.sent) == (2, None, [])


def test_what_was_loaded_from_a_stick_while_no_agent_ran_is_under_no_timer(device: Device) -> None:
    device.install(2, BAD, *PROGRAMS, source="/media/stick")
    device.start(reach=False)

    device.run(1000)

    assert (device.generations.number, device.generations.standing.watch, device.sent) == (2, None, [])


def test_a_newer_generation_is_tried_after_a_rollback(device: Device) -> None:
    device.take(2, BAD, *PROGRAMS)
    device.run(125)
    device.answered()

    device.take(3, BAD)
    device.run(10)
    device.answered()
    device.run(1000)

    assert (device.generations.number, device.generations.standing.bad) == (3, (2,))


def test_a_generation_swapped_in_over_an_unproven_one_goes_back_to_the_proven_one(device: Device) -> None:
    device.take(2, BAD, *PROGRAMS)
    device.run(50)
    device.link.is_up = False
    device.take(3, BAD, *PROGRAMS[:3])  # from a stick

    device.run(125)

    assert (device.generations.number, device.generations.standing.bad) == (1, (3,))


def test_a_person_can_try_a_rolled_back_generation_again_and_the_policy_cannot(device: Device) -> None:
    device.take(2, BAD, *PROGRAMS)
    device.run(125)
    device.set_policy(Policy(version=1, forced_generation=2))
    device.generations.reload()
    assert device.generations.number == 1
    device.answered()

    device.generations.accept(2)
    assert device.generations.number == 2
    device.run(125)

    assert device.generations.number == 1, "and its timer runs again"


def test_the_timer_goes_on_over_a_restart_of_the_agent(device: Device) -> None:
    device.take(2, BAD, *PROGRAMS)
    device.run(60)
    device.sleep(50)
    device.start()
    assert device.generations.number == 2

    device.run(35)

    assert device.generations.number == 1


def test_the_timer_goes_on_over_reboots_so_that_a_list_that_reboots_the_device_is_rolled_back(device: Device) -> None:
    device.take(2, BAD, *PROGRAMS)
    for _ in range(3):
        device.run(35)
        device.reboot()

    device.run(60)

    assert (device.generations.number, device.tables.number) == (1, 1)


def test_after_a_suspend_the_uplink_has_a_moment_to_try_again(device: Device) -> None:
    device.take(2, BAD, *PROGRAMS)
    device.sleep(8 * HOUR_S)
    device.run(20)
    assert device.generations.number == 2
    device.answered()

    device.run(1000)

    assert device.generations.number == 2


def test_suspend_counts(device: Device) -> None:
    device.take(2, BAD, *PROGRAMS)
    device.sleep(8 * HOUR_S)

    device.run(40)

    assert device.generations.number == 1


def test_a_list_that_cannot_be_loaded_sets_no_timer_and_changes_nothing(device: Device) -> None:
    device.tables.is_full = True
    device.install(2, BAD)
    with pytest.raises(KernelRefused):
        device.generations.reload()

    device.tables.is_full = False
    device.run(1000)

    assert (device.generations.number, device.generations.standing.watch, device.sent) == (1, None, [])
    device.generations.reload()
    assert device.generations.number == 2


def test_another_enterprises_marks_do_not_count(device: Device) -> None:
    device.take(2, BAD, *PROGRAMS)
    device.run(125)
    device.belongs_to("another")

    device.take(2, BAD)

    assert device.generations.number == 2


def test_a_swap_that_fails_leaves_the_timer_of_the_unproven_one_before_running(device: Device) -> None:
    device.take(2, BAD, *PROGRAMS)
    device.run(50)
    device.link.is_up = False
    device.tables.is_full = True
    with pytest.raises(KernelRefused):
        device.take(3, BAD)
    device.tables.is_full = False

    device.run(80)

    assert (device.generations.number, device.generations.standing.bad) == (1, (2,))


def test_silence_under_the_old_list_too_acquits_the_new_one(device: Device) -> None:
    device.take(2, BAD, *PROGRAMS)
    device.run(125)
    assert (device.generations.number, device.generations.standing.bad) == (1, (2,))
    device.run(200)
    assert device.generations.number == 1, "not before the enterprise is there: a timer must run"

    device.answered()
    device.run(10)

    assert (device.generations.number, device.generations.standing.bad) == (2, ())
    assert device.generations.standing.watch is not None
    device.answered()
    device.run(1000)
    assert device.generations.number == 2


def test_an_enterprise_that_is_there_again_soon_after_a_rollback_convicts_the_list(device: Device) -> None:
    device.take(2, BAD, *PROGRAMS)
    device.run(125)
    device.run(60)
    device.answered()

    device.run(1000)

    assert (device.generations.number, device.generations.standing.bad) == (1, (2,))
    assert device.generations.standing.trial is None
