# SPDX-License-Identifier: Apache-2.0
"""Everything that this device can do, one line a deed.

Journey: service -> [deeds] -> execute.
"""

from collections.abc import Iterable

from mamplus_host.clock import Clock
from mamplus_host.config import Config
from mamplus_host.executor.actions.freeze import Freeze
from mamplus_host.executor.actions.kill import Kill
from mamplus_host.executor.actions.kill_cgroup import KillCgroup
from mamplus_host.executor.actions.kill_tree import KillTree
from mamplus_host.executor.actions.restore import Restore
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.process import Processes
from mamplus_host.executor.shape import Deed
from mamplus_host.executor.vault import Vault
from mamplus_host.verdicts import ActionKind


def deeds(config: Config, vault: Vault, clock: Clock, guarded: GuardSet) -> dict[ActionKind, Deed]:
    """Return the deeds by their kind; ConfigInvalid when the scope has no cgroup."""
    processes = Processes.of(config, guarded)
    found: Iterable[Deed] = (
        Kill(processes),
        KillTree(processes),
        KillCgroup(processes),
        Freeze(processes),
        Restore(vault, clock),
    )
    return {deed.kind: deed for deed in found}
