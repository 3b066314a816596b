# SPDX-License-Identifier: Apache-2.0
"""The agent: owns the descriptors, runs the loop, joins kernel, pipeline, uplink and control.

One thread runs everything but the network: the ring, the file watch and the control socket
meet in one epoll. The uplink's threads hand over through a queue and an eventfd. While
nothing happens the loop wakes once in TICK_S; the kernel wakes it for what is urgent.
"""

import contextlib
import functools
import logging
import os
import queue
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mamplus_host import __version__, memory, systemd
from mamplus_host.actionrules import ActionRules
from mamplus_host.appeals import Appeals
from mamplus_host.ble.guard import Guard
from mamplus_host.ble.stack import Stack
from mamplus_host.ble.store import BleStore
from mamplus_host.clock import DeviceClock
from mamplus_host.collector.decode import decode_run
from mamplus_host.collector.files import OVERFLOW
from mamplus_host.collector.lineage import Task
from mamplus_host.config import DEFAULT_CONFIG, Config, cgroup_dir, load, require_netns
from mamplus_host.control.commands import Commands
from mamplus_host.control.render import event_view
from mamplus_host.control.server import ControlServer
from mamplus_host.control.status import describe
from mamplus_host.doctor.examiner import Examiner
from mamplus_host.enterprise import load_enterprise
from mamplus_host.errors import EventMalformed, MamplusError, NotPossible
from mamplus_host.events import Event, FileChange, FileEvent, Tamper
from mamplus_host.executor.actions import refuse
from mamplus_host.executor.alertlog import AlertLog
from mamplus_host.executor.deeds import deeds
from mamplus_host.executor.disarm import Disarmed
from mamplus_host.executor.execute import Executor
from mamplus_host.executor.guardset import GuardSet
from mamplus_host.executor.journal import Journal
from mamplus_host.executor.netfilter_keeper import NetfilterKeeper
from mamplus_host.executor.network import Network
from mamplus_host.executor.package_managers import PackageManagers
from mamplus_host.executor.process import Processes
from mamplus_host.executor.receipts import Receipts, signature_of, told_of
from mamplus_host.executor.stopping import Stopper
from mamplus_host.executor.tasks import family_above
from mamplus_host.executor.vault import Vault
from mamplus_host.generations import Generations
from mamplus_host.guarding import Guarding
from mamplus_host.ids import new_id
from mamplus_host.isolating import Isolating
from mamplus_host.kernel import fileguards, guard, layout, pins, responder, watching
from mamplus_host.kernel.objects import Kernel
from mamplus_host.ledger import Ledger
from mamplus_host.maintenance.keeper import Keeper
from mamplus_host.outbox.identity import Identity
from mamplus_host.outbox.store import Outbox
from mamplus_host.pipeline import Pipeline, event_kind
from mamplus_host.protecting import Protecting
from mamplus_host.statelock import StateLock
from mamplus_host.sweep import Asks, Sweep
from mamplus_host.tamper.noticed import is_from_init, is_own_claim, is_shutting_down
from mamplus_host.tamper.pins import Pins
from mamplus_host.tamper.rules import Rules
from mamplus_host.tamper.watch import Watch
from mamplus_host.telling import escalation
from mamplus_host.updating import Updater
from mamplus_host.uplink import Uplink
from mamplus_host.usage import Usage
from mamplus_host.verdicts import Escalation, Finding, Severity

LOG = logging.getLogger("mamplus")
TICK_S = 5.0  # idle wake-up: watchdog, responder, deadlines of what is held
NETFILTER_START_S = (
    10.0  # for our iptables rules; whoever holds their lock longer does not keep the agent from starting
)
FAULT_PAUSE_S = 0.1  # after a part of the loop failed: one that fails at every turn must not take a processor


