# SPDX-License-Identifier: Apache-2.0
"""What stands between an installed generation and its enforcement: hold, dead-man timer, marks.

Journey: store -> [standing] -> kernel tables.

`state/ble/standing.json`, written before what it says is done, so that a crash between two steps finds the
decision and not half of an action. The transitions are pure: a standing in, a standing out; `generations.py` acts.

    installed --shadow load--> held --accept, force, a newer one--> in force --dead-man timer--> kept, or rolled back
"""

from pathlib import Path
from typing import Protocol

import msgspec

from mamplus_host.errors import NotPossible
from mamplus_host.files import write_whole
from mamplus_host.telling import Telling

MAX_BAD = 16  # marks; older generations have left the history by then
MAX_UNTOLD = 16
_NS = 1_000_000_000


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A generation that was installed and is kept out: what the shadow load said of it."""

    number: int
    state: str = ""  # tells it from others of its number, as everywhere below
    at_s: int  # by the device's clock
    why: str
    alert_id: str


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """The dead-man timer of a swap. Time is CLOCK_BOOTTIME: suspend counts, nobody can set it."""

    number: int  # swapped in
    previous: int  # what to go back to
    state: str = ""
    previous_state: str = ""
    limit_s: int
    boot_id: str
    since_ns: int  # what `spent_s` does not count yet begins here
    swapped_ns: int  # of this boot; 0: swapped in a boot before
    spent_s: float = 0.0
    replaced: "Watch | None" = None  # the timer of an unproven swap before this one: it goes on when this one fails

    def elapsed_s(self, boot_ns: int) -> float:
        return self.spent_s + max(0, boot_ns - self.since_ns) / _NS


class Mark(msgspec.Struct, frozen=True):
    """A generation that was rolled back."""

    number: int
    state: str


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where this device's generations stand."""

    enterprise_id: str = ""  # whose numbers these are
    number: int = 0  # in force; 0: none was ever loaded
    state: str = ""
    held: Held | None = None
    marks: tuple[Mark, ...] = ()  # rolled back: not taken again
    accepted: str = ""  # state of what a person on this device let in
    watch: Watch | None = None
    trial: Watch | None = None  # since a rollback: was it the list that kept the enterprise silent?
    told_step: int = 0  # age.Step that was told of last
    untold: tuple[Telling, ...] = ()  # decided, and not yet handed on

    @property
    def bad(self) -> tuple[int, ...]:
        """The numbers of what was rolled back."""
        return tuple(mark.number for mark in self.marks)

    def is_let_in(self, one: "Known", forced: int) -> bool:
        """Whether a person has decided that `one` is taken, whatever the shadow load says."""
        return one.state == self.accepted or one.number == forced

    def is_bad(self, one: "Known") -> bool:
        """Whether `one` was rolled back and nobody on this device said that it is to be tried again."""
        return one.state in {mark.state for mark in self.marks} and one.state != self.accepted

    def keeps_out(self, one: "Known", forced: int) -> bool:
        """Whether `one` is installed and not to be enforced. Force lifts a hold, not the mark of a rollback."""
        is_held = self.held is not None and self.held.state == one.state
        return self.is_bad(one) or (is_held and not self.is_let_in(one, forced))


class Known(Protocol):
    """A generation, open or as a record."""

    @property
    def number(self) -> int: ...

    @property
    def state(self) -> str:
        """What tells it from every other generation, also from one of the same number."""


def check_acceptable(standing: Standing, newest: int, number: int) -> None:
    """Raise NotPossible unless `number` is the newest generation, and held or rolled back."""
    is_held = standing.held is not None and standing.held.number == number
    if number != newest or not (is_held or number in standing.bad):
        raise NotPossible(
            f"generation {number} is neither held nor rolled back; the newest is {newest or 'none'}: `mamplus ble show`"
        )


def hold(standing: Standing, held: Held, telling: Telling) -> Standing:
    """Keep a generation out, and have it told once."""
    return _tell(msgspec.structs.replace(standing, held=held), telling)


def accept(standing: Standing, number: int) -> Standing:
    """Let `number` in: a person said so."""
    states = {mark.number: mark.state for mark in standing.marks}
    if standing.held is not None:
        states[standing.held.number] = standing.held.state
    return msgspec.structs.replace(standing, accepted=states.get(number, ""))


def before_swap(standing: Standing, watch: Watch | None) -> Standing:
    """Set the dead-man timer. One that runs for the same generation goes on: a crash must not wind it up again."""
    running = standing.watch
    if watch is not None and running is not None and running.state == watch.state:
        return standing
    if watch is not None and running is not None:
        watch = _inherit(watch, running)
    return msgspec.structs.replace(standing, watch=watch, trial=None)


def _inherit(watch: Watch, running: Watch) -> Watch:
    """A swap while the one before is not proven goes back to what was proven."""
    before = msgspec.structs.replace(running, replaced=None)
    return msgspec.structs.replace(
        watch, previous=running.previous, previous_state=running.previous_state, replaced=before
    )


