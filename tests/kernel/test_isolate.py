# SPDX-License-Identifier: Apache-2.0
"""`mamplus isolate` with a running agent: on, killed, started again, off; and when the enterprise's policy says so."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mamplus_host.control.client import Refused
from story.stage import Device, Enterprise, Stage, wait_for

from . import networld
from .networld import HOST4, NTP, OTHER6, World

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]


@pytest.fixture
def stage() -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:
        yield Stage(stack)


@pytest.fixture
def world() -> Iterator[World]:
    with networld.world() as made:
        yield made


def isolated(device: Device) -> bool:
    return bool(device.ask("status")["network"]["isolated"])


def test_isolation_outlives_the_agent_and_is_taken_back_by_the_next_one(stage: Stage, world: World) -> None:
    device = Device(stage, "van", netns=world.netns)
    device.start()
    world.enter(device.cgroup)
    assert world.act("tcp", HOST4) == "ok"

    said = json.loads(device.run("isolate", "on", "--for", "1h", "--json"))

    assert said["isolated"] is True
    assert 3500 < said["left_s"] <= 3600
    assert world.act("tcp", HOST4) == "EPERM"
    assert world.act("say", HOST4) == "silent"
    assert world.act("udp", HOST4, NTP) == "ok"
    device.kill()
    assert world.act("tcp", OTHER6) == "EPERM", "there is no agent, and still"
    device.start()
    status = device.ask("status")["network"]
    assert status["isolated"] is True
    assert status["left_s"] < 3600
    assert [one["action"] for one in device.ask("actions")] == ["isolate"]
    verified = device.run("actions", "verify", said["id"])
    assert "done" in verified
    wait_for("the rules", lambda: device.ask("status")["network"]["second_layer"] == "iptables", timeout_s=60)

    assert json.loads(device.run("isolate", "off", "--json"))["isolated"] is False
    wait_for("the network", lambda: world.act("tcp", HOST4) == "ok", timeout_s=60)  # the rules go in the background
    assert device.ask("actions") == []
    world.end()


def test_the_enterprises_policy_isolates_and_only_it_lifts_that(stage: Stage, world: World, tmp_path: Path) -> None:
    enterprise = Enterprise(stage)
    enterprise.start()
    enterprise.run("ble", "add", "ip", "203.0.113.9", "--verdict", "block")
    enterprise.run("ble", "publish")
    device = Device(stage, "van", netns=world.netns)
    device.run("enroll", enterprise.url, "--token", enterprise.run("token", "new").split()[-1])
    device.run("ble", "refresh")
    device.start()
    world.enter(device.cgroup)
    (known,) = json.loads(enterprise.run("devices", "--json"))

    _set(enterprise, tmp_path, {"isolation": {"devices": [known["id"]]}})
    device.run("ble", "refresh")
    wait_for("isolation", lambda: isolated(device), timeout_s=60)

    assert world.act("tcp", HOST4) == "EPERM"
    with pytest.raises(Refused, match="policy isolates this device"):
        device.ask("isolate-off")
    assert isolated(device)

    _set(enterprise, tmp_path, {})
    device.run("ble", "refresh")
    wait_for("the policy", lambda: not isolated(device), timeout_s=60)
    wait_for("the network", lambda: world.act("tcp", HOST4) == "ok", timeout_s=60)
    world.end()


def _set(enterprise: Enterprise, tmp_path: Path, policy: dict[str, object]) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy))
    enterprise.run("policy", "set", path)
    enterprise.run("ble", "publish")
