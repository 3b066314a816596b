# SPDX-License-Identifier: Apache-2.0
"""What takes long is done beside the loop: other events are acted on meanwhile, and nothing else is otherwise."""

import json
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mamplus_host.errors import ActionFailed
from mamplus_host.executor import beside
from mamplus_host.executor.courses import Line
from mamplus_host.executor.shape import Deed, Facts, State
from mamplus_host.policy.actions import ActionRules, Disarm, Name
from mamplus_host.verdicts import ActionKind, Outcome, Verdict

from .acting import Setting
from .test_pipeline import WAIT_S, Acting
from .test_power_cuts import look

SLOW = (ActionKind.QUARANTINE, ActionKind.EVIDENCE, ActionKind.NOTIFY, ActionKind.CONTAINER_LOCK)


class Slow(Setting):
    """Takes as long as the test wants."""

    is_slow = True

    def __init__(self, kind: ActionKind) -> None:
        super().__init__(kind)
        self.is_passing = kind is ActionKind.EVIDENCE
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.happened: list[str] = []
        self.is_next = False  # it was looked at, and is in the hands of the thread now

    def effect(self, facts: Facts) -> str:
        self.is_next = True
        return super().effect(facts)

    def do(self, facts: Facts) -> str:
        self.begun.set()
        self.happened.append(self.kind.value)
        assert self.may_end.wait(WAIT_S)
        return super().do(facts)


class Beside(Acting):
    """A device with a line, whose loop is the test."""

    def __init__(self, directory: Path) -> None:
        self.jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.slow = {kind: Slow(kind) for kind in SLOW}
        self.late: list[Outcome] = []
        super().__init__(directory)
        self.line = Line(self.jobs.put, most=3)
        self.overdue = list[str]()
        self.executor.work_beside(self.line, self.note, self.overdue.append)

    def deeds(self) -> dict[ActionKind, Deed]:
        return {**super().deeds(), **self.slow}

    def answer(self, *names: Name, ttl_s: int = 0) -> None:
        limits: dict[Name, int] = {"quarantine": ttl_s} if ttl_s else {}
        self.rules = ActionRules(confirmed={"exec": names}, ttl_s=limits, disarm=Disarm(programs=1000))

    def loop(self, until: Callable[[], bool]) -> None:
        """Do what the thread hands over, until something is so."""
        while not until():
            self.jobs.get(timeout=WAIT_S)()

    def quarantine(self, *, ttl_s: int = 0) -> None:
        """Have the policy answer a start with it: it is in line then."""
        self.answer("quarantine", ttl_s=ttl_s)
        self.pipeline.act([self.start_of("large")])

    def begin_quarantine(self) -> None:
        """Have one run that does not end."""
        self.quarantine()
        self.await_begun(ActionKind.QUARANTINE)

    def let_end(self) -> None:
        for deed in self.slow.values():
            deed.may_end.set()

    def await_begun(self, kind: ActionKind) -> None:
        """Have the loop go on until a deed of this kind runs."""
        self.loop(lambda: self.slow[kind].is_next)
        assert self.slow[kind].begun.wait(WAIT_S)

    def note(self, outcomes: list[Outcome]) -> None:
        self.late += outcomes
        self.pipeline.note_late(outcomes)

    def end_all(self) -> None:
        self.let_end()
        self.loop(lambda: self.executor.counts["in_line"] == 0)

    def stop(self) -> None:
        self.let_end()
        self.executor.stop()
        self.pipeline.close()
        self.alerts.close()
        self.outbox.close()
        self.close()

    def alerts_told(self) -> list[dict[str, Any]]:
        self.pipeline.tell_all()
        return self.alerts.list()

    def states(self) -> dict[str, str]:
        """What the alert log says of each action, by its kind: last, where it was over later."""
        alerts = self.alerts_told()
        return {one["action"]: one["state"] for part in ("actions", "later") for alert in alerts for one in alert[part]}


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Beside]:
    one = Beside(tmp_path)
    yield one
    one.stop()


def only(device: Beside) -> Path:
    """Return the one file of the device."""
    (path,) = device.files.iterdir()
    return path


def test_events_are_acted_on_while_a_deed_takes_long_and_it_is_told_when_it_is_over(device: Beside) -> None:
    device.begin_quarantine()
    device.answer("kill")

    device.pipeline.take([device.start_of("another")])

    assert [what for what in device.happened if what != "told"] == ["begun", "ended"]
    assert (device.told, look(only(device))) == ((2, 2), ("as it was", 0o640))
    assert device.states() == {"kill": "done", "quarantine": "begun"}
    device.end_all()
    assert device.states() == {"kill": "done", "quarantine": "done"}
    assert look(only(device)) == ("quarantine", 0o400)


