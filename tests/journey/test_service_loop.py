# SPDX-License-Identifier: Apache-2.0
"""The agent's loop goes on whatever part of it fails, and says so."""

import os
import select
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mamplus_host import service as module
from mamplus_host.service import Service

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
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service none of whose parts works; its loop is real."""
    monkeypatch.setattr(module, "FAULT_PAUSE_S", 0.0)
    made = object.__new__(Service)
    made.faults, made.last_fault, made._is_stopping, made._responder_fd = 0, "", False, -1
    made._wake, made._epoll = os.eventfd(0, os.EFD_NONBLOCK), select.epoll()
    made._epoll.register(made._wake, select.EPOLLIN)
    for name in ("alerts", "clock", "control", "examiner", "executor", "generations", "guarding", "maintenance"):
        setattr(made, name, Broken())
    for name in ("asks", "isolating", "netfilter", "network", "pipeline", "responder"):
        setattr(made, name, Broken())
    watch = Broken(fileno=lambda: -2)
    made.protecting = Broken(files=watch, settle_in_s=lambda: None)  # type: ignore[assignment]
    made.tamper = Broken(rest=lambda: None)  # type: ignore[assignment]
    made.kernel = Broken(ring=SimpleNamespace(drain=Broken().drain, arm=lambda: 0.0))  # type: ignore[assignment]
    made._has_worked, made.uplink = False, None
    yield made
    os.close(made._wake)
    made._epoll.close()


def test_a_loop_in_which_every_part_fails_goes_on_until_it_is_asked_to_stop(loop: Service) -> None:
    turns = 0

    def drain() -> None:
        nonlocal turns
        turns += 1
        if turns == FAULTS:
            loop.ask_to_stop()
        raise RuntimeError("the ring is broken")

    loop.kernel.ring.drain = drain  # type: ignore[assignment,method-assign]

    loop.run()

    assert turns == FAULTS
    assert loop.faults > FAULTS  # those of the first tick, too
    assert loop.last_fault


@pytest.mark.parametrize("part", ["protecting", "guarding"])
def test_a_watch_that_cannot_be_read_is_counted_and_ends_nothing(loop: Service, part: str) -> None:
    readable = os.eventfd(1, os.EFD_NONBLOCK)
    loop._epoll.register(readable, select.EPOLLIN)
    loop.kernel.ring.drain = lambda: []  # type: ignore[method-assign]
    if part == "guarding":
        loop.guarding.fileno = lambda: readable  # type: ignore[method-assign]
    else:
        loop.protecting.files.fileno = lambda: readable  # type: ignore[method-assign]
    reads = 0

    def read() -> None:
        nonlocal reads
        reads += 1
        if reads == FAULTS:
            loop.ask_to_stop()
        raise OSError("it cannot be read")

    getattr(loop, part).read = read

    loop.run()

    assert reads >= FAULTS
    assert loop.faults >= FAULTS
    assert "cannot be read" in loop.last_fault
    os.close(readable)
