# SPDX-License-Identifier: Apache-2.0
"""What one control did when it was tried, and how a trial says it."""

import subprocess
import time
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, get_args

import msgspec

from mamplus_host.errors import MamplusError

State = Literal["enforcing", "degraded", "not possible"]  # from best to worst
STATES: tuple[State, ...] = get_args(State)
MAX_DETAIL_CHARS = 240
MAX_WAY_OUT_CHARS = 160


class Trial(msgspec.Struct, frozen=True):
    """What one control did when it was tried."""

    control: str
    state: State
    tier: str  # what acted: lsm, fanotify, signal, cgroup, iptables, freezer, restored, noticed; "": nothing did
    detail: str  # what was seen, or the reason
    took_ms: float
    group: str = ""
    way_out: str = ""  # what would make it better; "": nothing has to


class Found(NamedTuple):
    """What a trial returns when its control acted."""

    tier: str
    detail: str
    is_best: bool = True  # False: a better tier exists, and is not here
    way_out: str = ""


class NotEnforced(Exception):
    """The control did not do what it is there for."""

    def __init__(self, detail: str, way_out: str = "") -> None:
        super().__init__(detail)
        self.way_out = way_out


def tried(group: str, control: str, trial: Callable[[], Found]) -> Trial:
    """Try one control; whatever goes wrong is its result."""
    begun = time.monotonic()
    found, state = Found("", ""), STATES[-1]
    try:
        found = trial()
        state = STATES[0] if found.is_best else STATES[1]
    except NotEnforced as error:
        found = Found("", str(error), way_out=error.way_out)
    except (MamplusError, OSError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
        found = Found("", str(error))
    return Trial(
        control=control, state=state, tier=found.tier, detail=_line(found.detail, MAX_DETAIL_CHARS), group=group,
        took_ms=round((time.monotonic() - begun) * 1000, 1), way_out=_line(found.way_out, MAX_WAY_OUT_CHARS),
    )  # fmt: skip


def worst(states: Iterable[str]) -> str:
    """Return the worst of `states`, "" of none."""
    return max((state for state in states if state in STATES), key=STATES.index, default="")


def _line(text: str, most: int) -> str:
    """Return `text` on one line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
