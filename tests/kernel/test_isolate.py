# SPDX-License-Identifier: Apache-2.0
"""What a person says to a running agent: `mamplus isolate`, `cut`, `refuse`, `actions`, `rules`, `undo`.

Isolation also while the agent is killed and started again, and when the enterprise's policy says so.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mamplus_host.control.client import Refused
from mamplus_host.executor.disarm import Rule
from story.stage import Device, Enterprise, Stage, StoryFailed, wait_for

from . import networld
from .networld import HOST4, HOST6, NTP, OTHER4, OTHER6, World
from .test_cut import CLOSED

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


@pytest.fixture
def device(stage: Stage, world: World) -> Device:
    """A device whose agent runs, and the world's program in an app of it."""
    made = Device(stage, "van", netns=world.netns)
    made.start()
    (made.cgroup / "app").mkdir()
    world.enter(made.cgroup / "app")
    return made


def test_a_person_refuses_a_host_sees_it_in_force_and_on_the_device_and_takes_it_back(
    device: Device, world: World
) -> None:
    said = json.loads(device.run("refuse", HOST4, "--for", "2h", "--json"))

    assert (said["action"], said["undo"]) == ("refuse", said["id"])
    assert (world.act("tcp", HOST4), world.act("tcp", OTHER4)) == ("EPERM", "ok")
    (listed,) = map(json.loads, device.run("actions", "--json").splitlines())
    assert (listed["id"], listed["action"], listed["on"]) == (said["id"], "refuse", f"host {HOST4}")
    assert 7000 < listed["left_s"] <= 7200
    assert f"host {HOST4}" in " ".join(device.run("actions").split())
    (seen,) = map(json.loads, device.run("actions", "verify", said["id"], "--json").splitlines())
    assert (seen["wanted"], seen["seen"]) == ("done", "done")

    assert "undone" in device.run("undo", said["id"])

    assert device.run("actions", "--json") == ""
    wait_for("the network", lambda: world.act("tcp", HOST4) == "ok", timeout_s=60)  # the rules go in the background
    assert "undone, as it should be" in device.run("actions", "verify", said["id"])
    world.end()


def test_a_person_refuses_the_network_to_an_app_and_its_time_ends_that(device: Device, world: World) -> None:
    device.run("refuse", "--pid", world.pid, "--for", "1s")
    wait_for("the end of its time", lambda: world.act("tcp", HOST4) == "ok", timeout_s=60)
    wait_for("that it is told", lambda: device.run("actions", "--json") == "", timeout_s=60)

    said = json.loads(device.run("refuse", "--pid", world.pid, "--json"))
    assert {world.act("tcp", one) for one in (HOST4, OTHER6)} == {"EPERM"}
    (listed,) = device.ask("actions")
    assert (listed["on"], listed["left_s"]) == (f"app {device.cgroup}/app", None)

    device.run("undo", said["id"])
    assert world.act("tcp", HOST4) == "ok"
    world.end()


def test_a_person_cuts_connections_which_may_be_made_again_and_do_not_come_back(device: Device, world: World) -> None:
    for host in (HOST4, HOST6, OTHER4):
        assert world.act("tcp", host) == "ok"

    said = json.loads(device.run("cut", HOST6, "--json"))

    assert (said["detail"].split(" (")[0], said["undo"]) == ("cut 1 of 1 connections", "")
    assert world.act("say", HOST6) in CLOSED
    assert world.act("tcp", HOST6) == "ok"
    with pytest.raises(StoryFailed, match="it has no inverse"):
        device.run("undo", said["id"])

    assert "cut 3 of 3 connections" in device.run("cut", "--pid", world.pid, "--app")
    assert world.act("say", HOST4) in CLOSED
    assert device.run("actions", "--json") == "", "there is nothing to take back"
    world.end()


def test_a_person_arms_a_rule_again_for_good(stage: Stage, world: World) -> None:
    device = Device(stage, "van", netns=world.netns)
    rule = Rule(key="entry:7", alert="0" * 26, at=1.7e9, boot_ns=1, programs=("/opt/app",), generation=3, is_told=True)
    state = device.config.parent / "state"
    state.mkdir()
    (state / "rules.json").write_bytes(msgspec.json.encode([rule]))
    device.start()
    assert "entry:7: disarmed" in device.run("rules")
    with pytest.raises(StoryFailed, match="rule 'entry:8' is not disarmed; disarmed: entry:7"):
        device.run("rules", "rearm", "entry:8")

    assert device.run("rules", "rearm", "entry:7") == "entry:7: armed\n"

    assert device.run("rules", "--json") == ""
    device.kill()
    device.start()
    assert "No rule is disarmed." in device.run("rules")
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
