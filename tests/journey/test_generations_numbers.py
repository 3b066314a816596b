# SPDX-License-Identifier: Apache-2.0
"""A layer's number that a thief drove up stands in no other layer's way: generations are told apart by all layers."""

from mamplus_host.analyzer.verify import verify
from mamplus_host.ble.entry import Kind
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.shadow import Use
from mamplus_host.policy.policy import Policy
from mamplus_host.verdicts import Verdict
from tests.journey.device import BAD, PROGRAMS, Device, device

__all__ = ["device"]  # the fixture
HUGE = 1 << 62
MORE, THIEFS = (Kind.IP, "198.51.100.7"), (Kind.IP, "203.0.113.1")


def says(device: Device, value: tuple[Kind, str]) -> Verdict:
    return verify(device.generations.ble, *value, now_s=device.clock.wall).verdict


def test_another_layer_changes_under_a_number_that_was_driven_up(device: Device) -> None:
    device.take(HUGE, THIEFS, layer=Layer.EMERGENCY)

    device.take(2, BAD, MORE)

    assert device.generations.number == HUGE
    assert [says(device, one) for one in (BAD, MORE, THIEFS)] == [Verdict.BLOCK] * 3
    device.start()
    assert says(device, MORE) is Verdict.BLOCK


def test_what_was_rolled_back_keeps_out_nothing_that_comes_after_it(device: Device) -> None:
    device.take(HUGE, THIEFS, layer=Layer.EMERGENCY)
    device.run(125)
    assert (device.generations.number, device.generations.standing.bad) == (1, (HUGE,))
    device.answered()

    device.take(2, BAD, MORE)

    assert (device.generations.number, says(device, MORE)) == (HUGE, Verdict.BLOCK)
    device.run(125)
    assert (device.generations.number, says(device, MORE)) == (1, Verdict.NOTHING), "and each has a timer of its own"
    assert device.generations.standing.bad == (HUGE, HUGE)


def test_what_is_held_keeps_out_nothing_that_comes_after_it(device: Device) -> None:
    device.uses = [Use(kind, value, f"/opt/{value}") for kind, value in PROGRAMS[: Policy().shadow_limit + 1]]
    device.take(HUGE, *PROGRAMS, layer=Layer.EMERGENCY)
    assert device.generations.number == 1

    device.take(HUGE, THIEFS, layer=Layer.EMERGENCY)

    assert (says(device, THIEFS), device.generations.standing.held) == (Verdict.BLOCK, None)


def test_a_person_lets_in_the_newest_of_one_number(device: Device) -> None:
    for number, value, layer in ((HUGE, THIEFS, Layer.EMERGENCY), (2, MORE, Layer.ENTERPRISE)):
        device.take(number, value, layer=layer)
        device.run(125)
        device.answered()
    assert device.generations.number == 1

    device.generations.accept(HUGE)

    assert says(device, MORE) is Verdict.BLOCK


def test_what_is_in_force_stays_in_the_store_beside_another_of_its_number(device: Device) -> None:
    device.take(HUGE, THIEFS, layer=Layer.EMERGENCY)
    device.answered()
    device.run(10)
    device.answered()
    device.run(10)
    assert device.generations.standing.watch is None

    device.take(2, MORE)
    device.run(125)

    assert (device.generations.number, says(device, BAD), says(device, MORE)) == (HUGE, Verdict.BLOCK, Verdict.NOTHING)
