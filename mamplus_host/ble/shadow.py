# SPDX-License-Identifier: Apache-2.0
"""Shadow load: what would a new generation have blocked of what this device uses?

Journey: recent, store -> [shadow] -> hold or swap.

Pure: two lists to ask and the uses in, a report out. Newly blocked is what the new list refuses and the one in
force does not. It is counted by program: one that holds a hundred connections is one, or any task could hold back a
list by opening some. One lifeline (the way to the enterprise, the name servers, the programs that the device and its
agent run by) is too much; of all else the policy's `shadow_limit`.
"""

from collections.abc import Callable, Iterable

import msgspec

from mamplus_host.ble.entry import Kind
from mamplus_host.verdicts import Verdict

MAX_EXAMPLES = 20
_NAMED = 3  # in one sentence
_ACCOUNTS = (Kind.USER, Kind.GROUP)  # in use once for each program that runs under them
_PROGRAM = ("sha256", "path", "user", "group")
Ask = Callable[[Kind, str], Verdict]


class Use(msgspec.Struct, frozen=True):
    """One value in use, as the list would name it."""

    kind: Kind
    value: str  # canonical
    by: str = ""  # path or name of the program, for people


class Would(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in use that the new generation would block."""

    kind: str
    value: str
    by: str
    is_lifeline: bool = False


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """What the new generation would newly block."""

    asked: int  # uses, lifelines included
    lifelines: int = 0
    programs: int = 0
    destinations: int = 0  # addresses with their port, and names
    concerned: int = 0  # programs that would be blocked, or lose a destination
    examples: tuple[Would, ...] = ()  # lifelines first

    @property
    def count(self) -> int:
        """What the policy's limit is about."""
        return self.concerned

    def is_too_much(self, limit: int) -> bool:
        return self.lifelines > 0 or self.count > limit

    def in_words(self) -> str:
        parts = [
            f"{count} {what}{'s' if count != 1 else ''}"
            for count, what in (
                (self.lifelines, "lifeline"), (self.programs, "program"), (self.destinations, "destination"),
            )
            if count
        ]  # fmt: skip
        return f"{', '.join(parts) or 'nothing'} of {self.asked} in use"

    def why_held(self, limit: int) -> str:
        """Return why this is too much, with the first things that would be blocked by name."""
        named = [f"{one.kind} {one.value}" + (f" ({one.by})" if one.by else "") for one in self.examples[:_NAMED]]
        left_out = self.lifelines + self.programs + self.destinations - len(named)
        more = f" and {left_out} more" if left_out > 0 else ""
        return (
            f"it would newly block {self.in_words()}: {', '.join(named)}{more};"
            f" the policy lets {limit} pass, and never a lifeline"
        )


def shadow(old: Ask, new: Ask, uses: Iterable[Use], lifelines: Iterable[Use]) -> Shadow:
    """Ask both lists about everything in use. `old` and `new` answer for a kind and a canonical value."""
    asked, found = 0, []
    seen: set[tuple[Kind, str, str]] = set()
    for is_lifeline, group in ((True, lifelines), (False, uses)):
        for use in group:
            key = (use.kind, use.value, use.by if use.kind in _ACCOUNTS else "")
            if key in seen:
                continue
            seen.add(key)
            asked += 1
            if new(use.kind, use.value) is Verdict.BLOCK and old(use.kind, use.value) is not Verdict.BLOCK:
                by = use.by.encode("utf-8", "backslashreplace").decode()  # a path may be no Unicode, JSON must be
                found.append(Would(kind=use.kind.name.lower(), value=use.value, by=by, is_lifeline=is_lifeline))
    others = [would for would in found if not would.is_lifeline]
    programs = len({would.by for would in others if would.kind in _PROGRAM})  # by content and by path: one program
    destinations = sum(would.kind not in _PROGRAM for would in others)
    return Shadow(
        asked=asked, lifelines=len(found) - len(others), programs=programs, destinations=destinations,
        concerned=len({would.by or would.value for would in others}), examples=tuple(found[:MAX_EXAMPLES]),
    )  # fmt: skip
