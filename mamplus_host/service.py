# SPDX-License-Identifier: Apache-2.0
"""The agent: owns what is open, from `start` to `stop`; joins kernel, pipeline, uplink and control.

Its parts are made by `parts`, and served by `loop`; the uplink's threads hand over to that.
"""

import contextlib
import logging
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from mamplus_host import __version__, memory, parts, systemd
from mamplus_host.appeals import Appeals
from mamplus_host.ble.stack import Stack
from mamplus_host.ble.store import BleStore
from mamplus_host.clock import DeviceClock
from mamplus_host.collector.files import OVERFLOW
from mamplus_host.config import DEFAULT_CONFIG, Config, cgroup_dir, load, require_netns
from mamplus_host.control.commands import Commands
from mamplus_host.control.server import ControlServer
from mamplus_host.control.status import describe, losses
from mamplus_host.doctor.examiner import Examiner
from mamplus_host.enterprise import load_enterprise
from mamplus_host.errors import MamplusError, NotPossible
from mamplus_host.events import FileChange
from mamplus_host.executor.actions import refuse
from mamplus_host.executor.alertlog import AlertLog
from mamplus_host.executor.courses import Line
from mamplus_host.executor.journal import Journal
from mamplus_host.executor.network.netfilter_keeper import NetfilterKeeper
from mamplus_host.executor.network.refusals import Network
from mamplus_host.executor.receipts import Receipts, signature_of, told_of
from mamplus_host.executor.vault import lost as vault_lost
from mamplus_host.executor.vault.vault import Vault
from mamplus_host.kernel import filepage, guard, pins, responder, watching
from mamplus_host.kernel.objects import Kernel
from mamplus_host.loop import Loop
from mamplus_host.outbox.identity import Identity
from mamplus_host.outbox.store import Outbox
from mamplus_host.policy.actions import ActionRules
from mamplus_host.statelock import StateLock
from mamplus_host.updating import Updater
from mamplus_host.uplink import Uplink

LOG = logging.getLogger("mamplus")
TURN_S = 0.0005  # for which another thread may keep the interpreter from the loop, at each of the loop's system calls
NETFILTER_START_S = 10.0  # for our iptables rules; whoever holds their lock for longer does not hold up the start


