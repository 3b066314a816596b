# SPDX-License-Identifier: Apache-2.0
"""What the policy isolated stands until a policy that was read says otherwise; what the timer lifted stays lifted."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mamplus_host.clock import DeviceClock
from mamplus_host.executor.actions.isolate import Isolate
from mamplus_host.executor.execute import Executor
from mamplus_host.executor.network.refusals import POLICY, Network, Refusal
from mamplus_host.isolation.isolating import Isolating
from mamplus_host.policy.isolation import Isolation
from mamplus_host.policy.policy import Policy
from mamplus_host.verdicts import ActionKind

from .acting import Device

DEVICE_ID = "0" * 64


class _Parts(SimpleNamespace):
    """A service of which only some parts are there."""

    def __getattr__(self, name: str) -> Any:
        return _Parts()

    def __call__(self, *_arguments: Any) -> Any:
        return _Parts()


class _Silent:
    """An enterprise that nobody reaches."""

    def is_reachable(self) -> bool:
        return False

    def reached_ns(self) -> int:
        return 0

    def renew(self) -> None:
        pass


class _Agent:
    """One agent after the other on one device; instead of hooks, what is noted is in force."""

    def __init__(self, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
        self.device, self.told = device, list[Any]()
        self.policy = Policy(version=2, isolation=Isolation(devices=(DEVICE_ID,), on_silence="lift"))
        monkeypatch.setattr(Network, "holds", Network.is_wanted)
        self.start()

    def start(self) -> None:
        device, clock = self.device, cast(DeviceClock, self.device.clock)
        self.network = Network(device.config, clock)
        self.network.second = cast(Any, _Parts())
        executor = Executor(
            device.config, journal=device.journal, vault=device.vault, clock=clock,
            deeds={ActionKind.ISOLATE: Isolate(self.network)},
        )  # fmt: skip
        self.isolating = Isolating(
            device.config, clock, self.network, executor=executor, policy=lambda: self.policy, reach=_Silent,
            device_id=lambda: DEVICE_ID, tell=self.told.append,
        )  # fmt: skip

    def run(self, seconds: float) -> None:
        """Let time go by, with a tick every five seconds."""
        for _tick in range(round(seconds / 5)):
            self.device.clock.pass_s(5)
            self.isolating.tick()


def test_isolation_by_the_policy_stands_while_none_could_be_read(tmp_path: Path) -> None:
    undone = list[str]()
    kept = {"an-action": Refusal(kind="isolate", by=POLICY)}
    network = _Parts(all=lambda: kept, isolation=lambda: None, tick=lambda: False)
    policy, device_id = [Policy()], [DEVICE_ID]
    device = Device(tmp_path)
    isolating = Isolating(
        device.config, DeviceClock(device.config.state), cast(Network, network),
        executor=cast(Executor, _Parts(undo=undone.append)), policy=lambda: policy[0], reach=lambda: None,
        device_id=lambda: device_id[0], tell=lambda _alert: None,
    )  # fmt: skip

    isolating.tick()
    assert undone == []

    policy[0] = Policy(version=2, isolation=Isolation(devices=(device_id[0],)))
    isolating.tick()
    assert undone == []
    policy[0] = Policy(version=3)
    isolating.tick()
    assert undone == ["an-action"]
    policy[0], device_id[0] = Policy(), ""
    isolating.tick()
    assert undone == ["an-action"] * 2, "a device that belongs to nobody follows nobody"
    device.close()


def test_what_the_timer_lifted_stays_lifted_after_a_restart_until_the_policy_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(tmp_path)
    device.clock.boot_id = "this one"  # type: ignore[attr-defined]
    agent = _Agent(device, monkeypatch)
    agent.run(5)
    assert agent.network.isolation() is not None
    agent.run(700)
    assert agent.network.isolation() is None
    assert len(agent.told) == 1

    for _restart in range(2):
        agent.start()
        agent.run(10)
        assert agent.network.isolation() is None
    agent.policy = Policy(version=3, isolation=agent.policy.isolation)
    agent.run(5)

    assert agent.network.isolation() is not None
    device.close()
