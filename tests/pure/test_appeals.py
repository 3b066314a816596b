# SPDX-License-Identifier: Apache-2.0
"""Everybody may ask for an exception, and nobody can flood the enterprise, speak for others, or learn of alerts."""

from typing import Any

import pytest

from mamplus_host import appeals
from mamplus_host.appeals import Appeals
from mamplus_host.control.protocol import Request
from mamplus_host.errors import ControlMalformed, NotPossible
from mamplus_host.verdicts import Escalation

ALERT = "01JDAAAAAAAAAAAAAAAAAAAAAA"


class Hands:
    """A clock that is moved by hand."""

    now_ns = 10**9

    def boot_ns(self) -> int:
        return self.now_ns

    def wall_s(self) -> float:
        return 1e9


class Who:
    """As much of a peer as is asked for."""

    def __init__(self, uid: int) -> None:
        self.uid = uid


class Desk:
    """The appeals of one device, and what the enterprise was told."""

    def __init__(self) -> None:
        self.clock, self.told = Hands(), list[Escalation]()
        self.appeals = Appeals(self.clock, self.alert, self.told.append)

    def alert(self, name: str) -> dict[str, Any]:
        if not ALERT.startswith(name):
            raise NotPossible(f"no alert has the id {name!r}")
        return {"id": ALERT, "generation": 7, "summary": "'tool' was stopped"}

    def ask(self, uid: int = 1000, alert: str = ALERT, text: str = "I need it", command: str = "ask") -> str:
        peer: Any = Who(uid)
        return self.appeals(Request(command, {"alert": alert, "text": text}), peer)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_words_reach_the_enterprise_with_who_said_them_and_about_what(desk: Desk) -> None:
    said = desk.ask(text="for the\nstock-taking\x1b[2J")

    (told,) = desk.told
    assert (told.kind, told.generation) == ("ask", 7)
    assert told.evidence == {"alert": ALERT, "uid": 1000, "text": "for the stock-taking [2J"}
    assert "user 1000 asks for an exception to \"'tool' was stopped\"" in told.summary
    assert "tool" not in said, "the answer tells of the alert"


def test_one_user_asks_five_times_an_hour_and_does_not_use_up_the_others(desk: Desk) -> None:
    for _ in range(appeals.EACH):
        desk.ask()
    with pytest.raises(NotPossible, match="in 60 minutes"):
        desk.ask()
    desk.ask(uid=1001)
    desk.clock.now_ns += appeals.WINDOW_NS
    desk.ask()
    assert len(desk.told) == appeals.EACH + 2
    assert desk.appeals.refused == 1


def test_all_users_together_are_bounded(desk: Desk) -> None:
    for uid in range(appeals.ALL):
        desk.ask(uid=uid)
    with pytest.raises(NotPossible, match="50 times"):
        desk.ask(uid=9999)


def test_guessing_an_id_counts_too(desk: Desk) -> None:
    for _ in range(appeals.EACH):
        with pytest.raises(NotPossible):
            desk.ask(alert="01JDBBBBBB")
    with pytest.raises(NotPossible, match="try again"):
        desk.ask()
    with pytest.raises(NotPossible, match="too short"):
        desk.ask(uid=5, alert="01JD")
    assert desk.told == []


@pytest.mark.parametrize("text", ["", " \n ", "x" * 1001])
def test_no_words_and_too_many_are_refused(desk: Desk, text: str) -> None:
    with pytest.raises(NotPossible, match="want 1 to 1000"):
        desk.ask(text=text)


def test_nothing_else_can_be_asked_there(desk: Desk) -> None:
    for command in ("status", "undo", "act", "alerts"):
        with pytest.raises(ControlMalformed):
            desk.ask(command=command)
    peer: Any = Who(0)
    with pytest.raises(ControlMalformed):
        desk.appeals(Request("ask", {"alert": ALERT}), peer)


def test_users_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appeals, "MAX_USERS", 3)
    monkeypatch.setattr(appeals, "ALL", 10_000)
    many = Desk()
    for uid in range(100):
        many.ask(uid=uid)
    assert len(many.appeals._asked) <= 4


@pytest.mark.parametrize("pattern", ["%%%%%%%%", "01JD____", "01JD%AAAAAAAA"])
def test_a_pattern_is_no_id(pattern: str) -> None:
    """The alerts are looked up by the beginning or end of their ids, and a pattern fits all of them."""
    desk = Desk()

    with pytest.raises(NotPossible, match="no id"):
        desk.ask(alert=pattern)

    assert desk.told == []
