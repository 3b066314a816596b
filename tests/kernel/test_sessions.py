# SPDX-License-Identifier: Apache-2.0
"""People at the device are told and locked out through real D-Bus daemons and terminals; logind is stood in for."""

import contextlib
import json
import os
import pty
import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mamplus_host.clock import SystemClock
from mamplus_host.errors import ActionFailed
from mamplus_host.executor.actions import notify
from mamplus_host.executor.actions.lock import Lock
from mamplus_host.executor.actions.notify import DESKTOP, Notify
from mamplus_host.executor.session import bus, sessions
from mamplus_host.executor.shape import State
from tests.kernel.buses import Bus, Login
from tests.kernel.cut import each_cut

pytestmark = pytest.mark.kernel
ID, NOBODY = "01JD0000000000000000000000-lock", 65534
TARGET: dict[str, Any] = {"reason": "the program 'x' is on the company's list", "alert": "01JDALERT"}


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Login]:
    tmp_path.chmod(0o755)
    made = Login(tmp_path)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", made.address)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def open_way() -> Iterator[Path]:
    """A directory that other users reach, for their buses."""
    place = Path("/run") / f"mamplus-test-{os.getpid()}"
    place.mkdir(mode=0o755)
    yield place
    for path in sorted(place.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    place.rmdir()


@pytest.fixture
def desktop(open_way: Path) -> Iterator[tuple[Bus, Path]]:
    """The session bus of user nobody, with a notification daemon that logs what it is told."""
    home = open_way / str(NOBODY)
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    made, log = Bus(home / "bus", uid=NOBODY), home / "told"
    try:
        made.mock("notification_daemon", DESKTOP, log)
        yield made, log
    finally:
        made.close()


@pytest.fixture
def terminal() -> Iterator[tuple[str, Callable[[], str]]]:
    """A terminal's name below /dev, and what was written there."""
    ours, theirs = pty.openpty()

    def shown() -> str:
        said = b""
        while select.select([ours], [], [], 0.2)[0]:
            said += os.read(ours, 65536)
        return said.decode()

    yield os.ttyname(theirs).removeprefix("/dev/"), shown
    os.close(ours)
    os.close(theirs)


def test_all_graphical_sessions_are_locked_and_verify_asks_their_lockers(login: Login) -> None:
    login.sit_down("1", 1000, "ada")
    login.sit_down("2", 1001, "bob", kind="x11")
    login.sit_down("3", 1000, "ada", kind="tty", tty="tty3")
    deed = Lock()
    facts = deed.prepare(ID, {})
    assert deed.verify(facts) is State.UNDONE

    words = deed.do(facts)

    assert (login.is_locked("1"), login.is_locked("2"), login.is_locked("3")) == (True, True, False)
    assert deed.verify(facts) is State.DONE
    assert "session 3 of 'ada' (tty) has none" in words
    login.change("2", LockedHint=["b", False])  # bob is back, and knows his password
    assert deed.verify(facts) is State.BETWEEN
    with pytest.raises(ActionFailed, match="password"):
        deed.undo(facts)


def test_a_power_cut_between_two_sessions_is_finished_by_doing_it_again(login: Login) -> None:
    login.sit_down("1", 1000, "ada")
    login.sit_down("2", 1001, "bob")
    deed = Lock()
    facts = deed.prepare(ID, {})

    def ready() -> Callable[[], object]:
        for one in ("1", "2"):
            login.change(one, LockedHint=["b", False])
        return lambda: deed.do(facts)

    cuts = []
    for at in each_cut(ready):
        cuts.append(deed.verify(facts))
        deed.do(facts)
        assert deed.verify(facts) is State.DONE, f"after a cut at step {at}"
    assert cuts == [State.UNDONE, State.BETWEEN]


def test_a_locker_that_does_not_lock_is_told_and_not_believed(login: Login) -> None:
    login.sit_down("1", 1000, "ada")
    arguments = ("org.freedesktop.login1.Manager", "LockSession", "s", "", "")
    login.ask(bus.Call("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.DBus.Mock", "AddMethod",
                       "sssss", arguments))  # fmt: skip
    deed = Lock()
    facts = deed.prepare(ID, {})

    assert "has not said that it is locked" in deed.do(facts)
    assert deed.verify(facts) is State.UNDONE


def test_locking_one_users_sessions_leaves_the_others_and_nobody_is_no_session(login: Login) -> None:
    login.sit_down("1", 1000, "ada")
    login.sit_down("2", 1001, "bob")
    Lock().do(Lock().prepare(ID, {"uid": 1001}))
    assert (login.is_locked("1"), login.is_locked("2")) == (False, True)
    with pytest.raises(ActionFailed, match="nobody is logged in"):
        Lock().prepare(ID, {"uid": 4711})


def test_without_a_bus_locking_fails_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus")
    with pytest.raises(ActionFailed, match="no D-Bus"):
        Lock().prepare(ID, {})


def test_the_user_reads_the_reason_and_the_way_to_an_exception_on_the_desktop(
    login: Login, desktop: tuple[Bus, Path], tmp_path: Path
) -> None:
    login.sit_down("1", NOBODY, "nobody")
    home, log = desktop
    deed = Notify(tmp_path / "notices", SystemClock(), runtime=home.socket.parent.parent)
    facts = deed.prepare(ID, {**TARGET, "message": "Ask <b>Eve</b>"})
    assert deed.verify(facts) is State.UNDONE

    words = deed.do(facts)

    told = log.read_text()
    assert "the company" in told
    assert "mamplus ask 01JDALERT" in told
    assert "Ask &lt;b&gt;Eve&lt;/b&gt;" in told  # no markup of others
    assert "on the desktop" in words
    assert deed.verify(facts) is State.DONE
    deed.do(facts)
    assert log.read_text() == told, "said twice"
    with pytest.raises(ActionFailed, match="unsaid"):
        deed.undo(facts)


def test_without_a_notification_daemon_the_words_are_on_the_terminal(
    login: Login, terminal: tuple[str, Callable[[], str]], tmp_path: Path
) -> None:
    tty, shown = terminal
    login.sit_down("7", 1000, "ada", kind="tty", tty=tty)
    deed = Notify(tmp_path / "notices", SystemClock(), runtime=tmp_path)

    words = deed.do(deed.prepare(ID, {**TARGET, "reason": "bad\x1b[2Jtool " + "x" * 5000}))

    said = shown()
    assert "bad?[2Jtool" in said, "a terminal's commands must not come from a reason"
    assert len(said) < 1200
    assert "mamplus ask 01JDALERT" in said
    assert "on the terminal" in words


def test_without_logind_terminals_are_found_by_utmp(
    terminal: tuple[str, Callable[[], str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tty, shown = terminal
    record = struct.pack("<h2xi32s4s32s256s", 7, 1, tty.encode(), b"7", b"nobody", b"").ljust(384, b"\0")
    (tmp_path / "utmp").write_bytes(bytes(384) + record + b"torn")
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus")
    monkeypatch.setattr(notify, "terminals", lambda: sessions.terminals(tmp_path / "utmp"))
    deed = Notify(tmp_path / "notices", SystemClock())

    deed.do(deed.prepare(ID, TARGET))

    assert "the company" in shown()
    assert [one.uid for one in sessions.terminals(tmp_path / "utmp")] == [NOBODY]


def test_a_terminal_that_nobody_reads_is_not_waited_for(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    tty = os.ttyname(theirs)
    os.set_blocking(theirs, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(theirs, bytes(4096)):
            pass
    assert not sessions.say(tty.removeprefix("/dev/"), "words")
    os.close(ours)
    os.close(theirs)
    (tmp_path / "file").write_text("")
    assert not sessions.say("file", "words", root=tmp_path)
    assert not sessions.say("../etc/passwd", "words")


def test_a_users_bus_that_never_answers_costs_seconds_and_the_terminal_is_used(
    login: Login, terminal: tuple[str, Callable[[], str]], open_way: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(notify, "DESKTOP_S", 3.0)
    home = open_way / str(NOBODY)
    home.mkdir()
    deaf = socket.socket(socket.AF_UNIX)
    deaf.bind(str(home / "bus"))
    (home / "bus").chmod(0o777)
    deaf.listen(1)
    tty, shown = terminal
    login.sit_down("1", NOBODY, "nobody", tty=tty)
    deed = Notify(tmp_path / "notices", SystemClock(), runtime=open_way)

    deed.do(deed.prepare(ID, TARGET))

    assert "the company" in shown()
    deaf.close()


def test_a_power_cut_between_two_people_tells_the_second_and_not_the_first_again(
    login: Login, terminal: tuple[str, Callable[[], str]], tmp_path: Path
) -> None:
    tty, shown = terminal
    login.sit_down("1", 1000, "ada", kind="tty", tty=tty)
    login.sit_down("2", 1001, "bob", kind="tty", tty=tty)
    round_ = iter(range(100))
    made: list[Notify] = []

    def ready() -> Callable[[], object]:
        shown()
        made.append(Notify(tmp_path / f"notices{next(round_)}", SystemClock(), runtime=tmp_path))
        facts = made[-1].prepare(ID, TARGET)
        return lambda: made[-1].do(facts)

    for _at in each_cut(ready):
        facts = made[-1].prepare(ID, TARGET)
        made[-1].do(facts)
        assert made[-1].verify(facts) is State.DONE
        assert shown().count("Your device") == 2


def test_notices_are_kept_within_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "MAX_NOTICES", 3)
    for number in range(6):
        Notify(tmp_path, SystemClock())._keep(f"01JD{number}", {"1": "x"})
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["01JD3", "01JD4", "01JD5"]
    assert json.loads((tmp_path / "01JD5.json").read_text()) == {"1": "x"}


class Hands(SystemClock):
    """A clock that is moved by hand."""

    now_ns = 10**9

    def boot_ns(self) -> int:
        return self.now_ns


def test_a_storm_of_alerts_is_told_six_times_in_ten_minutes(tmp_path: Path) -> None:
    clock = Hands()
    deed = Notify(tmp_path, clock)
    for _ in range(notify.OFTEN):
        deed.prepare(ID, TARGET)
    with pytest.raises(ActionFailed, match="nobody is told more than 6 times in 10 minutes"):
        deed.prepare(ID, TARGET)
    clock.now_ns += notify.WINDOW_NS
    assert deed.prepare(ID, TARGET)


def test_many_deaf_buses_cost_what_one_may(
    login: Login, open_way: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "DESKTOP_S", 1.5)
    monkeypatch.setattr(notify, "DESKTOPS_S", 1.0)
    home = open_way / str(NOBODY)
    home.mkdir()
    deaf = socket.socket(socket.AF_UNIX)
    deaf.bind(str(home / "bus"))
    (home / "bus").chmod(0o777)
    deaf.listen(1)
    for number in range(4):
        login.sit_down(str(number), NOBODY, "nobody")
    asked: list[str] = []
    really = bus.ask

    def noted(calls: list[bus.Call], **more: Any) -> list[bus.Answer]:
        asked.append(calls[0].method)
        return really(calls, **more)

    monkeypatch.setattr(bus, "ask", noted)
    deed = Notify(tmp_path / "notices", SystemClock(), runtime=open_way)

    deed.do(deed.prepare(ID, TARGET))

    assert asked.count("Notify") == 1
    deaf.close()
