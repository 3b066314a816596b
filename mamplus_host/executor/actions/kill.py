# SPDX-License-Identifier: Apache-2.0
"""Ends one process, by a descriptor of it: never another one that has got its number.

What is held by `freeze` is ended as a whole: the target's `hold` holds those facts.
"""

from typing import Any

import msgspec

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.actions.of_this_boot import same_boot
from mamplus_host.executor.processes import tasks
from mamplus_host.executor.processes.process import Hold, Processes, Victim, is_alive
from mamplus_host.executor.shape import Facts, State
from mamplus_host.verdicts import ActionKind

NO_INVERSE = "a killed process cannot be brought back; start it again"


class Kill:
    """Target: `tgid` and `boot_ns`, or `hold`."""

    kind = ActionKind.KILL
    has_inverse = False

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def prepare(self, _action_id: str, target: dict[str, Any]) -> Facts:
        if "hold" in target:
            return {"boot": tasks.boot_id(), "hold": target["hold"], "why": target.get("why", "")}
        victim = self._processes.look(target["tgid"], target["boot_ns"])
        return {"boot": tasks.boot_id(), "tgid": victim.tgid, "start_ns": victim.start_ns}

    def hasten(self, facts: Facts) -> int:
        if "hold" in facts or not same_boot(facts):
            return -1
        return self._processes.send_end(Victim(facts["tgid"], facts["start_ns"]))

    def do(self, facts: Facts) -> str:
        if not same_boot(facts):
            raise ActionFailed("the device restarted before it was done; the process ended with it")
        if "hold" in facts:
            hold = msgspec.convert(facts["hold"], Hold)
            self._processes.kill_held(hold)
            return f"ended everything in {hold.cgroup!r}: {facts['why']}"
        self._processes.end(Victim(facts["tgid"], facts["start_ns"]))
        return f"killed process {facts['tgid']}"

    def undo(self, _facts: Facts) -> str:
        raise ActionFailed(NO_INVERSE)

    def verify(self, facts: Facts) -> State:
        if not same_boot(facts):
            return State.DONE
        if "hold" in facts:
            held = self._processes.is_held(msgspec.convert(facts["hold"], Hold))
            return State.DONE if held is False else State.UNDONE
        return State.UNDONE if is_alive(Victim(facts["tgid"], facts["start_ns"])) else State.DONE
