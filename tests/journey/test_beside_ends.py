# SPDX-License-Identifier: Apache-2.0
"""What is done beside the loop when the agent stops or the power goes: ended, told, or taken up by the next."""

import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mamplus_host import systemd
from mamplus_host.executor import courses
from mamplus_host.executor.alertlog import AlertLog
from mamplus_host.executor.courses import Course, Job, Line
from mamplus_host.service import Service
from mamplus_host.verdicts import ActionKind

from .test_beside import Beside, device, only
from .test_power_cuts import look, settle

__all__ = ["device"]  # the fixture


def test_an_agent_that_stops_waits_for_a_while_and_beats(device: Beside) -> None:
    device.begin_quarantine()
    beats = list[int]()

    device.line.stop(lambda: beats.append(1), within_s=2)

    assert len(beats) >= 2
    assert len(device.journal.open_intents()) == 1


def test_an_agent_that_stops_ends_what_runs_and_says_what_was_not_begun(device: Beside) -> None:
    device.begin_quarantine()
    device.answer("evidence")
    device.pipeline.act([device.start_of("second")])

    device.let_end()
    device.executor.stop()

    assert device.states() == {"quarantine": "done", "evidence": "failed"}
    assert device.journal.open_intents() == []


class Quiet:
    """A part that has nothing to do."""

    def __getattr__(self, _name: str) -> "Quiet":
        return self

    def __call__(self, *_words: object) -> None:
        pass


def test_a_service_that_stops_tells_first_then_waits_for_what_runs_and_closes_last(tmp_path: Path) -> None:
    device = Beside(tmp_path)
    device.begin_quarantine()
    device.answer("kill")
    untold = list[int]()

    def sent_away() -> None:
        device.pipeline.act([device.start_of("who sent it away")])

    def stop() -> None:
        untold.append(device.pipeline.untold)
        device.let_end()
        device.executor.stop()

    parts = {name: Quiet() for name in ("tamper", "guarding", "network", "control", "asks", "protecting", "clock")}
    locks = {name: Quiet() for name in ("pins_lock", "lock")}
    service = SimpleNamespace(
        **parts, **locks, loop=SimpleNamespace(alone=lambda job: job(), drain=sent_away), uplink=None,
        pipeline=device.pipeline, executor=SimpleNamespace(stop=stop), outbox=device.outbox, alerts=device.alerts,
        journal=device.journal, vault=device.vault,
    )  # fmt: skip

    Service.stop(cast(Any, service))

    assert untold == [0]
    again = AlertLog(device.config.state / "alerts.sqlite")
    told = {one["action"]: one["state"] for alert in again.list() for one in alert["actions"] + alert["later"]}
    assert told == {"kill": "done", "quarantine": "done"}
    again.close()


def test_the_thread_is_no_sign_of_life_of_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemds:
        systemds.bind(str(tmp_path / "notify"))
        systemds.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setattr(systemd, "_said_s", [float("-inf")])
        thread = threading.Thread(target=systemd.watchdog)
        thread.start()
        thread.join()
        with pytest.raises(BlockingIOError):
            systemds.recv(1000)

        systemd.watchdog()

        assert systemds.recv(1000).startswith(b"WATCHDOG=1")


class ByHand(Line):
    """Does in the loop what a thread would do, at its turn: a power cut ends both."""

    def _hand_over(self, course: Course, job: Job) -> None:
        self._post(lambda: self._go_on(courses._done(course, job)))


def settle_in_line(device: Beside) -> None:
    """The next agent starts, and takes up what there is as the service does."""
    device.start()
    device.jobs = queue.SimpleQueue()  # those of the last one went with the power
    line = ByHand(device.jobs.put)
    device.executor.work_beside(line, device.note)
    device.executor.recover()
    device.let_end()
    device.loop(lambda: len(line) == 0)
    assert device.is_chained()
    assert device.journal.open_intents() == []


@pytest.mark.parametrize("is_undone", [False, True])
@pytest.mark.parametrize("settle", [settle, settle_in_line])
def test_a_cut_after_any_step_leaves_old_or_new_and_the_journal_says_which(
    tmp_path: Path, is_undone: bool, settle: Callable[[Beside], None]
) -> None:
    cut_at, is_cut = 0, True
    while is_cut:
        cut_at += 1
        device = Beside(tmp_path / f"{is_undone}{cut_at}")
        device.let_end()
        device.executor.work_beside(ByHand(device.jobs.put), device.note)
        device.answer("quarantine")
        event = device.start_of("large")

        def act() -> None:
            device.pipeline.act([event])  # noqa: B023 - run before the next turn
            device.end_all()  # noqa: B023
            if is_undone:
                device.loop(device.executor.begin_undo(device.executor.in_force()[0]["id"]).done)  # noqa: B023

        is_cut = device.run(act, cut_at=cut_at)
        if is_cut:
            settle(device)

        said = set(device.says().values()) or {"none"}
        states = [one.data["state"] for one in device.journal.records() if one.kind == "outcome"]
        assert said <= {"done", "undone", "none"}
        assert "undone" not in states[:-1]
        assert look(only(device)) == (("quarantine", 0o400) if said == {"done"} else ("as it was", 0o640))
        assert len(device.in_force()) == (said == {"done"})
        device.alerts.close()
        device.outbox.close()
        device.close()
    assert cut_at > 6


def test_what_was_interrupted_and_takes_long_is_finished_in_line_by_the_next_agent(device: Beside) -> None:
    device.executor.work_beside(ByHand(device.jobs.put), device.note)
    device.answer("quarantine")
    device.pipeline.act([device.start_of("large")])
    device.loop(lambda: device.slow[ActionKind.QUARANTINE].is_next)
    device.jobs = queue.SimpleQueue()  # the power goes before it is done
    device.start()
    device.executor.work_beside(Line(device.jobs.put), device.note)

    assert device.executor.recover() == []

    assert look(only(device)) == ("as it was", 0o640)
    device.end_all()
    assert [one.state for one in device.late] == ["done"]
    assert (look(only(device)), device.journal.open_intents()) == (("quarantine", 0o400), [])


def test_what_a_restart_took_away_and_takes_long_is_done_again_in_line(device: Beside) -> None:
    path = device.file("one", is_volatile=True)
    device.let_end()
    device.executor.begin(ActionKind.QUARANTINE, {"path": str(path)})
    device.end_all()
    device.slow[ActionKind.QUARANTINE].may_end.clear()
    device.reboot(off_s=60)
    device.start()
    device.executor.work_beside(Line(device.jobs.put), device.note)

    assert device.executor.recover() == []

    assert look(path) == ("as it was", 0o640)
    device.let_end()
    device.loop(lambda: bool(device.late))
    assert ([one.state for one in device.late], look(path)) == (["done"], ("quarantine", 0o400))
