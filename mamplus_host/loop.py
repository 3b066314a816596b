# SPDX-License-Identifier: Apache-2.0
"""The agent's loop: what wakes it, and which part of the agent answers.

Journey: ring, files, sockets, threads -> [loop] -> pipeline and the other parts of the service.

One thread runs everything but the network and what takes long (`executor/courses.py`):
the ring, the file watch and the control socket meet in one epoll. Other threads hand over through a queue and
an eventfd. While nothing happens the loop wakes once in TICK_S; the kernel wakes it for what is urgent.
"""

import functools
import logging
import os
import queue
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from mamplus_host import memory, systemd
from mamplus_host.collector.decode import decode_batch
from mamplus_host.control.render import event_view
from mamplus_host.errors import EventMalformed
from mamplus_host.events import Event, FileChange, FileEvent
from mamplus_host.kernel import layout
from mamplus_host.pipeline import event_kind
from mamplus_host.telling import escalation

if TYPE_CHECKING:
    from mamplus_host.service import Service

LOG = logging.getLogger("mamplus")
TICK_S = 5.0  # idle wake-up: watchdog, responder, deadlines of what is held
FILES_S = 0.1  # of one turn for touched files: whoever touches one again and again must not have the loop for himself
MAX_TOUCHED = 4096  # changes that wait with their writers named; beyond, one of each path, by nobody that is known
TELL_AFTER_S = 0.5  # without damage to a protected file: telling waits for the disk, and who damages does not
FAULT_PAUSE_S = 0.1  # after a part of the loop failed: one that fails at every turn must not take a processor