def test_a_program_is_ended_after_the_evidence_of_it_was_taken(device: Beside) -> None:
    device.begin_quarantine()
    device.slow[ActionKind.EVIDENCE].may_end.set()
    device.slow[ActionKind.EVIDENCE].happened = device.happened
    device.answer("evidence", "kill")

    device.pipeline.act([device.start_of("listed")])

    assert [what for what in device.happened if what != "told"] == ["evidence", "begun", "ended"]
    assert device.states() == {"quarantine": "begun", "evidence": "done", "kill": "done"}


def test_a_freeze_waits_for_no_evidence_and_what_is_harder_follows_at_once(device: Beside) -> None:
    device.answer("evidence", "freeze", "kill")  # this device cannot freeze

    device.pipeline.act([device.start_of("listed")])

    assert device.states() == {"evidence": "begun", "freeze": "failed", "kill": "done"}


def test_an_alert_is_told_before_what_takes_long_is_over_and_a_repeated_one_gets_its_end_too(device: Beside) -> None:
    device.answer("quarantine")
    first, second = device.start_of("listed"), device.start_of("listed")
    device.pipeline.act([first, msgspec.structs.replace(second, sha256=first.sha256)])
    device.pipeline.tell_all()
    assert device.told == (1, 1)

    device.end_all()

    (alert,) = device.alerts.list()
    assert [one["state"] for one in alert["later"]] == ["begun", "done", "done"]


def test_the_enterprise_hears_once_how_all_that_was_begun_about_an_alert_has_ended(device: Beside) -> None:
    device.answer("quarantine", "notify")
    device.pipeline.take([device.start_of("large")])

    device.end_all()
    device.pipeline.tell_all()

    alert, end = [json.loads(record.body) for record in device.outbox.batch("device", bytes)]
    assert {one["state"] for one in alert["actions"]} == {"begun"}
    assert (end["kind"], end["evidence"]) == ("outcome", {"alert": alert["id"]})
    assert {one["action"]: one["state"] for one in end["actions"]} == {"quarantine": "done", "notify": "done"}


def test_a_person_has_a_place_in_line_where_nobody_else_has_one(device: Beside) -> None:
    device.answer("notify")
    device.pipeline.act(device.starts(4))
    assert device.executor.counts["no_place"] == 1
    device.answer("quarantine")
    device.pipeline.act(device.starts(4))
    assert device.executor.counts["no_place"] == 2

    answer = device.executor.begin(ActionKind.QUARANTINE, {"path": str(device.file("ordered"))})
    device.end_all()

    assert answer.result(0).state == "done"


def test_a_lock_that_is_ordered_does_not_wait_for_what_never_ends(device: Beside) -> None:
    device.begin_quarantine()  # on a dying disk
    device.slow[ActionKind.CONTAINER_LOCK].may_end.set()

    answer = device.executor.begin(ActionKind.CONTAINER_LOCK, {"path": str(device.file("ordered"))})
    device.loop(answer.done)

    assert answer.result().state == "done"
    assert device.executor.counts["in_line"] == 1


