# SPDX-License-Identifier: Apache-2.0
"""The agent's loop goes on whatever part of it fails, and says so."""

import itertools
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mamplus_host import loop as module
from mamplus_host.events import FileChange, FileEvent, MassRewrite
from mamplus_host.loop import Loop

FAULTS = 3
MANY = 1000  # reads of one turn that nobody would wait for


class Broken:
    """Whatever is asked of it fails, but for what is given."""

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def fail(*_arguments: Any, **_named: Any) -> Any:
            raise RuntimeError(f"{name} is broken")

        return fail


@pytest.fixture
def service() -> SimpleNamespace:
    """A service none of whose parts works."""
    made = SimpleNamespace(responder_fd=-1, uplink=None)
    for name in ("alerts", "clock", "control", "executor", "generations", "guarding", "maintenance"):
        setattr(made, name, Broken())
    for name in ("asks", "isolating", "netfilter", "pipeline", "responder"):
        setattr(made, name, Broken())
    for name in ("examine", "guard_files", "look_at_ourselves", "renew_responder", "report", "tell_receipts"):
        setattr(made, name, getattr(Broken(), name))
    watch = Broken(fileno=lambda: -2)
    made.protecting = Broken(files=watch, brake=Broken(fileno=lambda: -3), settle_in_s=lambda: None)
    made.tamper = Broken(rest=lambda: None)
    made.kernel = Broken(ring=SimpleNamespace(drain=Broken().drain, arm=lambda: 0.0))
    return made


