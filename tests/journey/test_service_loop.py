# SPDX-License-Identifier: Apache-2.0
"""The agent's loop goes on whatever part of it fails, and says so."""

import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mamplus_host import loop as module
from mamplus_host.loop import Loop

FAULTS = 3


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
    made.protecting = Broken(files=watch, settle_in_s=lambda: None)
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

    assert turns == FAULTS
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
