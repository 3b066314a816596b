# SPDX-License-Identifier: Apache-2.0
"""Has a program stand still with all that it started, and lets it go on: `executor/processes/process.py` says where.

A restart of the device ends what is held, so after one there is nothing to let go.
"""

from typing import Any

import msgspec

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.actions.of_this_boot import same_boot
from mamplus_host.executor.processes import tasks
from mamplus_host.executor.processes.process import Hold, Processes
from mamplus_host.executor.shape import Facts, State
from mamplus_host.verdicts import ActionKind


class Freeze:
    """Target: `tgid` and `boot_ns`."""

    kind = ActionKind.FREEZE
    has_inverse = True

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def prepare(self, action_id: str, target: dict[str, Any]) -> Facts:
        hold = self._processes.where(target["tgid"], target["boot_ns"], action_id)
        return {"boot": tasks.boot_id(), "hold": msgspec.to_builtins(hold)}

    def effect(self, facts: Facts) -> str:
        return hold_of(facts).cgroup

    def do(self, facts: Facts) -> str:
        hold = hold_of(facts)
        if not same_boot(facts):
            raise ActionFailed("the device restarted before it was done; the process ended with it")
        settled = self._processes.freeze(hold)
        detail = f"froze {hold.cgroup!r} because of process {hold.tgid}"
        return detail + ("" if settled else "; some of its tasks still wait in the kernel")

    def undo(self, facts: Facts) -> str:
        hold = hold_of(facts)
        if same_boot(facts):
            self._processes.thaw(hold)
        return f"{hold.cgroup!r} goes on"

    def verify(self, facts: Facts) -> State:
        held = self._processes.is_held(hold_of(facts)) if same_boot(facts) else False
        return State.BETWEEN if held is None else State.DONE if held else State.UNDONE


def hold_of(facts: Facts) -> Hold:
    """Return where the facts of a freezing say that it holds."""
    return msgspec.convert(facts["hold"], Hold)
