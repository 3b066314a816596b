# SPDX-License-Identifier: Apache-2.0
"""What came of the last trials, when to try again, and what has become worse.

`state/controls.json`, replaced as a whole. Decisions here are pure: values in, values out; `examiner.py` acts.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from mamplus_host.doctor.trial import STATES, Trial, worst
from mamplus_host.errors import MamplusError
from mamplus_host.files import write_whole
from mamplus_host.telling import Telling

GENERATION_EVERY_S = 3600.0  # at most so often are controls tried because the list changed
RETRY_S = 600.0  # after trials that came to nothing
MAX_UNTOLD = 16
MAX_REPORTED = 64  # controls in a report to the enterprise
MAX_REPORTED_CHARS = 160  # of a reason in it, and of a way out
_NS = 1_000_000_000


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """Under what controls are tried: each change of it asks for new trials."""

    boot_id: str
    kernel: str  # its release
    agent: str  # version of this program
    list_state: str = ""  # tells the generation in force from every other
    generation: int = 0


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The last result."""

    situation: Situation
    why: str  # what asked for it: first, boot, kernel, agent, attached, generation
    at: float  # seconds since the epoch, by the device's clock
    boot_ns: int  # CLOCK_BOOTTIME of that boot
    controls: tuple[Trial, ...]
    untold: tuple[Telling, ...] = ()  # decided, and not yet handed on


class Worse(msgspec.Struct, frozen=True):
    """A control that does less than it did."""

    control: str
    was: str
    state: str  # now
    tier: str
    reason: str


def why_now(kept: Kept | None, now: Situation, boot_ns: int, *, is_fresh: bool) -> str:
    """Return what asks for trials now, "" when nothing does. `is_fresh`: the probes were attached by this agent."""
    if kept is None:
        return "first"
    before = kept.situation
    for reason, name in (("kernel", "kernel"), ("agent", "agent"), ("boot", "boot_id")):
        if getattr(before, name) != getattr(now, name):
            return reason
    if is_fresh:
        return "attached"
    if before.list_state != now.list_state and boot_ns - kept.boot_ns >= GENERATION_EVERY_S * _NS:
        return "generation"
    return ""


def is_whole(why: str) -> bool:
    """Whether what the kernel allows is to be tried anew, and not only what the running agent enforces."""
    return why not in ("generation", "attached")


def merged(before: Iterable[Trial], tried: Iterable[Trial], *, whole: bool) -> tuple[Trial, ...]:
    """Return the newest trial of each control; of an examination that was not whole, the others as they were."""
    new = tuple(tried)
    if whole:
        return new
    groups = {trial.group for trial in new}
    return (*(trial for trial in before if trial.group not in groups), *new)


def worsened(before: Iterable[Trial], after: Iterable[Trial]) -> list[Worse]:
    """Return what does less than it did; a control that was not tried before is not among them."""
    was = {trial.control: trial.state for trial in before}
    return [
        Worse(trial.control, was[trial.control], trial.state, trial.tier, trial.detail)
        for trial in after
        if trial.control in was and STATES.index(trial.state) > STATES.index(was[trial.control])
    ]


def summary(found: list[Worse]) -> str:
    """Return one sentence for people about what has become worse."""
    first = found[0]
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return f"control {first.control!r} was {first.was}, is {first.state} now: {first.reason}{more}"


def report(kept: Kept) -> dict[str, Any]:
    """Return what the enterprise is told (docs/protocol.md, `examined`): bounded."""
    return {
        "at": kept.at, "why": kept.why, "kernel": kept.situation.kernel, "agent": kept.situation.agent,
        "generation": kept.situation.generation,
        "controls": [
            {
                "control": trial.control, "group": trial.group, "state": trial.state, "tier": trial.tier,
                "reason": trial.detail[:MAX_REPORTED_CHARS], "way_out": trial.way_out[:MAX_REPORTED_CHARS],
            }
            for trial in kept.controls[:MAX_REPORTED]
        ],
    }  # fmt: skip


def status(kept: Kept | None, fault: str, boot_id: str, now_s: float) -> dict[str, Any]:
    """Return what `mamplus status` shows."""
    if kept is None:
        return {"worst": "not tried yet", "fault": fault or "none"}
    by_state = {
        state: [trial.control for trial in kept.controls if trial.state == state]
        for state in reversed(STATES)
    }  # fmt: skip
    return {
        "worst": worst(trial.state for trial in kept.controls),
        "age_s": max(0, round(now_s - kept.at)),
        "why": kept.why,
        "this_boot": kept.situation.boot_id == boot_id,
        "generation": kept.situation.generation,
        **{state.replace(" ", "_"): len(controls) for state, controls in by_state.items()},
        "controls": {trial.control: _said(trial) for trial in kept.controls},
        "fault": fault or "none",
    }


def _said(trial: Trial) -> str:
    return f"{trial.state} ({trial.tier})" if trial.tier else f"{trial.state}: {trial.detail}"


def path_of(state: Path) -> Path:
    return state / "controls.json"


def read(state: Path) -> tuple[Kept | None, str]:
    """Return the last result, and what is wrong with it; None: controls were never tried here."""
    path = path_of(state)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Kept), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, msgspec.MsgspecError, MamplusError) as error:
        return None, f"{str(path)!r} is damaged ({error}): the controls are tried anew"


def write(state: Path, kept: Kept) -> None:
    """Keep the result; NotPossible when there is no room."""
    write_whole(path_of(state), msgspec.json.encode(kept))


def told(kept: Kept, alert_id: str) -> Kept:
    """The alert was handed on."""
    return msgspec.structs.replace(kept, untold=tuple(one for one in kept.untold if one.id != alert_id))
