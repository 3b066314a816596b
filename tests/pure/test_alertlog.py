# SPDX-License-Identifier: Apache-2.0
"""Alerts that a full disk keeps out are shown all the same, and written when there is room."""

import sqlite3
from pathlib import Path

import pytest

from mamplus_host.executor.alertlog import MAX_OF_REPEATS, AlertLog
from mamplus_host.verdicts import ActionKind, Decision, Escalation, Finding, Outcome, Severity


def alert(number: int) -> Escalation:
    return Escalation(
        id=f"01ALERT{number:03}", kind="tamper", finding=Finding.CONFIRMED, severity=Severity.HIGH, at=float(number),
        boot_ns=1, generation=0, rule="tamper", summary="x" * 5000,
    )  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> AlertLog:
    return AlertLog(tmp_path / "alerts.sqlite", max_unwritten=3)


def fill_disk(log: AlertLog, *, is_full: bool) -> None:
    """As sqlite meets it: no page more than the file has."""
    log._db.execute(f"PRAGMA max_page_count = {1 if is_full else 100_000}")


def ids(log: AlertLog) -> list[str]:
    return [one["id"] for one in log.list()]


def test_what_found_no_room_is_shown_newest_first_and_found(log: AlertLog) -> None:
    log.note(alert(1))
    fill_disk(log, is_full=True)
    for number in (2, 3):
        log.note(alert(number))
    log.note_repeat(alert(3).id)

    assert ids(log) == [alert(3).id, alert(2).id, alert(1).id]
    assert log.get("003")["repeats"] == 1
    assert log.lost == 0


def test_it_is_written_when_there_is_room(log: AlertLog, tmp_path: Path) -> None:
    fill_disk(log, is_full=True)
    log.note(alert(1))
    fill_disk(log, is_full=False)

    log.flush()

    with sqlite3.connect(tmp_path / "alerts.sqlite") as other:
        assert other.execute("SELECT id FROM alerts").fetchall() == [(alert(1).id,)]
    assert ids(log) == [alert(1).id]


def test_more_than_may_wait_are_lost_oldest_first_and_counted(log: AlertLog) -> None:
    fill_disk(log, is_full=True)

    for number in range(5):
        log.note(alert(number))

    assert ids(log) == [alert(number).id for number in (4, 3, 2)]
    assert log.lost == 2


def decided(number: int) -> Decision:
    return Decision(id=alert(number).id, finding=Finding.CONFIRMED, event=None, rule="ble", reason="")  # type: ignore


def test_what_was_put_is_shown_at_once_and_written_with_the_others(log: AlertLog, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "alerts.sqlite") as other:
        for number in (1, 2):
            log.put(decided(number), alert(number))
        assert (ids(log), other.execute("SELECT id FROM alerts").fetchall()) == ([alert(2).id, alert(1).id], [])

        log.flush()

        assert other.execute("SELECT id FROM alerts").fetchall() == [(alert(1).id,), (alert(2).id,)]


def test_what_is_done_about_an_alert_that_was_just_put_belongs_to_it(log: AlertLog) -> None:
    log.put(decided(1), alert(1))

    log.note_outcomes([Outcome(decision_id=alert(1).id, action=ActionKind.KILL, state="done")])

    assert ([one["state"] for one in log.get("001")["later"]], log.lost) == (["done"], 0)


def test_above_its_bound_the_oldest_go_also_after_a_restart(tmp_path: Path) -> None:
    for numbers in (range(4), range(4, 6)):
        log = AlertLog(tmp_path / "alerts.sqlite", max_alerts=3)
        for number in numbers:
            log.put(decided(number), alert(number))
        log.close()

    assert ids(AlertLog(tmp_path / "alerts.sqlite")) == [alert(number).id for number in (5, 4, 3)]


def test_what_was_done_about_an_alert_that_waits_is_counted_as_lost(log: AlertLog) -> None:
    fill_disk(log, is_full=True)
    log.note(alert(1))

    log.note_outcomes([Outcome(decision_id=alert(1).id, action=ActionKind.KILL, state="done")])

    assert log.lost == 1


def test_what_is_done_about_repetitions_does_not_grow_without_end(log: AlertLog) -> None:
    log.note(alert(1))
    repeated = [
        Outcome(decision_id=f"R{n}", action=ActionKind.NOTIFY, state="failed", detail="") for n in range(MAX_OF_REPEATS)
    ]

    for _ in range(3):
        log.note_outcomes(repeated, under=alert(1).id)
    log.note_outcomes([Outcome(decision_id=alert(1).id, action=ActionKind.FREEZE, state="undone", detail="")])

    later = log.get(alert(1).id)["later"]
    assert len(later) == MAX_OF_REPEATS + 1
    assert later[-1]["state"] == "undone", "what is done about the alert itself is always told"
    assert log.unshown == 2 * MAX_OF_REPEATS


def test_what_belongs_to_no_alert_here_is_counted(log: AlertLog) -> None:
    log.note(alert(1))

    log.note_outcomes([Outcome(decision_id=alert(2).id, action=ActionKind.KILL, state="done")])
    log.note_outcomes([Outcome(decision_id="R1", action=ActionKind.KILL, state="done")], under=alert(2).id)
    log.note_repeat(alert(2).id)

    assert (log.unshown, log.lost) == (3, 0)


def test_a_damaged_file_is_put_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    (tmp_path / "alerts.sqlite").write_bytes(b"no database" * 1000)

    log = AlertLog(tmp_path / "alerts.sqlite")

    log.note(alert(1))
    assert ids(log) == [alert(1).id]
    assert (tmp_path / "alerts.sqlite.damaged").read_bytes().startswith(b"no database")