class Service:
    """One agent, from `start` to `stop`. Everything but the uplink runs in the caller's thread."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.started_s = time.monotonic()
        with contextlib.suppress(MamplusError):  # `attach` says what is in the way
            guard.claim(config)
        fileguards.admit(config)  # before anything touches our state: it is guarded, perhaps by an agent before us
        _make_directories(config)
        self.lock = StateLock(config.state)
        self.clock = DeviceClock(config.state)
        self.updater = Updater(config.state, self.clock, self._on_updated)
        self.examiner = Examiner(config, clock=self.clock, on_done=lambda: self._soon(self._on_examined))
        self.cgroup = cgroup_dir(config)
        require_netns(config)
        watching.require_paths(config)
        self.store = BleStore(config.state)
        self.netfilter = NetfilterKeeper(config, self._packet_pins, renew=lambda: not self.kernel.adopted)
        self._responder_fd = -1
        self.malformed = 0
        self.faults = 0
        self.last_fault = ""
        self.uplink: Uplink | None = None
        self._reported = ""  # state of the generation that the uplink was told of last
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._is_stopping = False
        self._has_worked = True  # since memory was given back last

    # --- start and stop --------------------------------------------------------------------------

    def start(self) -> None:
        """Attach everything; what stands from an agent before is adopted. Raises MamplusError."""
        config = self.config
        self.vault = Vault(config.state / "vault", limits=config.limits, clock=self.clock)
        if self.vault.put_aside:
            LOG.error("the vault is damaged; beginning an empty one, and keeping it as %r", self.vault.put_aside)
        self.journal = Journal(config.state / "journal", max_bytes=config.limits.journal_bytes, clock=self.clock)
        self.alerts = AlertLog(config.state / "alerts.sqlite")
        self.outbox = Outbox(config.state / "outbox.sqlite", max_bytes=config.limits.outbox_bytes)
        pins.make_room(config)
        self.pins_lock = StateLock(config.bpffs)  # two agents with other states must not share one set of pins
        self.kernel = Kernel.attach(config, self.cgroup)
        self.kernel.beat(self.clock.boot_ns())
        self.network = Network(config, self.clock)
        self.network.second.put_off()  # it may wait for a lock longer than systemd waits for us; the hooks refuse
        self._alone(self.network.enforce)  # what actions refuse: before these hooks stand alone
        if not self.kernel.adopted:
            self.examiner.attached_anew()
        self.guarding = self._make_guarding()
        self._watch_responder()
        self.guard_set = self._make_guard_set()
        self.executor = Executor(
            config, journal=self.journal, vault=self.vault, clock=self.clock, guarded=self.guard_set,
            deeds=deeds(config, self.vault, self.clock, self.guard_set, network=self.network),
            disarmed=Disarmed(config.state / "rules.json", clock=self.clock, rules=self.action_rules),
        )  # fmt: skip
        for fault in self.executor.faults:
            LOG.error("%s; starting all the same", fault)
        self.receipts = Receipts(config.state / "receipts", lambda: signature_of(config.state))
        self.pipeline = self._make_pipeline()
        self.sweep = self._make_sweep()
        self.maintenance = self._make_keeper()
        self.generations = self._make_generations()
        self._alone(self.vault.sweep_all)  # what a power cut left beside a file is kept before the file is looked at
        self._alone(lambda: self.executor.adopt(refuse.standing(self.network)))
        self._alone(lambda: self.alerts.note_outcomes(self.executor.recover()))
        self.isolating = self._make_isolating()
        self._alone(self.generations.begin)  # a list that cannot be loaded must not keep the agent from starting
        self._alone(self._use_policy)
        self._alone(lambda: self.guarding.follow(self.generations.policy.files))
        self.kernel.retire_predecessors()
        self.netfilter.apply(NETFILTER_START_S)
        self.network.second.begin(lambda: self._soon(self._look_at_ourselves))
        self.protecting = self._make_protecting()
        self.control = ControlServer(config.control_socket, self._epoll, Commands(self))
        appeals = Appeals(self.clock, self.alerts.get, self.pipeline.tell)
        self.asks = ControlServer(config.ask_socket, self._epoll, appeals, for_all=True)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._epoll.register(self.kernel.ring.fileno(), select.EPOLLIN)
        self._epoll.register(self.protecting.files.fileno(), select.EPOLLIN)
        if self.guarding.fileno() >= 0:
            self._epoll.register(self.guarding.fileno(), select.EPOLLIN)
        self.pipeline.take(self._unseen())
        self.tamper = self._make_watch()
        self._begin_uplink()

    def run(self) -> None:
        """Serve until `ask_to_stop`."""
        next_tick = time.monotonic()
        self.tamper.rest()
        while not self._is_stopping:
            now = time.monotonic()
            if now >= next_tick:
                self._tick()
                next_tick = now + TICK_S
            if not self._alone(self._drain):
                time.sleep(FAULT_PAUSE_S)
            gather_s = self.kernel.ring.arm()  # while events flow the unurgent ones are gathered; None: nothing flows
            tick_s = max(0.0, next_tick - time.monotonic())
            settle_s = self.protecting.settle_in_s()
            if settle_s is not None:
                tick_s = min(tick_s, settle_s)
            ready = self._epoll.poll(tick_s if gather_s is None else min(gather_s, tick_s))
            for fd, mask in ready:
                if not self._alone(functools.partial(self._on_ready, fd, mask)):
                    time.sleep(FAULT_PAUSE_S)
            if settle_s is not None and not ready and not self.protecting.settle_in_s():
                self._alone(self.protecting.settle)

    def ask_to_stop(self, *_signal: object) -> None:
        """End `run` at its next turn; may be called from a signal handler."""
        self._is_stopping = True
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Close what is open. Hooks, rules and responder stay: enforcement outlives the agent (`mamplus detach`)."""
        systemd.notify("STOPPING=1")
        self._alone(self._drain)  # who sent us away is told before we go
        self.tamper.close()
        self.guarding.close()
        self.network.second.stop()
        if self.uplink is not None:
            self.uplink.stop()
        self.control.close()
        self.asks.close()
        self._alone(self.protecting.settle)
        for part in (self.protecting.files, self.outbox, self.alerts, self.journal, self.vault, self.clock):
            part.close()
        self.pins_lock.release()
        self.lock.release()

    # --- what the control socket asks ------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        return describe(self)

    def reload(self) -> dict[str, Any]:
        """Enforce the newest generation when nothing speaks against it, and tell the enterprise."""
        self.clock.reload()  # an update in another process has raised its floor
        self.generations.reload()
        self._alone(self._use_policy)
        self._alone(self._guard_files)
        self._report()
        if self.uplink is not None:
            self.uplink.knows(self.generations.known)
        return {"generation": self.generations.number, "newest": self.generations.newest}

    def accept(self, number: int) -> dict[str, Any]:
        """Let in a generation that is held or was rolled back, on a person's word."""
        self.generations.accept(number)
        self._report()
        return {"generation": self.generations.number}

    def identity_changed(self) -> dict[str, Any]:
        """Talk to the enterprise that this device belongs to now, and never refuse the way to it."""
        self.generations.read_policy()
        self.generations.load_again()  # with its name among those that are never refused
        self._begin_uplink()
        return {"enrolled": self.uplink is not None}

    def _use_policy(self) -> None:
        """Tell the kernel which programs are interpreters, where it can look at what they read."""
        if "open" in self.kernel.hooks():
            self.kernel.interpreters.use(self.generations.policy.interpreters)

    def _report(self) -> None:
        """Have the uplink say which generation is in force, when that has changed."""
        number, state = self.generations.number, self.generations.state
        if self.uplink is not None and (self.uplink.enforced != number or self._reported != state):
            self._reported = state
            self.uplink.installed(number, losses=self.losses(), controls=self.kernel.hooks())

    def _begin_uplink(self) -> None:
        """Begin (or begin again) to talk to the enterprise, once this device belongs to one."""
        if self.uplink is not None:
            self.uplink.stop()
            self.uplink = None
        if load_enterprise(self.config.state) is not None:
            self.uplink = Uplink(
                Identity.load(self.config.state),
                self.outbox,
                self.config.uplink,
                self.clock,
                enforced=self.generations.number,
                on_generation=self._on_news,
            )
            self._reported = self.generations.state
            self.uplink.examined(self.examiner.report())
            self.uplink.knows(self.generations.known)
            self.uplink.start()

    def losses(self) -> dict[str, int]:
        """Every loss of this agent, by counter."""
        kernel = self.kernel.tables.counters()
        return {
            "lost": kernel["lost"],
            "hold_lost": kernel["hold_lost"],
            "malformed": self.malformed,
            "faults": self.faults + self.pipeline.counts["faults"],
            "phantoms": self.pipeline.phantoms,
            "unresolved_paths": self.pipeline.unresolved,
            "file_watch": self.protecting.files.lost,
            "alert_log": self.alerts.lost,
            "escalations": self.pipeline.counts["escalations_failed"],
            "control_clients": self.control.refused,
            "ask_clients": self.asks.refused,
            **self.kernel.watching.losses(),
        }

    def tell_receipts(self) -> None:
        """Tell the enterprise of every wipe that it was not told of."""
        for action_id, kept in self.receipts.untold().items():
            self.pipeline.tell(told_of(action_id, kept, self.clock))
            self.receipts.told(action_id)

    def own_tasks(self) -> frozenset[int]:
        """The processes that no action may ever touch."""
        return frozenset({os.getpid(), self.responder.pid, self.kernel.watching.keeper})

    def action_rules(self) -> ActionRules:
        """Return what the policy in force says of actions."""
        return self.generations.policy.actions

    # --- the loop's parts ------------------------------------------------------------------------

    def _drain(self) -> None:
        """Run a batch of what the ring holds through the pipeline; `arm` says when there is more."""
        if runs := self.kernel.ring.drain():
            self._has_worked = True
            self.pipeline.take(self._decoded(runs))

    def _decoded(self, runs: Iterable[tuple[int, int, bytes]]) -> Iterator[Event]:
        for kind, count, data in runs:
            try:
                yield from decode_run(kind, count, data)
            except EventMalformed as error:
                self.malformed += count
                LOG.error("%s; %d records dropped", error, count)

    def _on_ready(self, fd: int, mask: int) -> None:
        if fd == self._wake:
            os.eventfd_read(self._wake)
            while not self._jobs.empty():
                self._alone(self._jobs.get())
        elif fd == self._responder_fd:
            LOG.warning("the responder (pid %d) ended; starting another", self.responder.pid)
            self._alone(self._look_at_ourselves)  # it ends when its pins are gone, and the next one needs them
            self._alone(self._renew_responder)
        elif fd == self.protecting.files.fileno():
            self._on_files()
        elif fd == self.guarding.fileno():
            self._drain()  # likewise
            self.pipeline.take(self._decoded([(layout.KIND_FILE, 1, data) for data in self.guarding.read()]))
        elif self.asks.owns(fd):
            self.asks.on_ready(fd, mask)
        elif self.control.owns(fd):
            self.control.on_ready(fd, mask)
            follows = self.control.has_followers
            self.pipeline.publish = self._publish if follows else None

    def _on_files(self) -> None:
        """Treat what was touched, one after the other: whoever goes on meanwhile is seen before the next."""
        waiting = deque(self._read_files())
        while waiting:
            self.pipeline.take([waiting.popleft()])
            self.protecting.let_go()  # who was stopped at once is frozen by now
            waiting.extend(self._read_files())

    def _read_files(self) -> list[FileEvent]:
        found = self.protecting.read()  # at once: it stops who rewrites many files
        self._drain()  # who wrote is told by the ring: read it before that is treated
        return found

    def _tick(self) -> None:
        systemd.watchdog()
        self._alone(self.control.expire)
        self._alone(self.asks.expire)
        self._alone(self.tell_receipts)
        self._alone(self.maintenance.look)
        self._alone(self._look_at_ourselves)
        self._alone(lambda: self.kernel.beat(self.clock.boot_ns()))
        self._alone(self.netfilter.tick)
        self._alone(lambda: self.alerts.note_outcomes(self.executor.expire()))
        self._alone(lambda: self.executor.disarmed.hand_on(lambda told: self.pipeline.tell(escalation(told))))
        self._alone(self.pipeline.flush)
        self._alone(self.isolating.tick)
        if self._responder_fd < 0:
            self._alone(self._renew_responder)
        self._alone(self._give_back)
        self._alone(self.clock.tick)
        self._alone(self.generations.tick)
        self._alone(self._report)  # a tick may roll back
        self._alone(self._guard_files)
        self._alone(lambda: self.pipeline.take(self.protecting.tick()))
        self._alone(self._examine)
        self._alone(self._prove)

    def _give_back(self) -> None:
        if self._has_worked:
            self._has_worked = False
            memory.give_back()

    def _prove(self) -> None:
        if self.uplink is not None and self.uplink.is_reachable() and self.generations.wants_proof():
            self.updater.prove()

    def _guard_files(self) -> None:
        """Follow the policy's rules about files, which may be new, as may be what they name."""
        new = self.guarding.follow(self.generations.policy.files) + self.guarding.tick()
        self.protecting.files.add_all(new)

    def _look_at_ourselves(self) -> None:
        """Put back what somebody took from us, and tell of it."""
        self.kernel.settle_guard(self.responder.pid)
        self.pipeline.take(self.tamper.look())

    def _alone(self, job: Callable[[], object]) -> bool:
        """Run a part of the loop so that its failure cannot end the agent: what is enforced stays enforced."""
        try:
            job()
        except Exception as error:  # counted, told, shown in `status`; the next tick or event tries again
            self.faults += 1
            fault = f"{type(error).__name__}: {error}"
            if fault != self.last_fault:  # one that comes at every turn would fill the log
                LOG.exception("a part of the loop failed; the agent goes on")
            self.last_fault = fault
            return False
        return True

    def _publish(self, event: Event) -> None:
        self.control.publish(event_view(event, event_kind(event)))

    # --- from the uplink's threads ---------------------------------------------------------------

    def _on_escalation(self) -> None:
        if self.uplink is not None:
            self.uplink.notify()

    def _on_news(self, _generation: int) -> None:
        """Fetch it; the uplink asks again if that fails."""
        self.updater.start()

    def _on_updated(self) -> None:
        self._soon(self.reload)

    def _soon(self, job: Callable[[], object]) -> None:
        """Have the loop run `job`; may be called in any thread."""
        self._jobs.put(job)
        os.eventfd_write(self._wake, 1)

    # --- trying the controls ---------------------------------------------------------------------

    def _examine(self) -> None:
        self.examiner.begin_if_due(self.generations.number, self.generations.state)
        self.examiner.hand_on(self.pipeline.tell)

    def _on_examined(self) -> None:
        """Read what the trials left in the ring while it is known whose they were, then take their result."""
        self._drain()
        if self.examiner.finish():
            self.examiner.hand_on(self.pipeline.tell)
            if self.uplink is not None:
                self.uplink.examined(self.examiner.report())

    # --- parts of start --------------------------------------------------------------------------

    def _unseen(self) -> list[FileChange]:
        """One change for every protected file: nobody watched while no agent ran."""
        now = self.clock.boot_ns()
        return [FileChange(boot_ns=now, path=path, changes=(OVERFLOW,), tgid=0) for path in self.vault.paths()]

    def _make_generations(self) -> Generations:
        ledger = Ledger(
            self.config.state, clock=self.clock, boot_id=self.clock.boot_id, tell=self.pipeline.tell,
            journal=lambda facts: self.journal.append("note", "", facts),
        )  # fmt: skip
        return Generations(
            self.config, clock=self.clock, tables=self.kernel.tables, ledger=ledger, recent=self.pipeline.in_use,
            around=Usage(self.cgroup, self.kernel.tables), use=self._take_list, reach=lambda: self.uplink,
        )  # fmt: skip

    def _make_sweep(self) -> Sweep:
        asks = Asks(
            content=self.pipeline.ask, start=self.pipeline.ask_start, spared=self.own_tasks,
            boot_ns=self.clock.boot_ns, generation=lambda: self.generations.number,
        )  # fmt: skip
        return Sweep(self.cgroup, self.kernel.tables, asks, post=self._soon, take=self.pipeline.take)

    def _make_guarding(self) -> Guarding:
        tables = self.kernel.tables
        self.kernel.stand_file_hooks()
        return Guarding(
            self.config, self.kernel.directory, tables.remember, self.vault,
            lineage=self._lineage_of,
        )  # fmt: skip

    def _lineage_of(self, tgid: int) -> list[Task]:
        return self.pipeline.lineage.ancestry(tgid)

    def _make_pipeline(self) -> Pipeline:
        return Pipeline(
            config=self.config,
            clock=self.clock,
            executor=self.executor,
            outbox=self.outbox,
            alerts=self.alerts,
            guarded=self.own_tasks,
            rules=self.action_rules,
            on_escalation=self._on_escalation,
            on_restored=self._rewatch,
            may_change=self._may_change,
            is_expected=self._is_expected,
            trying=lambda: self.examiner.tries_as,
        )

    def _make_guard_set(self) -> GuardSet:
        config = self.config
        return GuardSet(
            self.own_tasks, never=self._never, spared=lambda: self.action_rules().spared,
            trees=(config.state, config.run, config.bpffs),
        )  # fmt: skip

    def _never(self) -> tuple[Guard, ...]:
        """Return the addresses that stay reachable."""
        return self.generations.guards()

    def _rewatch(self, path: str) -> None:
        self.protecting.rewatch(path)

    def _may_change(self, change: FileChange) -> bool:
        return self.guarding.may(change) or self.protecting.may(change)

    def _make_protecting(self) -> Protecting:
        self._processes = Processes.of(self.config, self.guard_set)
        stopper = Stopper(self.config.state, self._processes)
        stopper.recover()
        return Protecting(
            self.config, self.vault, clock=self.clock, boot_id=self.clock.boot_id, stopper=stopper,
            managers=PackageManagers(self._parent_of), ancestors=self._ancestors_of, covers=self.maintenance.covers,
            note=lambda facts: self.journal.append("note", "", facts), told=self._tell_of_files,
        )  # fmt: skip

    def _parent_of(self, tgid: int) -> int:
        known = self.pipeline.lineage.task(tgid)
        return known.ppid if known is not None else 0

    def _ancestors_of(self, tgid: int) -> list[int]:
        """Return the ancestors of a process that wrote: who ended meanwhile is known by the ring."""
        self._drain()
        return [one for one in family_above(tgid, self._parent_of) if self._processes.is_ours(one)]

    def _tell_of_files(self, rule: str, summary: str) -> None:
        at_s = self.clock.wall_s()
        self.pipeline.tell(
            Escalation(
                id=new_id(at_s), kind="file", finding=Finding.CONFIRMED, severity=Severity.MEDIUM, at=at_s,
                boot_ns=self.clock.boot_ns(), generation=0, rule=rule, summary=summary,
            )
        )  # fmt: skip

    def _make_watch(self) -> Watch:
        return Watch(
            pins=Pins(self.config, self.kernel.directory, self.cgroup), tables=self.kernel.tables,
            rules=Rules(self.config), netfilter=self.netfilter,
            boot_ns=self.clock.boot_ns, heartbeats=self.kernel.heartbeats,
            responder_pid=lambda: self.responder.pid, wake_responder=self._wake_responder,
        )  # fmt: skip

    def _make_isolating(self) -> Isolating:
        return Isolating(
            self.config, self.clock, self.network, executor=self.executor, policy=lambda: self.generations.policy,
            reach=lambda: self.uplink, device_id=self._device_id, tell=self.pipeline.tell,
        )  # fmt: skip

    def _device_id(self) -> str:
        enterprise = load_enterprise(self.config.state)
        return enterprise.device_id if enterprise else ""

    def _make_keeper(self) -> Keeper:
        return Keeper(
            self.config.state, self.clock, open_guard=self._open_guard,
            journal=lambda facts: self.journal.append("note", "", facts), tell=self.pipeline.tell,
        )  # fmt: skip

    def _open_guard(self, until_ns: int) -> None:
        if self.kernel.guard is not None:
            self.kernel.guard.open_window(until_ns)

    def _wake_responder(self) -> None:
        if self._responder_fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._responder_fd, signal.SIGCONT)

    def _packet_pins(self) -> tuple[Path, Path]:
        return self.kernel.packet_program_path("in"), self.kernel.packet_program_path("out")

    def _is_expected(self, tamper: Tamper) -> bool:
        """Whether this is our own doing, what a maintenance window allows, or the end of the whole system."""
        if is_own_claim(tamper, os.getpid()) or self.maintenance.covers(tamper.head.boot_ns):
            return True
        return is_from_init(tamper) and is_shutting_down()

    def _renew_responder(self) -> None:
        """Replace a responder that ended; the next tick tries again, and until then the declared answers hold."""
        if self._responder_fd >= 0:
            self._epoll.unregister(self._responder_fd)
            os.close(self._responder_fd)
            self._responder_fd = -1
        self._watch_responder()

    def _watch_responder(self) -> None:
        """Have a responder, and be woken when it ends."""
        self.responder = responder.ensure_running(self.config, self.cgroup)
        self._responder_fd = os.pidfd_open(self.responder.pid)
        self._epoll.register(self._responder_fd, select.EPOLLIN)
        for path, why in self.kernel.watching.ask(self.config, self._responder_fd).items():
            LOG.error("[exec] fanotify: %r is not watched: %s", path, why)

    def _take_list(self, ble: Stack) -> None:
        """Give a generation that the kernel asks by now to whoever else goes by it."""
        watching.poke(self._responder_fd)
        self.pipeline.use(ble)
        self.sweep.start()