class Loop:
    """The loop of one service, in the thread that calls `run`; `soon` and `ask_to_stop` may be called in any."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self.malformed = 0
        self.faults = 0
        self.last_fault = ""
        self.epoll = select.epoll()
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.watch(self._wake)
        self._touched: dict[tuple[str, int], FileChange] = {}  # by path and writer, the one that waits longest first
        self._put_back_s = 0.0  # when a protected file was damaged last, time.monotonic()
        self._ends = -1  # `Executor.ends`
        self._is_stopping = False
        self._has_worked = True  # since memory was given back last

    def watch(self, descriptor: int) -> None:
        """Be woken when there is something to read; `_on_ready` says who reads it."""
        self.epoll.register(descriptor, select.EPOLLIN)

    def watch_ends(self, descriptor: int) -> None:
        """Have the executor collect what has ended, when `descriptor` says so."""
        self._ends = descriptor
        self.watch(descriptor)

    def run(self) -> None:
        """Serve until `ask_to_stop`."""
        service = self._service
        next_tick = time.monotonic()
        while not self._is_stopping:
            now = time.monotonic()
            if now >= next_tick:
                self._tick()
                next_tick = now + TICK_S
            if not self.alone(self.drain):
                time.sleep(FAULT_PAUSE_S)
            gather_s = service.kernel.ring.arm()  # while events flow the unurgent are gathered; None: nothing flows
            tick_s = max(0.0, next_tick - time.monotonic())
            settle_s = service.protecting.settle_in_s()
            if settle_s is not None:
                tick_s = min(tick_s, settle_s)
            tell_s = self._put_back_s + TELL_AFTER_S - time.monotonic()
            if service.pipeline.untold and tell_s <= 0:  # what happens meanwhile is acted on before the rest is told
                self.alone(service.pipeline.tell_some)
                tick_s = 0.0
            elif service.pipeline.untold:
                tick_s = min(tick_s, tell_s)
            if self._touched:
                tick_s = 0.0
            ready = self.epoll.poll(tick_s if gather_s is None else min(gather_s, tick_s))
            for fd, mask in ready:
                if not self.alone(functools.partial(self._on_ready, fd, mask)):
                    time.sleep(FAULT_PAUSE_S)
            if self._touched:
                self.alone(self.on_files)
            elif settle_s is not None and not ready and not service.protecting.settle_in_s():
                self.alone(service.protecting.settle)

    def ask_to_stop(self, *_signal: object) -> None:
        """End `run` at its next turn; may be called from a signal handler."""
        self._is_stopping = True
        os.eventfd_write(self._wake, 1)

    def soon(self, job: Callable[[], object]) -> None:
        """Have the loop run `job`."""
        self._jobs.put(job)
        os.eventfd_write(self._wake, 1)

    def alone(self, job: Callable[[], object]) -> bool:
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

    def drain(self) -> None:
        """Run a batch of what the ring holds through the pipeline; `arm` says when there is more."""
        if batch := self._service.kernel.ring.drain():
            self._has_worked = True
            self._service.pipeline.act(decode_batch(*batch, self._note_malformed), is_noted=True)

    def _note_malformed(self, error: EventMalformed) -> None:
        self.malformed += 1
        LOG.error("%s; the record is dropped", error)

    def _on_ready(self, fd: int, mask: int) -> None:
        service = self._service
        if fd == self._wake:
            os.eventfd_read(self._wake)
            while not self._jobs.empty():
                self.alone(self._jobs.get())
        elif fd == self._ends:
            service.executor.collect()
        elif fd == service.responder_fd:
            LOG.warning("the responder (pid %d) ended; starting another", service.responder.pid)
            self.alone(service.look_at_ourselves)  # it ends when its pins are gone, and the next one needs them
            self.alone(service.renew_responder)
        elif fd in (service.protecting.files.fileno(), service.protecting.brake.fileno()):
            self.on_files()
        elif fd == service.guarding.fileno():
            self.drain()  # likewise
            records = service.guarding.read()
            run = (layout.KIND_FILE, len(records), b"".join(records))
            service.pipeline.take(decode_batch([run], bytes([run[0]]) * len(records), self._note_malformed))
        elif service.asks.owns(fd):
            service.pipeline.tell_all()  # what a person asks about is told
            service.asks.on_ready(fd, mask)
        elif service.control.owns(fd):
            service.pipeline.tell_all()  # likewise
            service.control.on_ready(fd, mask)
            service.pipeline.follow(self._publish if service.control.has_followers else None)

    def on_files(self) -> None:
        """Treat what was touched, one after the other: whoever goes on meanwhile is seen before the next.

        At most for FILES_S and one more; the rest waits for the next turn.
        """
        until_s = time.monotonic() + FILES_S
        self._read_files()
        while self._touched and not self._is_stopping:
            self._treat(self._touched.pop(next(iter(self._touched))))
            self._read_files()
            if time.monotonic() >= until_s:
                return

    def _read_files(self) -> None:
        try:
            found = self._service.protecting.read()  # at once: it stops who rewrites many files
            self.alone(self.drain)  # who wrote is told by the ring: read it before that is treated
            for event in found:
                if isinstance(event, FileChange):
                    self._note_touched(event)
                else:
                    self._treat(event)  # before who was stopped goes on
        finally:
            self.alone(self._service.protecting.let_go)  # who was stopped at once is frozen by now, or not guilty

    def _note_touched(self, change: FileChange) -> None:
        """Have a change wait; with what the same writer did to the same file and is not treated yet, it is one."""
        key = (change.path, change.tgid if len(self._touched) < MAX_TOUCHED else 0)
        earlier = self._touched.get(key)
        before = earlier.changes if earlier else ()
        self._touched[key] = msgspec.structs.replace(
            earlier or change, tgid=key[1], changes=tuple(dict.fromkeys(before + change.changes))
        )

    def _treat(self, event: FileEvent) -> None:
        pipeline = self._service.pipeline
        if isinstance(event, FileChange):
            self.alone(functools.partial(self._service.protecting.accepting.doubt, event))
        untold = pipeline.untold
        self.alone(functools.partial(pipeline.act, [event]))
        if pipeline.untold > untold:
            self._put_back_s = time.monotonic()

    def _treated_ns(self) -> int:
        """Return until when (CLOCK_BOOTTIME) all that was told of files is treated."""
        oldest = next(iter(self._touched.values()), None)
        return oldest.since_ns if oldest else self._service.protecting.files.empty_ns

    def _tick(self) -> None:
        systemd.watchdog()
        for job in self._of_a_tick():
            self.alone(job)
            self.alone(self.drain)  # what happens meanwhile waits for one of them, not for all

    def _of_a_tick(self) -> tuple[Callable[[], object], ...]:
        service = self._service
        return (
            service.pipeline.tell_some,
            service.control.expire,
            service.asks.expire,
            service.tell_receipts,
            service.maintenance.look,
            service.look_at_ourselves,
            lambda: service.kernel.beat(service.clock.boot_ns()),
            service.netfilter.tick,
            service.executor.collect,
            lambda: service.alerts.note_outcomes(service.executor.expire()),
            lambda: service.executor.disarmed.hand_on(lambda told: service.pipeline.tell(escalation(told))),
            service.pipeline.flush,
            service.isolating.tick,
            self._have_responder,
            self._give_back,
            service.clock.tick,
            service.generations.tick,
            service.report,  # a tick may roll back
            service.guard_files,
            self._read_files,  # until now: what is told later of a file was not done long before
            lambda: service.pipeline.take(service.protecting.tick(self._treated_ns())),
            service.examine,
            self._prove,
        )

    def _have_responder(self) -> None:
        if self._service.responder_fd < 0:
            self._service.renew_responder()

    def _give_back(self) -> None:
        if self._has_worked:
            self._has_worked = False
            memory.give_back()

    def _prove(self) -> None:
        service = self._service
        if service.uplink is not None and service.uplink.is_reachable() and service.generations.wants_proof():
            service.updater.prove()

    def _publish(self, event: Event) -> None:
        self._service.control.publish(event_view(event, event_kind(event)))
