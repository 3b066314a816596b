# SPDX-License-Identifier: Apache-2.0
"""Makes the parts of a service: each with the other parts that it works on, asks, or tells.

Parts are made in an order (`Service.start`), and some know others that are made later: those they get as functions,
which look when they are called.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mamplus_host.ble.guard import Guard
from mamplus_host.collector.lineage import Task
from mamplus_host.config import cgroup_path
from mamplus_host.enterprise import load_enterprise
from mamplus_host.events import FileChange, Tamper
from mamplus_host.executor.beside import OVERDUE_S
from mamplus_host.executor.deeds import deeds
from mamplus_host.executor.disarm import Disarmed
from mamplus_host.executor.execute import Executor
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.processes.process import Processes
from mamplus_host.executor.processes.stopping import Stopper
from mamplus_host.executor.processes.tasks import family_above
from mamplus_host.generations.generations import Generations
from mamplus_host.generations.ledger import Ledger
from mamplus_host.generations.usage import Usage
from mamplus_host.guarding import Guarding
from mamplus_host.ids import new_id
from mamplus_host.isolation.isolating import Isolating
from mamplus_host.maintenance.keeper import Keeper
from mamplus_host.maintenance.order import Orders
from mamplus_host.ordering import Ordering
from mamplus_host.pipeline import Pipeline
from mamplus_host.protected import brake
from mamplus_host.protected.dpkg_list import DpkgList
from mamplus_host.protected.package_managers import PackageManagers
from mamplus_host.protected.protecting import Protecting
from mamplus_host.sweep import Asks, Sweep
from mamplus_host.tamper.noticed import is_from_init, is_own_claim, is_shutting_down
from mamplus_host.tamper.pins import Pins
from mamplus_host.tamper.rules import Rules
from mamplus_host.tamper.watch import Watch
from mamplus_host.verdicts import Escalation, Finding, Severity

if TYPE_CHECKING:
    from mamplus_host.service import Service


def make_guarding(service: "Service") -> Guarding:
    def lineage_of(tgid: int) -> list[Task]:
        return service.pipeline.lineage.ancestry(tgid)

    kernel = service.kernel
    kernel.stand_file_hooks()
    return Guarding(service.config, kernel.directory, kernel.tables.remember, service.vault, lineage=lineage_of)


def make_guard_set(service: "Service") -> GuardSet:
    def never() -> tuple[Guard, ...]:
        """Return the addresses that stay reachable."""
        return service.generations.guards()

    config = service.config
    return GuardSet(
        service.own_tasks, never=never, spared=lambda: service.action_rules().spared,
        trees=(config.state, config.run, config.bpffs),
    )  # fmt: skip


def make_executor(service: "Service") -> Executor:
    config, clock = service.config, service.clock
    return Executor(
        config, journal=service.journal, vault=service.vault, clock=clock, guarded=service.guard_set,
        deeds=deeds(config, service.vault, clock, service.guard_set, network=service.network),
        disarmed=Disarmed(config.state / "rules.json", clock=clock, rules=service.action_rules),
    )  # fmt: skip


def make_pipeline(service: "Service") -> Pipeline:
    def on_escalation() -> None:
        """Called in the thread that stores: meanwhile the loop may begin another uplink."""
        uplink = service.uplink
        if uplink is not None:
            uplink.notify()

    def on_restored(path: str) -> None:
        service.protecting.rewatch(path)

    def may_change(change: FileChange) -> bool:
        return service.protecting.accepting.may(change)

    def is_expected(tamper: Tamper) -> bool:
        """Whether this is our own doing, what a maintenance window allows, or the end of the whole system."""
        if is_own_claim(tamper, os.getpid()) or service.maintenance.covers(tamper.head.boot_ns):
            return True
        return is_from_init(tamper) and is_shutting_down()

    return Pipeline(
        config=service.config,
        clock=service.clock,
        executor=service.executor,
        outbox=service.outbox,
        alerts=service.alerts,
        guarded=service.own_tasks,
        rules=service.action_rules,
        on_escalation=on_escalation,
        on_restored=on_restored,
        may_change=may_change,
        is_expected=is_expected,
        trying=lambda: service.examiner.tries_as,
    )


def make_sweep(service: "Service") -> Sweep:
    pipeline = service.pipeline
    asks = Asks(
        content=pipeline.ask, start=pipeline.ask_start, spared=service.own_tasks,
        boot_ns=service.clock.boot_ns, generation=lambda: service.generations.number,
    )  # fmt: skip
    return Sweep(service.cgroup, service.kernel.tables, asks, post=service.loop.soon, take=pipeline.take)


def make_keeper(service: "Service") -> Keeper:
    def open_guard(until_ns: int) -> None:
        if service.kernel.guard is not None:
            service.kernel.guard.open_window(until_ns)

    return Keeper(
        service.config.state, service.clock, open_guard=open_guard, journal=_note(service), tell=service.pipeline.tell,
    )  # fmt: skip


def make_ordering(service: "Service") -> Ordering:
    config, clock = service.config, service.clock
    return Ordering(
        config, clock, executor=service.executor, receipts=service.receipts, tell=service.pipeline.tell,
        order_book=Orders(config.state, clock.list_s), tell_receipts=service.tell_receipts,
    )  # fmt: skip


def make_overdue(service: "Service") -> Callable[[str], None]:
    tell = _telling(service, "action")

    def overdue(action_id: str) -> None:
        tell(
            "action-overdue",
            f"{action_id} has been running for more than {OVERDUE_S / 60:g} minutes, and what is in line behind it"
            " waits, but for an order to lock or to wipe: look whether its disk is broken",
        )

    return overdue


def make_generations(service: "Service") -> Generations:
    tables = service.kernel.tables
    ledger = Ledger(
        service.config.state, clock=service.clock, boot_id=service.clock.boot_id, tell=service.pipeline.tell,
        journal=_note(service),
    )  # fmt: skip
    return Generations(
        service.config, clock=service.clock, tables=tables, ledger=ledger, recent=service.pipeline.in_use,
        around=Usage(service.cgroup, tables), use=service.take_list, reach=lambda: service.uplink,
    )  # fmt: skip


def make_isolating(service: "Service") -> Isolating:
    def device_id() -> str:
        enterprise = load_enterprise(service.config.state)
        return enterprise.device_id if enterprise else ""

    return Isolating(
        service.config, service.clock, service.network, executor=service.executor,
        policy=lambda: service.generations.policy, reach=lambda: service.uplink, device_id=device_id,
        tell=service.pipeline.tell,
    )  # fmt: skip


def make_protecting(service: "Service") -> Protecting:
    config, clock = service.config, service.clock
    processes = Processes.of(config, service.guard_set)
    stopper = Stopper(config.state, processes, service.kernel.tables.is_waiting)
    stopper.recover()

    def parent_of(tgid: int) -> int:
        known = service.pipeline.lineage.task(tgid)
        return known.ppid if known is not None else 0

    def ancestors_of(tgid: int) -> list[int]:
        """Return the ancestors of a process that wrote: who ended meanwhile is known by the ring."""
        service.loop.drain()
        return [one for one in family_above(tgid, parent_of) if processes.is_ours(one)]

    def spared() -> brake.Spared:
        guard_set = service.guard_set
        return brake.Spared(
            scope=cgroup_path(config), tgids=guard_set.numbers(), units=guard_set.units(),
            programs=guard_set.programs(), managers=managers.programs,
        )  # fmt: skip

    managers = PackageManagers(parent_of)
    listed = DpkgList(service.vault.paths)
    return Protecting(
        config, service.vault, clock=clock, boot_id=clock.boot_id, stopper=stopper, brake=brake.of(config, spared),
        managers=managers, ancestors=ancestors_of, covers=service.maintenance.covers,
        note=_note(service), told=_telling(service, "file"), allows=service.guarding.allows,
        packaged=lambda path: listed.package_of(path, service.vault.latest(path).taken_at),
    )  # fmt: skip


def make_watch(service: "Service") -> Watch:
    config, kernel = service.config, service.kernel
    return Watch(
        pins=Pins(config, kernel.directory, service.cgroup), tables=kernel.tables,
        rules=Rules(config), netfilter=service.netfilter,
        boot_ns=service.clock.boot_ns, heartbeats=kernel.heartbeats,
        responder_pid=lambda: service.responder.pid, wake_responder=service.wake_responder,
    )  # fmt: skip


def _note(service: "Service") -> Callable[[dict[str, Any]], object]:
    """Return what writes a note into the journal."""
    return lambda facts: service.journal.append("note", "", facts)


def _telling(service: "Service", kind: str) -> Callable[[str, str], None]:
    """Return what tells the enterprise of something (rule, summary) that is no event."""

    def tell(rule: str, summary: str) -> None:
        at_s = service.clock.wall_s()
        service.pipeline.tell(
            Escalation(
                id=new_id(at_s), kind=kind, finding=Finding.CONFIRMED, severity=Severity.MEDIUM, at=at_s,
                boot_ns=service.clock.boot_ns(), generation=0, rule=rule, summary=summary,
            )
        )  # fmt: skip

    return tell
