# SPDX-License-Identifier: Apache-2.0
"""Joins the shadow load with the two lists that it asks: for the agent before a swap, and for a dry run.

Journey: recent, usage, store -> [trying] -> generations, `mamplus ble load --dry-run`.
"""

import msgspec

from mamplus_host.analyzer.verify import verify
from mamplus_host.ble.entry import Kind
from mamplus_host.ble.globs import Globs
from mamplus_host.ble.shadow import Ask, Shadow, Use, shadow
from mamplus_host.ble.stack import Stack
from mamplus_host.verdicts import Verdict


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What a device knows of itself when it is asked about a list."""

    uses: tuple[Use, ...]
    lifelines: tuple[Use, ...]
    limit: int  # Policy.shadow_limit
    suspect_as_block: bool = False  # the list in force is so old that its suspicions are refused
    in_force: int = 0  # generation


def try_out(old: Stack | None, new: Stack, situation: Situation, *, now_s: float) -> Shadow:
    """Return what `new` would newly block; `now_s`: the time by which entries end."""
    asks = (_ask(old, now_s, situation), _ask(new, now_s, situation))
    return shadow(asks[0], asks[1], situation.uses, situation.lifelines)


def _ask(ble: Stack | None, now_s: float, situation: Situation) -> Ask:
    globs = Globs(ble.parts()) if ble is not None else None

    def ask(kind: Kind, value: str) -> Verdict:
        verdict = verify(ble, kind, value, now_s=now_s, globs=globs).verdict
        return Verdict.BLOCK if verdict is Verdict.SUSPECT and situation.suspect_as_block else verdict

    return ask