def _make_directories(config: Config) -> None:
    for path, mode in ((config.state, 0o700), (config.run, 0o711)):  # everybody may ask, in `run`
        try:
            path.mkdir(mode=mode, parents=True, exist_ok=True)
        except OSError as error:
            raise NotPossible(
                f"cannot make {str(path)!r}: {error.strerror}; make it, or name another in [paths]"
            ) from None


def main() -> int:
    """Run the agent in the foreground: `mamplus run` becomes this program."""
    memory.keep_small()
    path = Path(sys.argv[2]) if sys.argv[1:2] == ["--config"] and len(sys.argv) == 3 else DEFAULT_CONFIG
    try:
        if os.geteuid() != 0:
            raise NotPossible(
                "the agent needs root: BPF programs, cgroups and other processes are in its care; use sudo"
            )
        config = load(path)
        logging.basicConfig(level=config.agent.log_level.upper(), format="%(levelname)s %(message)s", stream=sys.stderr)
        service = Service(config)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, service.ask_to_stop)
        service.start()
    except MamplusError as error:
        print(f"mamplus: {error}", file=sys.stderr)
        return error.exit_code
    generation = service.generations.number
    how = "adopted what was pinned" if service.kernel.adopted else "attached anew"
    print(
        f"ready mamplus {__version__} {config.agent.mode} {service.cgroup} generation {generation} ({how})", flush=True
    )
    systemd.notify("READY=1")
    try:
        service.run()
    finally:
        service.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
