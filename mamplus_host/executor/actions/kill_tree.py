# SPDX-License-Identifier: Apache-2.0
"""Ends a process and all that it started. What it started and left to init is the cgroup's to end (`kill-cgroup`)."""

from typing import Any

import msgspec

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.actions.kill import NO_INVERSE
from mamplus_host.executor.actions.of_this_boot import same_boot
from mamplus_host.executor.processes import tasks
from mamplus_host.executor.processes.process import Processes, Victim, is_alive
from mamplus_host.executor.shape import Facts, State
from mamplus_host.verdicts import ActionKind

MAX_KNOWN = 500  # descendants that are written down; more are found again while the root lives


class KillTree:
    """Target: `tgid` and `boot_ns`. Guarded descendants, and those outside of the scope, are spared."""

    kind = ActionKind.KILL_TREE
    has_inverse = False

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def prepare(self, _action_id: str, target: dict[str, Any]) -> Facts:
        root = self._processes.look(target["tgid"], target["boot_ns"])
        family = self._processes.family(root)[:MAX_KNOWN]
        return {"boot": tasks.boot_id(), "root": msgspec.to_builtins(root), "family": msgspec.to_builtins(family)}

    def do(self, facts: Facts) -> str:
        if not same_boot(facts):
            raise ActionFailed("the device restarted before it was done; the processes ended with it")
        root, family = _victims(facts)
        ended = self._processes.end_family(root, family)
        return f"killed process {root.tgid} and what it started: {ended} ended"

    def undo(self, _facts: Facts) -> str:
        raise ActionFailed(NO_INVERSE)

    def verify(self, facts: Facts) -> State:
        if not same_boot(facts):
            return State.DONE
        root, family = _victims(facts)
        alive = [is_alive(one) for one in (root, *family)]
        return State.UNDONE if all(alive) else State.BETWEEN if any(alive) else State.DONE


def _victims(facts: Facts) -> tuple[Victim, list[Victim]]:
    return msgspec.convert(facts["root"], Victim), msgspec.convert(facts["family"], list[Victim])
