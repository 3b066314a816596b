# SPDX-License-Identifier: Apache-2.0
"""What the policy isolated stands until a policy that was read says otherwise."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from mamplus_host.clock import DeviceClock
from mamplus_host.executor.execute import Executor
from mamplus_host.executor.network import POLICY, Network, Refusal
from mamplus_host.isolating import Isolating
from mamplus_host.isolationrules import Isolation
from mamplus_host.policy import Policy

from .acting import Device


class _Parts(SimpleNamespace):
    """A service of which only some parts are there."""

    def __getattr__(self, name: str) -> Any:
        return _Parts()


def test_isolation_by_the_policy_stands_while_none_could_be_read(tmp_path: Path) -> None:
    undone = list[str]()
    kept = {"an-action": Refusal(kind="isolate", by=POLICY)}
    network = _Parts(all=lambda: kept, isolation=lambda: None, tick=lambda: False)
    policy, device_id = [Policy()], ["0" * 64]
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
