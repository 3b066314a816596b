# SPDX-License-Identifier: Apache-2.0
"""From events to what is done and told: acting is urgent, telling is for afterwards, and nothing is lost between."""

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from mamplus_host import pipeline as stages
from mamplus_host.events import Exec, File, Head
from mamplus_host.executor import courses
from mamplus_host.executor.alertlog import AlertLog
from mamplus_host.executor.shape import Deed, Facts
from mamplus_host.executor.steps import hooked
from mamplus_host.outbox.store import Outbox
from mamplus_host.pipeline import Pipeline
from mamplus_host.policy.actions import ActionRules, Disarm
from mamplus_host.verdicts import ActionKind, Escalation, Verdict

from .acting import Device, Emptying

MANY = 40
WAIT_S = 20  # for a thread that only has to be scheduled


class Ending(Emptying):
    """Ends by itself once it was begun, as a killed process does: when `over` is readable."""

    def __init__(self, happened: list[str]) -> None:
        self._happened, self.over = happened, -1

    def hasten(self, _facts: Facts) -> int:
        self._happened.append("begun")
        return -1 if self.over < 0 else os.dup(self.over)

    def do(self, facts: Facts) -> str:
        self._happened.append("ended")
        return super().do(facts)


class Acting(Device):
    """A device with all that is behind its executor."""

    def __init__(self, directory: Path) -> None:
        self.happened: list[str] = []
        self.ending = Ending(self.happened)
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
        return {**super().deeds(), ActionKind.KILL: self.ending}

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
    one.pipeline.close()
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


def test_others_are_acted_on_while_what_was_begun_ends_and_it_is_told_when_it_has(device: Acting) -> None:
    device.ending.over = os.eventfd(0)
    for name in ("first", "second"):
        device.pipeline.act([device.start_of(name)])
    assert (device.happened, device.pipeline.untold) == (["begun", "begun"], 0)

    os.eventfd_write(device.ending.over, 1)
    device.executor.collect()

    assert (device.happened[2:], device.pipeline.untold) == (["ended", "ended"], 2)
    device.pipeline.tell_all()
    assert device.told == (2, 2)
    os.close(device.ending.over)


def test_what_was_begun_about_a_thing_is_over_before_more_is_done_about_it(
    device: Acting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courses, "END_S", 0.5)
    device.ending.over = os.eventfd(0)
    first = device.start_of("listed")
    device.pipeline.act([first])
    device.pipeline.act([msgspec.structs.replace(first, sha256="f" * 64)])

    assert device.happened == ["begun", "ended"]  # and then it was gone
    os.close(device.ending.over)


def test_acting_waits_for_no_sync_of_the_outbox(device: Acting, monkeypatch: pytest.MonkeyPatch) -> None:
    may_store, store = threading.Event(), device.outbox.put_many

    def slow(escalations: Sequence[Escalation]) -> list[int]:
        assert may_store.wait(WAIT_S)
        return store(escalations)

    monkeypatch.setattr(device.outbox, "put_many", slow)
    for name in ("first", "second"):
        device.pipeline.act([device.start_of(name)])
        device.pipeline.tell_some()
    assert (list(device.files.iterdir()), device.pipeline.untold, device.told) == ([], 0, (2, 0))

    may_store.set()
    device.pipeline.tell_all()

    assert device.told == (2, 2)


def failing(*_arguments: object) -> None:
    raise RuntimeError("no alert log")


def test_telling_that_fails_keeps_nothing_from_being_done(device: Acting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.alerts, "flush", failing)

    device.pipeline.act(device.starts(1))
    device.pipeline.tell_some()
    device.pipeline.act(device.starts(1))

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