def test_what_may_never_end_is_told_once_and_counted(device: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    device.begin_quarantine()  # on a dying disk
    device.executor.expire()
    assert device.overdue == []
    monkeypatch.setattr(beside, "OVERDUE_S", -1.0)

    device.executor.expire()
    device.executor.expire()

    (action,) = device.executor.in_force()
    assert (device.overdue, device.executor.counts["overdue"]) == ([action["id"]], 1)
    device.end_all()
    device.executor.expire()
    assert len(device.overdue) == 1


def test_what_takes_no_time_is_undone_at_once_and_what_is_being_undone_is_left_alone(device: Beside) -> None:
    device.let_end()
    device.answer("refuse", "quarantine", ttl_s=60)
    device.pipeline.act([device.start_of("listed")])
    device.end_all()
    quarantine = device.slow[ActionKind.QUARANTINE]
    quarantine.may_end.clear()
    kinds = {one["action"] for one in device.executor.in_force()}
    (name,) = {one["alert"] for one in device.executor.in_force()}

    device.executor.begin_undo(name)

    assert kinds == {"refuse", "quarantine"}
    assert [one["action"] for one in device.executor.in_force()] == ["quarantine"]
    device.clock.pass_s(61)
    assert (device.executor.expire(), device.executor.resolve_held(lambda _: Verdict.ALLOW)) == ([], [])
    device.end_all()
    assert [one.action for one in device.late] == [ActionKind.QUARANTINE]


def test_a_slow_undo_that_fails_is_tried_less_and_less_often(device: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    device.quarantine(ttl_s=60)
    device.end_all()
    monkeypatch.setattr(device.slow[ActionKind.QUARANTINE], "verify", lambda _facts: State.BETWEEN)
    for wait_s in (61, 61, 121):
        device.late.clear()
        device.clock.pass_s(wait_s)
        device.executor.expire()
        device.end_all()
        assert [one.state for one in device.late] == ["failed"]

    device.late.clear()
    device.clock.pass_s(121)
    device.executor.expire()

    assert (device.executor.counts["in_line"], device.late) == (0, [])


def test_telling_a_person_holds_nothing_up(device: Beside) -> None:
    device.answer("notify", "kill")

    device.pipeline.act([device.start_of("listed")])

    assert "ended" in device.happened


def test_without_a_place_in_line_what_takes_long_has_failed_and_is_counted_and_the_rest_is_done(device: Beside) -> None:
    device.answer("quarantine")
    device.pipeline.act(device.starts(3))
    device.answer("quarantine", "refuse")

    device.pipeline.act([device.start_of("fourth")])

    told = sorted((one["action"], one["state"]) for alert in device.alerts_told() for one in alert["actions"])
    assert told == [*[("quarantine", "begun")] * 3, ("quarantine", "failed"), ("refuse", "done")]
    assert (device.executor.counts["no_place"], device.executor.counts["in_line"]) == (1, 3)


def test_what_only_tells_takes_no_place_of_what_acts(device: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "MAX_TELLING", 2)
    device.answer("evidence")
    device.pipeline.act(device.starts(4))
    assert device.executor.counts["no_place"] == 2

    device.answer("quarantine")
    device.pipeline.act(device.starts(3))

    assert device.executor.counts["no_place"] == 2


def test_a_hundred_actions_that_take_long_find_their_place_and_are_all_done(tmp_path: Path) -> None:
    device = Beside(tmp_path)
    device.line = Line(device.jobs.put)
    device.executor.work_beside(device.line, device.note)
    device.answer("quarantine")

    device.pipeline.act(device.starts(100))
    device.end_all()

    assert (len(device.late), {one.state for one in device.late}) == (100, {"done"})
    device.stop()


def test_all_that_is_written_down_is_written_by_the_loop(device: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    writers = set[str]()
    append = device.journal.append_many

    def noted(*arguments: object, **more: object) -> object:
        writers.add(threading.current_thread().name)
        return append(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(device.journal, "append_many", noted)
    device.let_end()
    device.quarantine()
    device.end_all()

    assert writers == {threading.current_thread().name}


def test_what_waits_is_not_begun_when_the_list_allows_it_meanwhile(device: Beside) -> None:
    device.begin_quarantine()
    device.answer("evidence")
    second = device.start_of("allowed by now")
    device.pipeline.act([second])

    device.executor.resolve_held(lambda one: Verdict.ALLOW if one.value == second.sha256 else Verdict.NOTHING)
    device.end_all()

    assert {one.action: one.state for one in device.late} == {"quarantine": "done"}
    assert (device.files / "allowed by now").exists()


def test_what_runs_is_undone_when_it_is_over_and_once(device: Beside) -> None:
    device.begin_quarantine()
    (entry,) = device.executor.in_force()

    answer = device.executor.begin_undo(entry["id"])
    with pytest.raises(ActionFailed, match="is being undone already"):
        device.executor.begin_undo(entry["id"])
    device.let_end()
    device.loop(answer.done)

    assert [one.state for one in answer.result()] == ["undone"]
    assert look(only(device)) == ("as it was", 0o640)


def test_a_time_limit_ends_what_takes_long_without_holding_up_the_loop(device: Beside) -> None:
    device.let_end()
    device.quarantine(ttl_s=60)
    device.end_all()
    device.late.clear()
    device.clock.pass_s(61)

    assert device.executor.expire() == []
    device.loop(lambda: bool(device.late))

    assert [one.state for one in device.late] == ["undone"]
    assert look(only(device)) == ("as it was", 0o640)


def test_what_waits_is_forgotten_and_what_was_done_before_it_is_undone_by_one_word(device: Beside) -> None:
    device.slow[ActionKind.EVIDENCE].may_end.set()
    device.answer("evidence", "quarantine")
    device.pipeline.act([device.start_of("listed")])
    device.loop(lambda: device.executor.counts["in_line"] == 1)  # the evidence is taken, and holds nothing
    (name,) = {action.partition("-")[0] for action in device.says()}

    answer = device.executor.begin_undo(name)
    device.loop(answer.done)

    assert {one.action: one.state for one in answer.result()} == {"quarantine": "undone", "evidence": "undone"}
    assert look(only(device)) == ("as it was", 0o640)
