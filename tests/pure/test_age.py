# SPDX-License-Identifier: Apache-2.0
"""The age ladder as pure functions, and how often a device asks for a new proof."""

import threading
from pathlib import Path

import pytest

from mamplus_host.clock import SystemClock
from mamplus_host.config import ExecPolicy
from mamplus_host.errors import UplinkFailed
from mamplus_host.generations.age import Aged, Step, aged, in_words, refresh_after_s
from mamplus_host.policy.policy import AgeLadder
from mamplus_host.updating import PROOF_EVERY_S, Updater

LADDER = AgeLadder(stale_s=4000, old_s=5000, very_old_s=6000, old=("refuse-unknown",), very_old=("suspect-as-block",))


@pytest.mark.parametrize(
    ("age_s", "step"),
    [(0, Step.FRESH), (3999.9, Step.FRESH), (4000, Step.STALE), (5000, Step.OLD), (6000, Step.VERY_OLD)],
)
def test_a_step_begins_at_its_age(age_s: float, step: Step) -> None:
    assert aged(age_s, LADDER).step is step


def test_the_effects_of_a_step_do_not_carry_over_to_the_next() -> None:
    lenient = ExecPolicy(on_responder_down="allow", on_deadline="allow")

    assert aged(5000, LADDER).declared(lenient) == ExecPolicy(on_responder_down="refuse", on_deadline="refuse")
    assert aged(6000, LADDER).declared(lenient) == lenient
    assert (aged(5000, LADDER).suspect_as_block, aged(6000, LADDER).suspect_as_block) == (False, True)


@pytest.mark.parametrize("ladder", [AgeLadder(), LADDER, AgeLadder(stale_s=3600)], ids=["default", "short", "shortest"])
def test_a_connected_device_asks_twice_before_its_list_is_stale(ladder: AgeLadder) -> None:
    assert 2 * refresh_after_s(ladder) < ladder.stale_s
    assert aged(refresh_after_s(ladder), ladder) == Aged()


def test_ages_are_said_as_people_say_them() -> None:
    assert [in_words(seconds) for seconds in (5, 150, 7300, 200_000)] == ["5 seconds", "2 minutes", "2 hours", "2 days"]


def test_a_proof_is_asked_for_at_most_once_an_hour_also_when_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def fail(state: Path) -> None:
        asked.append(state)
        raise UplinkFailed("nobody there")

    now_ns = [int(2 * PROOF_EVERY_S * 1e9)]
    monkeypatch.setattr(SystemClock, "boot_ns", lambda _self: now_ns[0])
    monkeypatch.setattr("mamplus_host.ble.update.update", fail)
    updater = Updater(tmp_path, SystemClock(), lambda: None)
    for _ in range(20):  # of ticks, each a twelfth of an hour
        updater.prove()
        for thread in [one for one in threading.enumerate() if one.name == "update"]:
            thread.join(10)
        now_ns[0] += int(PROOF_EVERY_S / 12 * 1e9)

    assert len(asked) == 2