@pytest.fixture
def loop(service: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    monkeypatch.setattr(module, "FAULT_PAUSE_S", 0.0)
    made = Loop(cast(Any, service))
    yield made
    made.epoll.close()


def test_a_loop_in_which_every_part_fails_goes_on_until_it_is_asked_to_stop(
    loop: Loop, service: SimpleNamespace
) -> None:
    turns = 0

    def drain() -> None:
        nonlocal turns
        turns += 1
        if turns == FAULTS:
            loop.ask_to_stop()
        raise RuntimeError("the ring is broken")

    service.kernel.ring.drain = drain

    loop.run()

    assert turns >= FAULTS
    assert loop.faults > FAULTS  # those of the first tick, too
    assert loop.last_fault


@pytest.mark.parametrize("part", ["protecting", "guarding"])
def test_a_watch_that_cannot_be_read_is_counted_and_ends_nothing(
    loop: Loop, service: SimpleNamespace, part: str
) -> None:
    readable = os.eventfd(1, os.EFD_NONBLOCK)
    loop.watch(readable)
    service.kernel.ring.drain = lambda: []
    if part == "guarding":
        service.guarding.fileno = lambda: readable
    else:
        service.protecting.files.fileno = lambda: readable
    reads = 0

    def read() -> None:
        nonlocal reads
        reads += 1
        if reads == FAULTS:
            loop.ask_to_stop()
        raise OSError("it cannot be read")

    getattr(service, part).read = read

    loop.run()

    assert reads >= FAULTS
    assert loop.faults >= FAULTS
    assert "cannot be read" in loop.last_fault
    os.close(readable)


class Touched:
    """Stands for what follows protected files, and for the stages behind it."""

    def __init__(self, *reads: list[FileEvent]) -> None:
        self._reads, self.count = iter(reads), 0
        self.treated: list[FileEvent] = []
        self.let_go = 0
        self.at_work: Callable[[FileEvent], object] = bool  # what happens while one is treated

    def read(self) -> list[FileEvent]:
        self.count += 1
        return next(self._reads, [])

    def act(self, events: list[FileEvent]) -> None:
        self.treated += events
        self.at_work(events[0])

    def go_on(self) -> None:
        self.let_go += 1


def touch(path: str, *changes: str, tgid: int = 1) -> FileChange:
    return FileChange(boot_ns=1, path=path, changes=changes, tgid=tgid)


@pytest.fixture
def follow(service: SimpleNamespace) -> Callable[..., Touched]:
    """Have the loop read these touches, one list a read."""

    def follow(*reads: list[FileEvent]) -> Touched:
        touched = Touched(*reads)
        accepting = SimpleNamespace(doubt=lambda _change: None)
        service.kernel.ring.drain = lambda: []
        service.protecting.__dict__.update(read=touched.read, let_go=touched.go_on, accepting=accepting)
        service.pipeline = Broken(act=touched.act, untold=0)
        return touched

    return follow


def test_who_touches_a_file_without_end_does_not_have_the_loop_for_himself(
    loop: Loop, follow: Callable[..., Touched], monkeypatch: pytest.MonkeyPatch
) -> None:
    touched = follow(*([touch("/a", "attrib")] for _ in range(MANY)))
    monkeypatch.setattr(module, "FILES_S", 0.0)
    loop.on_files()
    assert 0 < len(touched.treated) < MANY / 2


def test_what_is_left_of_a_turn_is_treated_by_the_next_though_nothing_more_is_touched(
    loop: Loop, service: SimpleNamespace, follow: Callable[..., Touched], monkeypatch: pytest.MonkeyPatch
) -> None:
    touched = follow([touch("/a", "attrib"), touch("/b", "attrib")])
    monkeypatch.setattr(module, "FILES_S", 0.0)
    monkeypatch.setattr(module, "TICK_S", 0.0)
    turns = itertools.count()
    service.report = lambda: loop.ask_to_stop() if next(turns) else None  # at the second turn

    loop.on_files()
    loop.run()

    assert touched.treated == [touch("/a", "attrib"), touch("/b", "attrib")]


def test_an_agent_that_is_asked_to_stop_treats_no_further_touch(loop: Loop, follow: Callable[..., Touched]) -> None:
    touched = follow(*([touch("/a", "attrib")] for _ in range(MANY)))
    touched.at_work = lambda _event: loop.ask_to_stop()
    loop.on_files()
    assert len(touched.treated) == 1


def test_what_one_process_did_to_one_file_is_treated_once(loop: Loop, follow: Callable[..., Touched]) -> None:
    touched = follow(
        [touch("/a", "modify"), touch("/b", "modify")], [touch("/b", "close-write"), touch("/b", "modify", tgid=2)]
    )
    loop.on_files()
    assert touched.treated[1:] == [touch("/b", "modify", "close-write"), touch("/b", "modify", tgid=2)]


def test_writers_are_no_longer_told_apart_when_too_many_of_them_wait(
    loop: Loop, follow: Callable[..., Touched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_TOUCHED", 2)
    touched = follow([touch("/a", "modify", tgid=tgid) for tgid in range(1, 6)])
    loop.on_files()
    assert touched.treated == [touch("/a", "modify", tgid=tgid) for tgid in (1, 2, 0)]


def test_one_touch_that_cannot_be_treated_costs_no_other(loop: Loop, follow: Callable[..., Touched]) -> None:
    touched = follow([touch("/a", "modify"), touch("/b", "modify")])

    def fail(_event: FileEvent) -> None:
        raise OSError(28, "the disk is full")

    touched.at_work = fail
    loop.on_files()

    assert touched.treated == [touch("/a", "modify"), touch("/b", "modify")]
    assert loop.faults == 2


def test_who_rewrites_many_is_dealt_with_before_other_touches_and_then_let_go(
    loop: Loop, follow: Callable[..., Touched]
) -> None:
    mass = MassRewrite(boot_ns=1, paths=("/x",), tgid=3, stopped="")
    touched = follow([touch("/a", "modify"), touch("/b", "modify")], [mass])
    let_go: list[int] = []
    touched.at_work = lambda _event: let_go.append(touched.let_go)

    loop.on_files()

    assert touched.treated == [touch("/a", "modify"), mass, touch("/b", "modify")]
    assert let_go == [1, 1, 2]


def test_who_was_stopped_is_let_go_though_the_watch_cannot_be_read(
    loop: Loop, service: SimpleNamespace, follow: Callable[..., Touched]
) -> None:
    touched = follow()

    def fail() -> list[FileEvent]:
        raise OSError("it cannot be read")

    service.protecting.read = fail
    with pytest.raises(OSError, match="cannot be read"):
        loop.on_files()
    assert touched.let_go == 1
