# SPDX-License-Identifier: Apache-2.0
"""Ends a whole app: all that is in its cgroup, at once, also what left its parents (cgroup.kill, Linux 5.14)."""

from pathlib import Path
from typing import Any

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.actions.kill import NO_INVERSE
from mamplus_host.executor.actions.of_this_boot import same_boot
from mamplus_host.executor.processes import tasks
from mamplus_host.executor.processes.cgroups import members
from mamplus_host.executor.processes.process import Processes
from mamplus_host.executor.shape import Facts, State
from mamplus_host.verdicts import ActionKind


class KillCgroup:
    """Target: `tgid` and `boot_ns` of any process of the app. Refused when something guarded lives there, too."""

    kind = ActionKind.KILL_CGROUP
    has_inverse = False

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def prepare(self, _action_id: str, target: dict[str, Any]) -> Facts:
        cgroup = self._processes.app(target["tgid"], target["boot_ns"])
        return {"boot": tasks.boot_id(), "cgroup": str(cgroup), "ino": cgroup.stat().st_ino}

    def do(self, facts: Facts) -> str:
        if not same_boot(facts):
            raise ActionFailed("the device restarted before it was done; the processes ended with it")
        if _is_there(facts):
            self._processes.kill_app(Path(facts["cgroup"]))
        return f"killed everything in {facts['cgroup']!r}"

    def undo(self, _facts: Facts) -> str:
        raise ActionFailed(NO_INVERSE)

    def verify(self, facts: Facts) -> State:
        is_empty = not same_boot(facts) or not _is_there(facts) or not members(Path(facts["cgroup"]))
        return State.DONE if is_empty else State.UNDONE


def _is_there(facts: Facts) -> bool:
    """Say whether it is still that cgroup: an app that is started again may have one of the same name."""
    try:
        return bool(Path(facts["cgroup"]).stat().st_ino == facts["ino"])
    except OSError:
        return False