def not_swapped(standing: Standing, state: str) -> Standing:
    """What `state` tells from others could not be loaded: its timer ends, that of an unproven one before goes on."""
    watch = standing.watch
    if watch is None or watch.state != state:
        return standing
    return msgspec.structs.replace(standing, watch=watch.replaced)


def after_swap(standing: Standing, number: int, state: str) -> Standing:
    """Generation `number` is in force."""
    held = standing.held if standing.held and standing.held.number > number else None
    return msgspec.structs.replace(standing, number=number, state=state, held=held)


def safe(standing: Standing) -> Standing:
    """The enterprise was reached: end the timer."""
    return msgspec.structs.replace(standing, watch=None)


def rolled_back(standing: Standing, telling: Telling, boot_ns: int) -> Standing:
    """Go back to the generation before the watched one, and mark that; its trial begins at `boot_ns`."""
    watch = standing.watch
    assert watch is not None
    others = (mark for mark in standing.marks if mark.state != watch.state)
    marks = (*others, Mark(watch.number, watch.state))[-MAX_BAD:]
    accepted = "" if standing.accepted == watch.state else standing.accepted
    back = msgspec.structs.replace(
        standing, number=watch.previous, state=watch.previous_state, marks=marks, accepted=accepted, watch=None,
        trial=msgspec.structs.replace(watch, since_ns=boot_ns, swapped_ns=boot_ns, spent_s=0.0, replaced=None),
    )  # fmt: skip
    return _tell(back, telling)


def tried(standing: Standing, *, is_guilty: bool) -> Standing:
    """End the trial: the mark stays, or is dropped so that the generation is taken again."""
    trial = standing.trial
    marks = standing.marks
    if trial is not None and not is_guilty:
        marks = tuple(mark for mark in marks if mark.state != trial.state)
    return msgspec.structs.replace(standing, trial=None, marks=marks)


def aged(standing: Standing, step: int, telling: Telling | None) -> Standing:
    """Note the step of the age ladder, told of or not."""
    stepped = msgspec.structs.replace(standing, told_step=step)
    return _tell(stepped, telling) if telling else stepped


def told(standing: Standing, alert_id: str) -> Standing:
    """The alert was handed on."""
    return msgspec.structs.replace(standing, untold=tuple(one for one in standing.untold if one.id != alert_id))


def in_boot(standing: Standing, boot_id: str) -> Standing:
    """Carry the timer over into this boot; within one boot nothing changes.

    What was spent before is what had passed when it was written last; the time since this boot began counts, too.
    """
    watch, trial = _carried(standing.watch, boot_id), _carried(standing.trial, boot_id)
    return msgspec.structs.replace(standing, watch=watch, trial=trial)


def _carried(watch: Watch | None, boot_id: str) -> Watch | None:
    if watch is None or watch.boot_id == boot_id:
        return watch
    replaced = _carried(watch.replaced, boot_id)
    return msgspec.structs.replace(watch, boot_id=boot_id, since_ns=0, swapped_ns=0, replaced=replaced)


def spent(standing: Standing, boot_ns: int) -> Standing:
    """Write down how much of the timer has run, for a reboot."""
    watch = standing.watch
    if watch is None:
        return standing
    kept = msgspec.structs.replace(watch, spent_s=watch.elapsed_s(boot_ns), since_ns=boot_ns)
    return msgspec.structs.replace(standing, watch=kept)


def of_enterprise(standing: Standing, enterprise_id: str) -> Standing:
    """Return `standing`, or a new one when its numbers are another enterprise's."""
    if standing.enterprise_id == enterprise_id:
        return standing
    if standing.enterprise_id == "":
        return msgspec.structs.replace(standing, enterprise_id=enterprise_id)
    return Standing(enterprise_id=enterprise_id, untold=standing.untold)


def _tell(standing: Standing, telling: Telling) -> Standing:
    return msgspec.structs.replace(standing, untold=(*standing.untold, telling)[-MAX_UNTOLD:])


def path_of(state: Path) -> Path:
    return state / "ble" / "standing.json"


def read(state: Path) -> tuple[Standing, str]:
    """Return what is kept, and what is wrong with it, "" when nothing is."""
    path = path_of(state)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Standing), ""
    except FileNotFoundError:
        return Standing(), ""
    except (OSError, msgspec.MsgspecError) as error:
        return Standing(), f"{str(path)!r} is damaged ({error}): what was held or rolled back is judged anew"


def needed(state: Path) -> frozenset[str]:
    """Return the states of what must stay in the store: what is in force, and what the timer may go back to."""
    kept, _fault = read(state)
    return frozenset({kept.state, kept.watch.previous_state if kept.watch else ""} - {""})


def write(state: Path, standing: Standing) -> None:
    """Keep `standing`; NotPossible when there is no room."""
    write_whole(path_of(state), msgspec.json.encode(standing))


def accept_offline(state: Path, number: int, *, newest: int) -> None:
    """Let `number` in while no agent runs: the next one takes it. NotPossible when it is not kept out."""
    kept, fault = read(state)
    if fault:
        raise NotPossible(f"{fault}; start the agent")
    check_acceptable(kept, newest, number)
    write(state, accept(kept, number))