class Service:
    """One agent, from `start` to `stop`. What its loop serves runs in that one thread."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.started_s = time.monotonic()
        with contextlib.suppress(MamplusError):  # `attach` says what is in the way
            guard.claim(config)
        filepage.admit(config)  # before anything touches our state: it is guarded, perhaps by an agent before us
        _make_directories(config)
        self.lock = StateLock(config.state)
        self.loop = Loop(self)
        self.clock = DeviceClock(config.state)
        self.updater = Updater(config.state, self.clock, lambda: self.loop.soon(self.reload))
        self.examiner = Examiner(config, clock=self.clock, on_done=lambda: self.loop.soon(self._on_examined))
        self.cgroup = cgroup_dir(config)
        require_netns(config)
        watching.require_paths(config)
        self.store = BleStore(config.state)
        self.netfilter = NetfilterKeeper(config, self._packet_pins, renew=lambda: not self.kernel.adopted)
        self.responder_fd = -1
        self.uplink: Uplink | None = None
        self._has_recovered = False
        self._reported = ""  # state of the generation that the uplink was told of last

    # --- start and stop --------------------------------------------------------------------------

    def start(self) -> None:
        """Attach everything; what stands from an agent before is adopted. Raises MamplusError."""
        self._open()
        self._attach()
        self._make_stages()
        self._enforce()
        self._serve()
        self.tamper = parts.make_watch(self)  # last: from here on a silence is no start that takes its time

    def _open(self) -> None:
        """Open what is kept on the disk."""
        config = self.config
        self.vault = Vault(config.state / "vault", limits=config.limits, clock=self.clock)
        if self.vault.put_aside:
            LOG.error("the vault is damaged; beginning an empty one, and keeping it as %r", self.vault.put_aside)
        self.journal = Journal(config.state / "journal", max_bytes=config.limits.journal_bytes, clock=self.clock)
        self.alerts = AlertLog(config.state / "alerts.sqlite")
        self.outbox = Outbox(config.state / "outbox.sqlite", max_bytes=config.limits.outbox_bytes)

    def _attach(self) -> None:
        """Have the kernel refuse what the agent before refused, and somebody hash."""
        config = self.config
        pins.make_room(config)
        self.pins_lock = StateLock(config.bpffs)  # two agents with other states must not share one set of pins
        self.kernel = Kernel.attach(config, self.cgroup)
        self.kernel.beat(self.clock.boot_ns())
        self.network = Network(config, self.clock)
        self.network.second.put_off()  # it may wait for a lock longer than systemd waits for us; the hooks refuse
        self.loop.alone(self.network.enforce)  # what actions refuse: before these hooks stand alone
        if not self.kernel.adopted:
            self.examiner.attached_anew()
        self.guarding = parts.make_guarding(self)
        self._watch_responder()

    def _make_stages(self) -> None:
        """Make what decides and acts."""
        self.guard_set = parts.make_guard_set(self)
        self.executor = parts.make_executor(self)
        for fault in self.executor.faults:
            LOG.error("%s; starting all the same", fault)
        self.receipts = Receipts(self.config.state / "receipts", lambda: signature_of(self.config.state))
        self.pipeline = parts.make_pipeline(self)
        self.kernel.ring.feed(self.pipeline.past)
        self.loop.alone(self._tell_of_lost_vaults)
        self.sweep = parts.make_sweep(self)
        self.ordering = parts.make_ordering(self)
        self.maintenance = parts.make_keeper(self)
        self.generations = parts.make_generations(self)

    def _enforce(self) -> None:
        """Have the list in force, then finish or take back what was interrupted."""
        # Tables before anything that may take long. A list that cannot be loaded must not keep the agent from starting.
        self.loop.alone(self.generations.begin)
        self.loop.alone(self._use_policy)
        self.loop.alone(self.vault.sweep_all)  # what a power cut left beside a file is kept before that is looked at
        self.loop.alone(lambda: self.executor.adopt(refuse.standing(self.network)))
        self.executor.work_beside(Line(self.loop.soon), self.pipeline.note_late, parts.make_overdue(self))
        self.loop.alone(lambda: self.pipeline.note_late(self.executor.recover(self.pipeline.note_begun)))
        self._has_recovered = True
        if self.generations.ble is not None:
            self.loop.alone(partial(self.take_list, self.generations.ble))
        self.isolating = parts.make_isolating(self)
        self.loop.alone(lambda: self.guarding.follow(self.generations.policy.files))
        self.kernel.retire_predecessors()
        self.netfilter.apply(NETFILTER_START_S)
        self.network.second.begin(lambda: self.loop.soon(self.look_at_ourselves))

    def _serve(self) -> None:
        """Watch, answer and report."""
        config = self.config
        self.protecting = parts.make_protecting(self)
        self.control = ControlServer(config.control_socket, self.loop.epoll, Commands(self))
        appeals = Appeals(self.clock, self.alerts.get, self.pipeline.tell)
        self.asks = ControlServer(config.ask_socket, self.loop.epoll, appeals, for_all=True)
        self.loop.watch_ends(self.executor.ends())
        self.loop.watch(self.kernel.ring.fileno())
        self.loop.watch(self.protecting.files.fileno())
        self.loop.watch(self.protecting.brake.fileno())
        if self.guarding.fileno() >= 0:
            self.loop.watch(self.guarding.fileno())
        self.loop.alone(self.loop.on_files)  # who changed something since the watch stands says so there
        self.pipeline.take(self._unseen())
        self._begin_uplink()

    def stop(self) -> None:
        """Close what is open. Hooks, rules and responder stay: enforcement outlives the agent (`mamplus detach`)."""
        systemd.notify("STOPPING=1")
        self.loop.alone(self.loop.drain)  # who sent us away is told before we go
        self.loop.alone(self.pipeline.tell_all)  # before what may take long
        self.loop.alone(self.executor.stop)
        self.tamper.close()
        self.guarding.close()
        self.network.second.stop()
        if self.uplink is not None:
            self.uplink.stop()
        self.control.close()
        self.asks.close()
        self.loop.alone(self.protecting.settle)
        self.loop.alone(self.pipeline.close)
        for part in (self.protecting, self.outbox, self.alerts, self.journal, self.vault, self.clock):
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
        self.loop.alone(self._use_policy)
        self.loop.alone(self.guard_files)
        self.report()
        if self.uplink is not None:
            self.uplink.knows(self.generations.known)
        return {"generation": self.generations.number, "newest": self.generations.newest}

    def accept(self, number: int) -> dict[str, Any]:
        """Let in a generation that is held or was rolled back, on a person's word."""
        self.generations.accept(number)
        self.report()
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

    def report(self) -> None:
        """Have the uplink say which generation is in force, when that has changed."""
        number, state = self.generations.number, self.generations.state
        if self.uplink is not None and (self.uplink.enforced != number or self._reported != state):
            self._reported = state
            self.uplink.installed(number, losses=losses(self), controls=self.kernel.hooks())

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
                on_generation=lambda _generation: self.updater.start(),  # the uplink asks again if it fails
                on_orders=lambda texts: self.loop.soon(lambda: self.ordering.take(texts)),
            )
            self._reported = self.generations.state
            self.uplink.examined(self.examiner.report())
            self.uplink.knows(self.generations.known)
            self.uplink.start()

    def tell_receipts(self) -> None:
        """Tell the enterprise of everything done by its order that it was not told of."""
        for action_id, kept in self.receipts.untold().items():
            self.pipeline.tell(told_of(action_id, kept, self.clock))
            self.receipts.told(action_id)

    def _tell_of_lost_vaults(self) -> None:
        for directory, alert in vault_lost.untold(self.config.state, self.clock):
            self.pipeline.tell(alert)
            vault_lost.note_told(directory)

    def own_tasks(self) -> frozenset[int]:
        """The processes that no action may ever touch."""
        return frozenset({os.getpid(), self.responder.pid, self.kernel.keeper})

    def action_rules(self) -> ActionRules:
        """Return what the policy in force says of actions."""
        return self.generations.policy.actions

    # --- what the loop has done ------------------------------------------------------------------

    def guard_files(self) -> None:
        """Follow the policy's rules about files, which may be new, as may be what they name."""
        new = self.guarding.follow(self.generations.policy.files) + self.guarding.tick()
        self.protecting.files.add_all(new)

    def look_at_ourselves(self) -> None:
        """Put back what somebody took from us, and tell of it."""
        self.kernel.settle_guard(self.responder.pid)
        self.pipeline.take(self.tamper.look())

    def take_list(self, ble: Stack) -> None:
        """Give a generation that the kernel asks by now to whoever else goes by it."""
        watching.poke(self.responder_fd)
        if self._has_recovered:  # what was interrupted is finished before the list is asked about it
            self.pipeline.use(ble)
            self.sweep.start()

    def _packet_pins(self) -> tuple[Path, Path]:
        return self.kernel.packet_program_path("in"), self.kernel.packet_program_path("out")

    def _unseen(self) -> list[FileChange]:
        """One change for every protected file: nobody watched while no agent ran."""
        now = self.clock.boot_ns()
        return [FileChange(boot_ns=now, path=path, changes=(OVERFLOW,), tgid=0) for path in self.vault.paths()]

    # --- the responder ---------------------------------------------------------------------------

    def wake_responder(self) -> None:
        if self.responder_fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.responder_fd, signal.SIGCONT)

    def renew_responder(self) -> None:
        """Replace a responder that ended; the next tick tries again, and until then the declared answers hold."""
        if self.responder_fd >= 0:
            self.loop.epoll.unregister(self.responder_fd)
            os.close(self.responder_fd)
            self.responder_fd = -1
        self._watch_responder()

    def _watch_responder(self) -> None:
        """Have a responder, and be woken when it ends."""
        self.responder = responder.ensure_running(self.config, self.cgroup)
        self.responder_fd = os.pidfd_open(self.responder.pid)
        self.loop.watch(self.responder_fd)
        for path, why in self.kernel.watching.ask(self.config, self.responder_fd).items():
            LOG.error("[exec] fanotify: %r is not watched: %s", path, why)

    # --- trying the controls ---------------------------------------------------------------------

    def examine(self) -> None:
        self.examiner.begin_if_due(self.generations.number, self.generations.state)
        self.examiner.hand_on(self.pipeline.tell)

    def _on_examined(self) -> None:
        """Read what the trials left in the ring while it is known whose they were, then take their result."""
        self.loop.drain()
        if self.examiner.finish():
            self.examiner.hand_on(self.pipeline.tell)
            if self.uplink is not None:
                self.uplink.examined(self.examiner.report())


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
    sys.setswitchinterval(TURN_S)
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
            signal.signal(number, service.loop.ask_to_stop)
        service.start()
        memory.keep_still()
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
        service.loop.run()
    finally:
        service.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
