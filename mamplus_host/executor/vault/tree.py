# SPDX-License-Identifier: Apache-2.0
"""A whole tree as it was at a time: what has to be done for it, and doing it step by step.

Journey: `mamplus vault restore` -> [vault/tree] -> vault.

The plan is made first and can be shown (`--dry-run`); each step may be done twice. Directories come before what is in
them, and what was not there then goes last, from the leaves, once it is kept as a version.
"""

import os
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from mamplus_host.errors import VaultError
from mamplus_host.executor.vault.store import ABSENT, FILE, Version

What = Literal["put back", "take away", "as it is"]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One path of a plan."""

    path: str
    type: str  # file, directory, symlink; of what is taken away: what it was
    what: What
    version: int  # golden version that it will be; of what is taken away: the one that says so, 0 when none does
    taken_at: float  # seconds since the epoch
    size: int  # bytes


def plan(then: Iterable[Version], now: Iterable[Version], intact: Callable[[str, Version], bool]) -> list[Step]:
    """Return the steps from `now` (what paths should be) to `then`; `intact`: is a path that version already?"""
    wanted = {version.path: version for version in then if version.facts.type != ABSENT}
    steps = [
        _step(version, "as it is" if intact(path, version) else "put back")
        for path, version in sorted(wanted.items())
    ]  # fmt: skip
    later = [one for one in now if one.path not in wanted and one.facts.type != ABSENT]
    later.sort(key=lambda one: one.path, reverse=True)
    return steps + [
        _step(one, "take away" if os.path.lexists(one.path) else "as it is", is_golden=False) for one in later
    ]  # fmt: skip


def require_any(steps: list[Step], path: str, at: float | None) -> list[Step]:
    """Return `steps`; VaultError when there is nothing that could be put back."""
    if not any(step.version for step in steps):
        when = "" if at is None else f" as of {at:.0f} s since the epoch"
        raise VaultError(f"no golden copy of {path!r}{when}; `mamplus protect` makes one")
    return steps


def _step(version: Version, what: What, *, is_golden: bool = True) -> Step:
    is_file = version.facts.type == FILE
    return Step(
        path=version.path, type=version.facts.type, what=what, version=version.id if is_golden else 0,
        taken_at=version.taken_at, size=version.facts.size if is_file else 0,
    )  # fmt: skip
