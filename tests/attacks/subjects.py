# SPDX-License-Identifier: Apache-2.0
"""What attacks are about: a program that must not run, a file that must not change, the agent itself.

A subject prepares one play, runs it, and says whether the attacker reached its aim.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tests.attacks.attack import Attack
from tests.attacks.ground import Ground, arena
from tests.attacks.outcome import Seen, Told


@dataclass(frozen=True)
class Subject:
    attack: Callable[[], Seen]
    is_done: Callable[[], bool]
    told: Callable[[int], list[Told]]  # since a time, CLOCK_BOOTTIME in ns


@contextlib.contextmanager
def program(attack: Attack, on: Ground, is_guarded: bool) -> Iterator[Subject]:
    """A program that is listed, or its twin that is not. The aim: that it makes its marker."""
    with arena(on) as directory:
        payload = on.payloads.copy(attack.payload, "listed" if is_guarded else "twin", directory / "payload")
        marker = on.work / f"marker-{directory.name}"
        yield Subject(lambda: attack.play(on, payload, marker), marker.exists, on.told_since)
        marker.unlink(missing_ok=True)


@contextlib.contextmanager
def agent(attack: Attack, on: Ground, is_guarded: bool) -> Iterator[Subject]:
    """The agent itself. The aim: that a system call which harms it succeeds. There is no twin: where nothing
    refuses such a call, it is seen to succeed."""
    assert is_guarded
    seen: list[Seen] = []

    def play() -> Seen:
        seen.append(attack.play(on, on.whole.pins, on.work))
        return seen[0]

    on.whole.forget_the_past()
    try:
        yield Subject(play, lambda: not seen[0].errno, on.whole.told_since)
    finally:
        on.whole.repair()


@contextlib.contextmanager
def file(attack: Attack, on: Ground, is_guarded: bool) -> Iterator[Subject]:
    """A file below a guarded directory, or its twin beside that. The aim: that the operation is done."""
    whole = on.whole
    assert on.files is not None
    target, out = on.files.place(attack.payload, is_guarded=is_guarded)
    seen: list[Seen] = []

    def play() -> Seen:
        seen.append(attack.play(on, target, out))
        return seen[0]

    whole.forget_the_past()
    yield Subject(play, lambda: not seen[0].errno, whole.told_since)


SUBJECTS: Mapping[str, Callable[[Attack, Ground, bool], contextlib.AbstractContextManager[Subject]]] = {
    "program": program,
    "agent": agent,
    "file": file,
}
WITH_TWIN = ("program", "file")
