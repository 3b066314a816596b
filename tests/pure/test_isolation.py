# SPDX-License-Identifier: Apache-2.0
"""The dead-man timer of isolation, by a clock that is moved by hand."""

from pathlib import Path
from typing import cast

import pytest

from mamplus_host.errors import ActionFailed, ConfigInvalid
from mamplus_host.executor.actions.refuse import Refuse, refusal_of
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.network.refusals import Network, Refusal
from mamplus_host.executor.processes.process import Processes
from mamplus_host.isolation.lifeline import GRACE_S, Lifeline
from mamplus_host.policy.isolation import Isolation
from mamplus_host.policy.policy import Policy, check, encode, parse

_NS = 1_000_000_000
TRIAL = Isolation(dead_man_s=600, trial_s=120)


class _Clock:
    now_s = 1000.0

    def boot_ns(self) -> int:
        return round(self.now_s * _NS)

    def wall_s(self) -> float:
        return 1e9 + self.now_s


class _Network:
    """What is isolated, and whether it is loosened."""

    def __init__(self) -> None:
        self.action, self.is_loosened = "an-action", False

    def isolation(self) -> tuple[str, Refusal] | None:
        return (self.action, Refusal(kind="isolate", is_loosened=self.is_loosened)) if self.action else None

    def loosen(self, action_id: str, is_loosened: bool) -> None:
        assert action_id == self.action
        self.is_loosened = is_loosened


class _Uplink:
    """An enterprise that answers, or is silent; connections are made anew at the next answer."""

    def __init__(self, clock: _Clock) -> None:
        self._clock, self.answers, self.renewed, self._opened_s = clock, True, 0, 1.0

    def is_reachable(self) -> bool:
        return self.answers

    def reached_ns(self) -> int:
        return round(self._opened_s * _NS)

    def renew(self) -> None:
        self.renewed += 1

    def connect(self) -> None:
        self._opened_s = self._clock.now_s


class _Device:
    def __init__(self, state: Path) -> None:
        self.state, self.clock, self.network = state, _Clock(), _Network()
        self.uplink: _Uplink | None = _Uplink(self.clock)
        self.lifted: list[str] = []
        self.start()

    def start(self, boot_id: str = "this one") -> None:
        self.timer = Lifeline(
            self.state, self.clock, cast(Network, self.network), boot_id=boot_id, reach=lambda: self.uplink,
            lift=self._lift,
        )  # fmt: skip

    def _lift(self, action_id: str, why: str) -> None:
        assert action_id == self.network.action
        self.lifted.append(why)
        self.network.action = ""

    def run(self, seconds: float, rules: Isolation = TRIAL) -> None:
        """Let time go by, with a look every five seconds."""
        for _tick in range(round(seconds / 5)):
            self.clock.now_s += 5
            self.timer.look(rules)


@pytest.fixture
def device(tmp_path: Path) -> _Device:
    return _Device(tmp_path)


def test_isolation_makes_the_uplink_connect_anew_and_stands_while_the_enterprise_answers(device: _Device) -> None:
    device.run(5)
    assert device.uplink is not None
    assert device.uplink.renewed == 1
    device.uplink.connect()

    device.run(6 * 3600)

    assert not device.network.is_loosened
    assert device.lifted == []


def test_an_old_connection_that_lives_on_proves_no_lifeline(device: _Device) -> None:
    device.run(590)
    assert not device.network.is_loosened
    device.run(20)

    assert device.network.is_loosened


def test_a_trial_in_which_the_enterprise_stays_silent_ends_and_the_next_comes_later(device: _Device) -> None:
    assert device.uplink is not None
    device.uplink.answers = False
    device.run(610)
    assert device.network.is_loosened
    device.run(120)
    assert not device.network.is_loosened

    device.run(1190)
    assert not device.network.is_loosened, "the second waits twice as long"
    device.run(20)
    assert device.network.is_loosened
    assert device.lifted == []


def test_an_enterprise_that_is_reached_only_in_a_trial_lifts_the_isolation(device: _Device) -> None:
    assert device.uplink is not None
    device.uplink.answers = False
    device.run(610)
    device.uplink.answers = True
    device.uplink.connect()
    device.run(5)

    assert len(device.lifted) == 1
    assert "in the way" in device.lifted[0]


def test_where_the_policy_says_lift_silence_ends_the_isolation_at_once(device: _Device) -> None:
    assert device.uplink is not None
    device.uplink.answers = False

    device.run(610, Isolation(dead_man_s=600, on_silence="lift"))

    assert len(device.lifted) == 1


def test_without_an_enterprise_there_is_no_timer(device: _Device) -> None:
    device.uplink = None
    device.run(86_400)

    assert not device.network.is_loosened
    assert device.timer.left_s(TRIAL) is None


def test_a_device_that_slept_gives_the_uplink_time_before_the_timer_acts(device: _Device) -> None:
    device.run(5)
    assert device.uplink is not None
    device.uplink.answers = False
    device.clock.now_s += 7200  # asleep

    device.run(GRACE_S - 10)
    assert not device.network.is_loosened
    device.run(20)
    assert device.network.is_loosened


def test_a_restarted_agent_goes_on_where_the_timer_was_and_a_restarted_device_anew(device: _Device) -> None:
    assert device.uplink is not None
    device.uplink.answers = False
    device.run(300)
    device.start()
    device.run(320)
    assert device.network.is_loosened, "two agents of half an hour each are silent for an hour"

    device.start(boot_id="another one")
    device.run(5)
    assert not device.network.is_loosened


def test_a_trial_that_a_restart_cut_off_does_not_stay_open(device: _Device) -> None:
    assert device.uplink is not None
    device.uplink.answers = False
    device.run(610)
    device.start()

    device.run(125)

    assert not device.network.is_loosened


def test_a_damaged_file_begins_the_timer_anew(device: _Device) -> None:
    device.run(5)
    (device.state / "isolation.json").write_bytes(b"\xff{")
    device.start()

    device.run(590)
    assert not device.network.is_loosened


def test_the_policy_names_the_devices_that_isolate_themselves() -> None:
    one, other = "0" * 64, "1" * 64

    assert Isolation(devices=(one,)).names(one)
    assert not Isolation(devices=(one,)).names(other)
    assert Isolation(devices=("*",)).names(other)
    assert not Isolation(devices=("*",)).names(""), "a device that belongs to nobody follows nobody"
    made = parse(encode(Policy(isolation=Isolation(devices=(one,), on_silence="lift"))))
    assert made.isolation.devices == (one,)


@pytest.mark.parametrize("device_id", ["", "0" * 63, "g" * 64, "**"])
def test_a_policy_that_isolates_what_is_no_device_is_refused(device_id: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"isolation\.devices"):
        check(Policy(isolation=Isolation(devices=(device_id,))))


def test_refusing_all_but_the_enterprise_needs_an_end_for_no_timer_watches_it(device: _Device) -> None:
    refuse = Refuse(cast(Network, device.network), cast(Processes, None), GuardSet())

    with pytest.raises(ActionFailed, match=r"time limit \(ttl_s\).*mamplus isolate on"):
        refuse.prepare("an-action", {"all": True})

    assert refusal_of(refuse.prepare("an-action", {"all": True, "ttl_s": 60})).ttl_s == 60
