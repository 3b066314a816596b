# SPDX-License-Identifier: Apache-2.0
"""An attack, and the register of all of them: each file of `scenarios/` adds its family.

An attack that runs a program is a function of a Ground, a payload and a marker. It is played twice:
with a payload that nothing is against, which must leave its marker (or the attack is broken and its
refusal proves nothing), and with the listed one. Their only difference is their last bytes.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.attacks.outcome import Outcome, Seen

if TYPE_CHECKING:
    from tests.attacks.ground import Ground

TIERS = ("signal", "fanotify", "lsm")


Expected = Outcome | tuple[Outcome, ...]


def several(outcome: Expected) -> tuple[Outcome, ...]:
    """Return the outcomes that a declaration allows."""
    return outcome if isinstance(outcome, tuple) else (outcome,)


def everywhere(outcome: Expected) -> dict[str, Expected]:
    return dict.fromkeys(TIERS, outcome)


# A program that starts: where nothing can refuse that, it is ended before its first instruction.
# Where an open was answered just before the file changed, the tier below stops the start: both are declared.
STOPPED = everywhere(Outcome.REFUSED) | {"signal": Outcome.KILLED, "fanotify": (Outcome.REFUSED, Outcome.KILLED)}
# A file that is opened or mapped by a good program: a probe of programs alone does not see it.
ELSEWHERE = STOPPED | {"fanotify": Outcome.KILLED}  # on a file system that is not marked: the tier below
OPENED = everywhere(Outcome.REFUSED) | {"signal": Outcome.NOT_COVERED}
UNSEEN = everywhere(Outcome.NOT_COVERED)
# A file that nobody has looked at yet, read by a program that is no interpreter: LSM asks about known content alone.
UNKNOWN_DATA = "a listed file that nobody has hashed yet is data like any other to a program that is no interpreter"
READ_FIRST = OPENED | {"lsm": Outcome.NOT_COVERED}

Play = Callable[["Ground", Path, Path], Seen]


class Missing(Exception):
    """What the attack needs is not here; its text names it."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One way around a control."""

    name: str
    family: str
    what: str  # what it does, as an administrator would say it
    play: Play
    payload: str = "elf"  # which stand-in it uses: a name of Ground.PAYLOADS
    bypasses: str = ""  # a peer or a class of tools that is walked around so, where that is known
    limit: str = ""  # why it is not covered, or what the outcome does not say
    expected: Mapping[str, Expected]  # by tier; by "tier without HOOK" where that hook is optional
    subject: str = "program"  # what it is about: a name of subjects.SUBJECTS
    is_alike: bool = False  # what is not listed may be answered in the same way: nobody could look at it
    is_innocent: bool = False  # what it runs is not listed: it must run
    settle_s: float = 0.3  # so long is waited for the agent to notice what was done

    def expects(self, tier: str, hooks: Mapping[str, str]) -> tuple[Outcome, ...]:
        """Return the documented outcomes: one, or two where it depends on who is quicker."""
        for key, outcome in self.expected.items():
            name, _, hook = key.partition(" without ")
            if name == tier and hook and hook not in hooks:
                return several(outcome)
        return several(self.expected[tier])


_attacks: dict[str, Attack] = {}


def attack(
    name: str,
    family: str,
    expected: Mapping[str, Expected],
    *,
    payload: str = "elf",
    subject: str = "program",
    bypasses: str = "",
    limit: str = "",
    is_alike: bool = False,
    is_innocent: bool = False,
    settle_s: float = 0.3,
) -> Callable[[Play], Play]:
    """Register the decorated function as an attack; its docstring says what it does."""

    def register(play: Play) -> Play:
        assert name not in _attacks, f"two attacks are named {name!r}"
        what = " ".join((play.__doc__ or "").split())
        assert what, f"attack {name!r} does not say what it does"
        _attacks[name] = Attack(
            name=name, family=family, what=what, play=play, payload=payload, subject=subject, bypasses=bypasses,
            limit=limit, expected=expected, is_alike=is_alike, is_innocent=is_innocent, settle_s=settle_s,
        )  # fmt: skip
        return play

    return register


def all_attacks() -> dict[str, Attack]:
    """Return every attack by name, in the order of their files."""
    from tests.attacks import scenarios

    for module in sorted(pkgutil.iter_modules(scenarios.__path__), key=lambda one: one.name):
        importlib.import_module(f"tests.attacks.scenarios.{module.name}")
    return dict(_attacks)
