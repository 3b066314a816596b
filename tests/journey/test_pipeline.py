# SPDX-License-Identifier: Apache-2.0
"""From events to what is done and told: acting is urgent, telling is for afterwards, and nothing is lost between."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mamplus_host import pipeline as stages
from mamplus_host.actionrules import ActionRules, Disarm
from mamplus_host.events import Exec, File, Head
from mamplus_host.executor.alertlog import AlertLog
from mamplus_host.executor.shape import Deed, Facts
from mamplus_host.executor.steps import hooked
from mamplus_host.outbox.store import Outbox
from mamplus_host.pipeline import Pipeline
from mamplus_host.verdicts import ActionKind, Verdict

from .acting import Device, Emptying

MANY = 40


class Ending(Emptying):
    """Ends by itself once it was begun, as a killed process does."""

    def __init__(self, happened: list[str]) -> None:
        self._happened = happened

    def hasten(self, _facts: Facts) -> None:
        self._happened.append("begun")

    def do(self, facts: Facts) -> str:
        self._happened.append("ended")
        return super().do(facts)


class Acting(Device):
    """A device with all that is behind its executor."""

    def __init__(self, directory: Path) -> None:
        self.happened: list[str] = []
        super().__init__(directory)
        self.rules = ActionRules(disarm=Disarm(programs=1000))
        self.outbox = Outbox(self.config.state / "outbox.sqlite", max_bytes=8 << 20)
        self.alerts = AlertLog(self.config.state / "alerts.sqlite")
        self.pipeline = Pipeline(
            config=self.config, clock=self.clock, executor=self.executor, outbox=self.outbox, alerts=self.alerts,
            guarded=lambda: frozenset({os.getpid()}), rules=lambda: self.rules,
            on_escalation=lambda: self.happened.append("told"), on_restored=lambda _path: None,
        )  # fmt: skip

    def deeds(self) -> dict[ActionKind, Deed]:
        return {**super().deeds(), ActionKind.KILL: Ending(self.happened)}

    def start_of(self, name: str) -> Exec:
        """Return the event of a listed program's start."""
        number = len(list(self.files.iterdir())) + 1
        head = Head(boot_ns=1, cgroup_id=1, generation=1, tgid=500 + number, ppid=1, uid=0, slot=0, flags=0,
                    verdict=Verdict.BLOCK, comm=name)  # fmt: skip
        file = File(dev=1, ino=number, size=1, ctime_s=1, ctime_ns=1)
        return Exec(head=head, file=file, sha256=f"{number:064x}", path=str(self.file(name)))

    def starts(self, count: int) -> list[Exec]:
        return [self.start_of(f"listed{number}") for number in range(count)]

    @property
    def told(self) -> tuple[int, int]:
        """How many alerts the log has, and how many the enterprise will get."""
        return len(self.alerts.list()), self.outbox.counters().put


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Acting]:
    one = Acting(tmp_path)
    yield one
    one.alerts.close()
    one.outbox.close()
    one.close()


def test_everything_is_done_before_anything_is_told_and_then_all_of_it_is(device: Acting) -> None:
    device.pipeline.act(device.starts(3))
    assert (list(device.files.iterdir()), device.told) == ([], (0, 0))

    device.pipeline.tell_all()

    assert device.told == (3, 3)
    assert [[one["state"] for one in alert["actions"]] for alert in device.alerts.list()] == [["done"]] * 3


def test_what_waits_to_be_told_is_bounded_and_none_of_it_is_lost(
    device: Acting, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MAX_UNTOLD": 8, "MAX_TOGETHER": 4, "TELL_AT_ONCE": 1}.items():
        monkeypatch.setattr(stages, name, value)

    device.pipeline.act(device.starts(MANY))
    assert device.pipeline.untold <= 8

    device.pipeline.tell_all()
    assert device.told == (MANY, MANY)


def test_earlier_alerts_are_told_while_what_was_begun_ends(device: Acting) -> None:
    device.pipeline.act(device.starts(1))
    device.happened.clear()

    device.pipeline.act([device.start_of("another")])

    assert device.happened == ["begun", "told", "ended"]


def failing(*_arguments: object) -> None:
    raise RuntimeError("no alert log")


def test_telling_that_fails_keeps_nothing_from_being_done(device: Acting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "MAX_TOGETHER", 4)
    monkeypatch.setattr(device.alerts, "flush", failing)

    device.pipeline.act(device.starts(MANY))

    assert list(device.files.iterdir()) == []
    assert device.pipeline.counts["faults"] > 0


def test_only_what_was_looked_at_a_moment_ago_is_begun_before_it_is_looked_at_again(device: Acting) -> None:
    """What a crash interrupted may be something else by now, that nothing may act on."""
    assert device.run(lambda: device.pipeline.act(device.starts(1)), cut_at=at_step(device, "do"))
    device.happened.clear()

    device.start()
    device.recover()

    assert device.happened == ["ended"]


def at_step(device: Acting, name: str) -> int:
    """Return which step of acting on one start has this name."""
    seen = list[str]()
    with hooked(seen.append):
        device.pipeline.act([device.start_of("before")])
    return seen.index(name) + 1
