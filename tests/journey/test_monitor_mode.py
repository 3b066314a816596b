# SPDX-License-Identifier: Apache-2.0
"""Monitor mode does everything but act: not on a person's word, not for a crash or a restart; it lets go as ever."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from mamplus_host.config import Agent
from mamplus_host.control.commands import Commands
from mamplus_host.errors import NotPossible
from mamplus_host.executor.shape import Deed
from mamplus_host.executor.steps import hooked
from mamplus_host.verdicts import ActionKind

from .acting import Device, Emptying, PowerCut
from .test_power_cuts import act


class Ending(Emptying):
    """As `wipe`, which an order began."""

    kind = ActionKind.WIPE


class Watching(Device):
    """Has something of each kind."""

    def deeds(self) -> dict[ActionKind, Deed]:
        return {**super().deeds(), ActionKind.WIPE: Ending()}


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    one = Watching(tmp_path)
    yield one
    one.close()


def watch(device: Device) -> None:
    """Start the next agent in monitor mode."""
    with contextlib.suppress(OSError):  # the power was cut
        device.close()
    device.config = msgspec.structs.replace(device.config, agent=Agent(mode="monitor"))
    device.start()


@pytest.mark.parametrize("kind", ["lock", "radio", "wipe", "quarantine"])
def test_a_persons_command_is_refused(device: Device, kind: str) -> None:
    watch(device)
    parts = cast(Any, _Parts(config=device.config, executor=device.executor))

    with pytest.raises(NotPossible, match='set it to "enforce"'):
        Commands(parts).act(kind, {"path": str(device.file("one"))})

    assert device.says() == {}


@pytest.mark.parametrize("cut_at", range(1, 7))
def test_what_was_interrupted_is_taken_back_and_not_finished(device: Device, cut_at: int) -> None:
    path = device.file("one")
    assert device.run(act(device, "A", ActionKind.REFUSE, path), cut_at=cut_at)
    watch(device)

    device.recover()

    assert path.read_text() == "as it was"
    assert device.in_force() == set()


@pytest.mark.parametrize(("kind", "state"), [(ActionKind.KILL, "failed"), (ActionKind.WIPE, "done")])
def test_of_what_has_no_inverse_only_a_wipe_is_finished(device: Device, kind: ActionKind, state: str) -> None:
    path = device.file("one")
    with hooked(_cut_before_the_end), pytest.raises(PowerCut):
        act(device, "A", kind, path)()
    watch(device)

    device.recover()

    assert device.says()[f"A-{kind}"] == state
    assert path.exists() is (state == "failed")


def _cut_before_the_end(name: str) -> None:
    if name == "end":
        raise PowerCut


def test_what_a_restart_took_away_waits_for_an_agent_that_enforces_and_can_be_undone(device: Device) -> None:
    path = device.file("one", is_volatile=True)
    device.run(act(device, "A", ActionKind.RADIO, path))
    device.reboot(off_s=5)
    watch(device)

    device.recover()

    assert path.read_text() == "as it was"
    assert device.in_force() == {"A-radio"}
    device.executor.undo("A")
    assert device.in_force() == set()


class _Parts(SimpleNamespace):
    """A service of which only some parts are there."""

    def __getattr__(self, name: str) -> Any:
        return _Parts()
