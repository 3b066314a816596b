# SPDX-License-Identifier: Apache-2.0
"""Everything that this device can do, one line a deed.

Journey: service -> [deeds] -> execute.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from mamplus_host import systemd
from mamplus_host.ble.trust_memory import seal_key
from mamplus_host.clock import ListClock
from mamplus_host.config import Config
from mamplus_host.executor.actions.container_lock import ContainerLock
from mamplus_host.executor.actions.cut import Cut
from mamplus_host.executor.actions.evidence import Evidence
from mamplus_host.executor.actions.freeze import Freeze
from mamplus_host.executor.actions.isolate import Isolate
from mamplus_host.executor.actions.kill import Kill
from mamplus_host.executor.actions.kill_cgroup import KillCgroup
from mamplus_host.executor.actions.kill_tree import KillTree
from mamplus_host.executor.actions.lock import Lock
from mamplus_host.executor.actions.mount import MountControl
from mamplus_host.executor.actions.notify import Notify
from mamplus_host.executor.actions.quarantine import Quarantine
from mamplus_host.executor.actions.radio import Radio
from mamplus_host.executor.actions.refuse import Refuse
from mamplus_host.executor.actions.restore import Restore
from mamplus_host.executor.actions.usb import Usb
from mamplus_host.executor.actions.wipe import Wipe
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.network.refusals import Network
from mamplus_host.executor.processes.process import Processes
from mamplus_host.executor.receipts import Receipts, signature_of
from mamplus_host.executor.shape import Deed
from mamplus_host.executor.storage.boxes import Boxes
from mamplus_host.executor.vault.vault import Vault
from mamplus_host.maintenance.order import Orders
from mamplus_host.verdicts import ActionKind


def deeds(
    config: Config, vault: Vault, clock: ListClock, guarded: GuardSet, *, network: Network | None = None
) -> dict[ActionKind, Deed]:
    """Return the deeds by their kind; ConfigInvalid when the scope has no cgroup. `network`: the service's own."""
    processes = Processes.of(config, guarded)
    network = network or Network(config, clock)
    found: Iterable[Deed] = (
        Kill(processes),
        KillTree(processes),
        KillCgroup(processes),
        Freeze(processes),
        Restore(vault, clock),
        *_on_the_device(config, clock, guarded),
        Cut(processes, guarded, config.scope.netns, alive=systemd.watchdog),
        Refuse(network, processes, guarded),
        Isolate(network),
    )
    return {deed.kind: deed for deed in found}


def _on_the_device(config: Config, clock: ListClock, guarded: GuardSet) -> Iterable[Deed]:
    """Return what is done to files, sessions, radios, media and the professional container."""
    state, limits = config.state, config.limits
    own = (state, config.run, Path(sys.prefix), Path(__file__))

    def roads() -> list[str]:
        return [str(address) for address, _port in guarded.never()]

    boxes = Boxes(state / "quarantine", max_bytes=limits.quarantine_bytes, alive=systemd.watchdog)
    yield Quarantine(boxes, guarded, clock=clock, alive=systemd.watchdog)
    yield Notify(state / "notices", clock)
    yield Lock()
    yield Radio(roads)
    yield Usb(roads)
    yield MountControl(agent=own)
    yield Evidence(
        state / "evidence", max_bytes=limits.evidence_bytes, clock=clock, key=lambda: _key_of_enterprise(state)
    )
    yield ContainerLock(config.container)
    yield Wipe(
        config.container, Orders(state, getattr(clock, "list_s", clock.wall_s)),
        Receipts(state / "receipts", lambda: signature_of(state)), clock=clock, alive=systemd.watchdog,
    )  # fmt: skip


def _key_of_enterprise(state: Path) -> bytes | None:
    """Return the key to seal for, None before enrolment."""
    try:
        return seal_key(state)
    except OSError:
        return None
