# SPDX-License-Identifier: Apache-2.0
"""From installed to in force: shadow load, dates and guard, crashes in between."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mamplus_host.ble import standing
from mamplus_host.ble.entry import Kind
from mamplus_host.ble.shadow import Use
from mamplus_host.errors import NotPossible
from mamplus_host.policy.policy import NeverBlock, Policy
from mamplus_host.policy.standing import ExecStanding, Standing
from mamplus_host.verdicts import Finding
from tests.journey.device import BAD, PROGRAMS, Device, PowerCut, device

__all__ = ["device"]  # the fixture
DAY_S = 86_400.0
LIMIT = Policy().shadow_limit


def in_use(count: int) -> list[Use]:
    return [Use(kind, value, f"/opt/program-{n}") for n, (kind, value) in enumerate(PROGRAMS[:count])]


# --- shadow load -------------------------------------------------------------------------------


def test_a_generation_that_blocks_nothing_in_use_is_taken(device: Device) -> None:
    device.uses = in_use(LIMIT + 1)

    device.take(2, BAD, (Kind.IP, "203.0.113.98"))

    assert (device.generations.number, device.tables.number, device.sent) == (2, 2, [])


@pytest.mark.parametrize(("count", "number"), [(LIMIT, 2), (LIMIT + 1, 1)], ids=["at the limit", "above it"])
def test_what_is_in_use_may_be_newly_blocked_up_to_the_limit(device: Device, count: int, number: int) -> None:
    device.uses = in_use(count)

    device.take(2, BAD, *PROGRAMS)

    assert (device.generations.number, device.tables.number) == (number, number)


def test_what_the_list_in_force_blocks_already_does_not_count(device: Device) -> None:
    device.take(2, BAD, *PROGRAMS)
    device.uses = in_use(LIMIT + 1)

    device.take(3, BAD, *PROGRAMS)

    assert device.generations.number == 3


def test_one_lifeline_is_too_much(device: Device) -> None:
    device.vital = [Use(Kind.IP, "192.0.2.53:53/udp", "name server")]

    device.take(2, BAD, (Kind.CIDR, "192.0.2.0/24"))

    assert device.generations.number == 1
    assert "1 lifeline" in device.sent[0].summary
    assert device.sent[0].evidence["would_block"]["examples"][0]["by"] == "name server"


def test_a_hold_is_told_once_as_suspected_with_what_it_would_have_blocked(device: Device) -> None:
    device.uses = in_use(LIMIT + 1)
    device.take(2, BAD, *PROGRAMS)
    device.generations.reload()
    device.run(60)
    device.start()
    device.generations.reload()

    (alert,) = device.sent
    assert (alert.finding, alert.rule, alert.generation) == (Finding.SUSPECTED, "shadow-load", 1)
    assert alert.evidence["held"] == 2
    assert [one["value"] for one in alert.evidence["would_block"]["examples"]] == [v for _, v in PROGRAMS[: LIMIT + 1]][
        ::-1
    ]
    assert [note["what"] for note in device.notes].count("held") == 1


def test_a_hold_survives_a_restart_and_a_reboot(device: Device) -> None:
    device.uses = in_use(LIMIT + 1)
    device.take(2, BAD, *PROGRAMS)
    device.uses = []

    device.start()
    assert device.generations.number == 1
    device.reboot()
    assert (device.generations.number, device.tables.number) == (1, 1)


def test_a_newer_generation_that_passes_ends_the_hold(device: Device) -> None:
    device.uses = in_use(LIMIT + 1)
    device.take(2, BAD, *PROGRAMS)

    device.take(3, BAD)

    assert (device.generations.number, device.generations.standing.held) == (3, None)


def test_the_policy_can_force_a_held_generation(device: Device) -> None:
    device.uses = in_use(LIMIT + 1)
    device.take(2, BAD, *PROGRAMS)

    device.set_policy(Policy(version=1, forced_generation=2))
    device.generations.reload()

    assert (device.generations.number, device.generations.standing.held) == (2, None)


def test_a_person_can_accept_a_held_generation_and_nothing_else(device: Device) -> None:
    device.uses = in_use(LIMIT + 1)
    device.take(2, BAD, *PROGRAMS)
    for other in (1, 3):
        with pytest.raises(NotPossible, match=f"generation {other} is neither held nor rolled back"):
            device.generations.accept(other)

    device.generations.accept(2)

    assert device.generations.number == 2
    with pytest.raises(NotPossible):
        device.generations.accept(2)


def test_without_an_agent_a_held_generation_is_accepted_for_the_next_one(device: Device) -> None:
    device.uses = in_use(LIMIT + 1)
    device.take(2, BAD, *PROGRAMS)

    standing.accept_offline(device.state, 2, newest=2)
    device.start()

    assert device.generations.number == 2


def test_the_first_generation_is_never_held(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.uses = in_use(LIMIT + 1)

    device.take(1, BAD, *PROGRAMS)

    assert device.generations.number == 1


def test_what_is_in_force_outlives_the_history_of_what_is_held(device: Device) -> None:
    device.uses = in_use(LIMIT + 1)
    for number in range(2, 15):
        device.take(number, BAD, *PROGRAMS)

    device.reboot()

    assert (device.generations.number, device.tables.number) == (1, 1)


def test_when_what_was_in_force_is_damaged_something_is_enforced_all_the_same(device: Device) -> None:
    device.uses = in_use(LIMIT + 1)
    device.take(2, BAD, *PROGRAMS)
    (device.state / "ble" / "enterprise-1.mble").write_bytes(b"damaged")

    device.reboot()

    assert device.tables.number == 2, "the held one: any list is better than none"


# --- power cuts --------------------------------------------------------------------------------


def cut_at(device: Device, monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[Callable[[], Any]], bool]:
    """Return what runs an action and cuts the power at the step-th write or load; True: it was cut."""
    left = [step]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise PowerCut
            return real(*args, **kwargs)

        return act

    def run(action: Callable[[], Any]) -> bool:
        with monkeypatch.context() as patched:
            patched.setattr(standing, "write", counted(standing.write))
            patched.setattr(device.tables, "load", counted(device.tables.load))
            try:
                action()
            except PowerCut:
                return True
        return False

    return run


@pytest.mark.parametrize("step", range(1, 12))
def test_a_crash_at_any_step_of_a_swap_ends_with_the_new_one_in_force_under_its_timer(
    device: Device, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    device.install(2, BAD, *PROGRAMS)

    cut_at(device, monkeypatch, step)(device.generations.reload)
    device.start()

    assert (device.generations.number, device.tables.number) == (2, 2)
    assert device.generations.standing.watch is not None
    device.run(125)
    assert (device.generations.number, len(device.sent)) == (1, 1)


def test_a_crash_in_the_middle_of_a_swap_does_not_wind_its_timer_up_again(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.install(2, BAD)
    after_the_load = 3
    assert cut_at(device, monkeypatch, after_the_load)(device.generations.reload)

    device.sleep(100)
    device.start()
    device.run(35)

    assert device.generations.number == 1


@pytest.mark.parametrize("step", range(1, 12))
def test_a_crash_at_any_step_of_a_rollback_ends_rolled_back_and_told_once(
    device: Device, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    device.take(2, BAD, *PROGRAMS)
    device.run(118)

    cut_at(device, monkeypatch, step)(lambda: device.run(40))
    device.start()
    device.run(40)

    assert (device.generations.number, device.tables.number) == (1, 1)
    assert device.generations.standing.bad == (2,)
    assert [alert.rule for alert in device.sent] == ["dead-man"]


# --- dates and guard ---------------------------------------------------------------------------


def test_a_clock_that_runs_ahead_and_is_set_right_brings_back_what_it_ended(device: Device) -> None:
    device.install(2, BAD, until=int(device.clock.wall + DAY_S))
    device.generations.reload()
    device.answered()
    device.clock.wall += 10 * DAY_S
    device.run(10)
    assert device.generations.loaded["enforced"] == 0

    device.clock.wall -= 10 * DAY_S
    device.run(10)

    assert device.generations.loaded["enforced"] == 1


def test_the_policys_guards_come_after_the_enterprises_own(device: Device) -> None:
    device.belongs_to("enterprise", *(f"198.51.100.{n}" for n in range(1, 41)))
    never = NeverBlock(addresses=tuple(f"192.0.2.{n}" for n in range(1, 41)), names=("proxy.example",))

    device.set_policy(Policy(version=1, never_block=never))
    device.generations.load_again()

    assert {(f"198.51.100.{n}", 8443) for n in range(1, 41)} <= device.tables.guards
    assert len(device.tables.guards) == 64
    assert "16 of never_block.addresses have no room" in device.generations.policy_fault
    assert device.tables.names == ("mam.example", "proxy.example")


def test_the_standing_rules_of_a_policy_reach_the_kernel_with_it_and_go_with_the_next(device: Device) -> None:
    said = Standing(exec=ExecStanding(agent_down="refuse-unknown", deadline="allow"))
    device.start()
    device.set_policy(Policy(version=1, standing=said))

    assert device.tables.standing == said
    assert device.tables.postures[-1] == ("allow", False)

    device.set_policy(Policy(version=2))
    assert device.tables.standing == Standing()
