# SPDX-License-Identifier: Apache-2.0
"""A rule that suddenly acts on many different programs acts on none any more, until somebody arms it again."""

import os
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest

from mamplus_host.errors import ActionFailed
from mamplus_host.events import Connect, Head
from mamplus_host.executor.plan import Action
from mamplus_host.policy.actions import ActionRules, Disarm
from mamplus_host.telling import Telling
from mamplus_host.verdicts import ActionKind, Decision, Finding, Verdict

from .acting import Device, carry_out
from .test_power_cuts import decided

MOST = 5


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    one = Device(tmp_path)
    one.rules = ActionRules(disarm=Disarm(programs=MOST, within_s=60))
    yield one
    one.close()


def by(entry: int, decision: Decision) -> Decision:
    return msgspec.structs.replace(decision, entry_id=entry)


def end(device: Device, number: int, *, entry: int = 7, name: str = "") -> str:
    """Have entry `entry` end the program `name`; return what came of it."""
    path = device.file(name or f"program{number}")
    action = Action(kind=ActionKind.KILL, boot_ns=1)
    (outcome,) = carry_out(device.executor, by(entry, decided(f"A{entry}N{number}", path)), [action])
    return outcome.state


def test_a_rule_acts_no_more_after_too_many_different_programs_and_others_still_do(device: Device) -> None:
    assert [end(device, number) for number in range(MOST + 3)] == ["done"] * MOST + ["disarmed"] * 3
    assert end(device, 99, entry=8) == "done"
    assert (device.files / f"program{MOST}").exists()


def test_the_same_program_again_and_again_is_no_reason(device: Device) -> None:
    assert {end(device, number, name="one") for number in range(3 * MOST)} == {"done"}


def test_as_many_over_a_long_time_are_no_reason(device: Device) -> None:
    for number in range(3 * MOST):
        assert end(device, number) == "done"
        device.clock.pass_s(60 / MOST + 1)


def test_it_stays_disarmed_for_the_next_agent_and_is_told_once(device: Device) -> None:
    for number in range(MOST + 1):
        end(device, number)
    device.close()
    device.start()
    told = list[Telling]()
    device.disarmed.hand_on(told.append)
    device.disarmed.hand_on(told.append)

    assert end(device, 50) == "disarmed"
    assert [(one.rule, "entry:7" in one.summary) for one in told] == [("rule-disarmed", True)]
    assert len(told[0].evidence["programs"]) == MOST + 1


def test_an_administrator_arms_it_again_and_only_what_is_disarmed(device: Device) -> None:
    for number in range(MOST + 1):
        end(device, number)

    device.disarmed.rearm("entry:7")

    assert end(device, 60) == "done"
    with pytest.raises(ActionFailed, match="'entry:8' is not disarmed"):
        device.disarmed.rearm("entry:8")


def test_what_was_done_before_it_disarmed_itself_can_still_be_undone(device: Device) -> None:
    path = device.file("set")
    carry_out(device.executor, by(7, decided("AB", path)), [Action(kind=ActionKind.REFUSE, boot_ns=1)])
    for number in range(MOST + 1):
        end(device, number)

    device.executor.undo("AB")

    assert path.read_text() == "as it was"


def connects(tgid: int, number: int) -> Decision:
    head = Head(boot_ns=7, cgroup_id=77, generation=1, tgid=tgid, ppid=2, uid=0, slot=0, flags=0,
                verdict=Verdict.BLOCK, comm=f"child{number}")  # fmt: skip
    event = Connect(head=head, address=ip_address("192.0.2.1"), port=443, protocol=6, unconnected=False)
    return Decision(id=f"C{number}", finding=Finding.CONFIRMED, event=event, rule="ble", reason="", entry_id=7)


def test_children_that_connect_are_one_program(device: Device) -> None:
    call = [sys.executable, "-c", "input()"]
    children = [subprocess.Popen(call, stdin=subprocess.PIPE) for _ in range(MOST + 1)]
    try:
        action = Action(kind=ActionKind.KILL, boot_ns=1)
        whys = {device.disarmed.take(connects(one.pid, at), action) for at, one in enumerate(children)}
    finally:
        for one in children:
            one.communicate(b"\n")

    assert whys == {""}


def test_children_that_have_ended_count_by_their_cgroup(device: Device) -> None:
    ended = int(Path("/proc/sys/kernel/pid_max").read_text())
    action = Action(kind=ActionKind.KILL, boot_ns=1)

    assert {device.disarmed.take(connects(ended + at, at), action) for at in range(MOST + 1)} == {""}


def test_different_programs_that_connect_disarm_and_are_named(device: Device, tmp_path: Path) -> None:
    children = []
    for number in range(MOST + 1):
        copy = tmp_path / f"sleep{number}"
        copy.write_bytes(Path(os.path.realpath("/bin/sleep")).read_bytes())
        copy.chmod(0o700)
        children.append(subprocess.Popen([copy, "60"]))
    try:
        action = Action(kind=ActionKind.KILL, boot_ns=1)
        whys = [device.disarmed.take(connects(one.pid, at), action) for at, one in enumerate(children)]
    finally:
        for one in children:
            one.kill()
            one.wait()

    assert [bool(why) for why in whys] == [False] * MOST + [True]
    (rule,) = device.disarmed.all()
    assert rule.programs == tuple(str(tmp_path / f"sleep{number}") for number in range(MOST + 1))
