# SPDX-License-Identifier: Apache-2.0
"""A running agent tries its own controls: kept, told to the enterprise, and no alert about itself."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from mamplus_host.config import load
from mamplus_host.doctor import kept
from story.stage import Device, Enterprise, Stage, wait_for

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]
LISTED = (("ip", "203.0.113.9"), ("domain", "bad.example"), ("sha256", "ab" * 32))
EXAMINE_S = 200.0


@pytest.fixture
def stage() -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:
        yield Stage(stack)


def start(stage: Stage) -> tuple[Enterprise, Device]:
    """An enterprise with a list, and a device that is about to enforce it."""
    enterprise = Enterprise(stage)
    enterprise.start()
    for kind, value in LISTED:
        enterprise.run("ble", "add", kind, value, "--verdict", "block")
    enterprise.run("ble", "publish")
    device = Device(stage, "van")
    say(device, "examine_after_s = 0.0")
    device.run("enroll", enterprise.url, "--token", enterprise.run("token", "new").split()[-1])
    device.run("ble", "refresh")
    return enterprise, device


def say(device: Device, line: str) -> None:
    """Add a line about the agent to its configuration."""
    device.config.write_text(device.config.read_text().replace("[agent]\n", f"[agent]\n{line}\n"))


def trial(enterprise: Enterprise, control: str) -> dict[str, Any]:
    found = json.loads(enterprise.run("devices", "show", "--json", _device_id(enterprise)))
    return next(one for one in found["examined"]["controls"] if one["control"] == control)


def _device_id(enterprise: Enterprise) -> str:
    (device,) = json.loads(enterprise.run("devices", "--json"))
    return str(device["id"])


def reported(enterprise: Enterprise, why: str) -> bool:
    (device,) = json.loads(enterprise.run("devices", "--json"))
    return device["controls"] is not None and device["controls"]["why"] == why


def test_a_running_agent_proves_what_it_enforces_and_tells_when_that_is_less(stage: Stage) -> None:
    enterprise, device = start(stage)
    device.start()

    wait_for("the report", lambda: reported(enterprise, "first"), timeout_s=EXAMINE_S, every_s=1)

    for control in ("agent: connect, send", "agent: DNS", "agent: listed program", "agent: unknown program"):
        assert trial(enterprise, control)["state"] == "enforcing", control
    status = device.ask("status")
    assert status["controls"]["age_s"] < EXAMINE_S
    assert status["pipeline"]["trials"] > 0  # refusals that the ring told of
    told = [alert["kind"] for alert in json.loads(enterprise.run("alerts", "--json"))]
    assert {"exec", "connect", "sendmsg", "dns", "control"}.isdisjoint(told)  # and none of them is an alert

    config = load(device.config)
    device.kill()
    say(device, 'mode = "monitor"')
    before, _ = kept.read(config.state)
    assert before is not None
    elsewhere = msgspec.structs.replace(before.situation, boot_id="the boot before")
    kept.write(config.state, msgspec.structs.replace(before, situation=elsewhere))
    device.start()
    wait_for("the report", lambda: reported(enterprise, "boot"), timeout_s=EXAMINE_S, every_s=1)

    assert trial(enterprise, "agent: connect, send")["state"] == "degraded"
    (alert,) = wait_for("the alert", lambda: _alerts(enterprise, "control-worse"), every_s=1)
    worse = {one["control"]: one["reason"] for one in alert["evidence"]["controls"]}
    assert "monitor" in worse["agent: connect, send"]
    (change,) = json.loads(enterprise.run("devices", "show", "--json", _device_id(enterprise)))["changes"][-1:]
    assert (change["was"], change["state"]) == ("enforcing", "degraded")


def _alerts(enterprise: Enterprise, rule: str) -> list[dict[str, Any]]:
    return [alert for alert in json.loads(enterprise.run("alerts", "--json")) if alert["rule"] == rule]
