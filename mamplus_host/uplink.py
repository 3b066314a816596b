# SPDX-License-Identifier: Apache-2.0
"""Joins the device to its enterprise: what waits here goes there, and "generation N exists" comes back.

Journey: outbox -> [uplink] -> enterprise (`Send_alert`), enterprise -> [uplink] -> service (`Request_Update_BLE`).

Two threads, one connection each. The waiter is blocked in one long poll; the sender sleeps
until there is something to send. Neither wakes up for nothing, and after a failure each waits
by `outbox/schedule.py`. Both only hand over: installing a generation is the service's business.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from mamplus_host import config
from mamplus_host.clock import Clock
from mamplus_host.errors import MamplusError, UplinkFailed, UplinkRefused
from mamplus_host.outbox.client import AlertRefused, Client
from mamplus_host.outbox.identity import Identity
from mamplus_host.outbox.schedule import delay_s
from mamplus_host.outbox.store import MAX_BATCH, Outbox, Sealed
from mamplus_host.pinned import WrongCertificate

LOG = logging.getLogger(__name__)
MIN_POLL_PERIOD_S = 1.0  # between two long polls, however fast the enterprise answers
STOP_WITHIN_S = 1.0
_HOPELESS = (401, 403)  # this device is unknown, or was removed
_TOO_LARGE = 413
_T = TypeVar("_T")


@dataclass
class _Side:
    """What is known of one of the two connections."""

    name: str
    client: Client
    failures: int = 0  # in a row
    last_contact_s: float = 0.0  # seconds since the epoch, 0: never
    last_error: str = ""  # "" after a success
    is_stale: bool = False  # the connection is to be made anew before the next request
    turn: int = 0  # of all attempts of both that have ended, which one was this side's last
    reached_ns: int = 0  # when the newest connection that brought an answer was made, CLOCK_BOOTTIME
    state: str = "connecting"  # connecting, connected, unreachable, refused, wrong-certificate


class Uplink(threading.Thread):
    """Both threads. `start` it once the device is enrolled; `stop` ends it for good."""

    def __init__(
        self, identity: Identity, outbox: Outbox, settings: config.Uplink, clock: Clock,
        *, enforced: int, on_generation: Callable[[int], None],
        on_orders: Callable[[tuple[str, ...]], None] = lambda _texts: None,
    ) -> None:  # fmt: skip
        """`on_generation(n)` is called in the uplink's thread when a generation newer than `enforced` exists.

        It must return soon and not raise; the service answers later with `installed`. Without
        an answer it is called again, by the retry schedule. `on_orders(texts)` likewise: the enterprise sends an order
        again until it was told what came of it.
        """
        super().__init__(name="uplink-wait", daemon=True)
        self._identity, self._outbox, self._settings, self._clock = identity, outbox, settings, clock
        self._enforced, self._known, self._on_generation = enforced, enforced, on_generation
        self._on_orders = on_orders
        self._changed = threading.Condition()  # guards everything below, but for the clients
        self._stopping = False
        self._wanted = True  # something may be in the outbox
        self._report: dict[str, Any] | None = None
        self._said: dict[str, Any] = {}  # losses and controls of the last report
        self._examined: Mapping[str, Any] | None = None  # what came of trying the controls
        self._looked_at = 0  # the enterprise's newest when the service looked last
        self._told = (0, 0)  # the generation that was announced last, and how often
        self._wait, self._send_side = self._side("wait"), self._side("send")
        self._sender = threading.Thread(target=self._run_sender, name="uplink-send", daemon=True)

    def _side(self, name: str) -> _Side:
        timeout_s = self._settings.connect_timeout_s
        return _Side(name, Client(self._identity, connect_timeout_s=timeout_s, wall_s=self._clock.wall_s))

    def notify(self) -> None:
        """Say that the outbox holds something new."""
        with self._changed:
            self._wanted = True
            self._changed.notify_all()

    @property
    def enforced(self) -> int:
        """The generation that the service said it enforces."""
        return self._enforced

    def is_reachable(self) -> bool:
        """Whether the enterprise answered when it was asked last."""
        with self._changed:
            return any(side.state == "connected" for side in (self._wait, self._send_side)) and not self._wait.failures

    def reached_ns(self) -> int:
        """Return when the newest connection that brought an answer was made, CLOCK_BOOTTIME; 0: none did."""
        with self._changed:
            return max(self._wait.reached_ns, self._send_side.reached_ns)

    def renew(self) -> None:
        """Make both connections anew before the next request, and ask at once: what was open proves nothing now."""
        with self._changed:
            self._wait.is_stale = self._send_side.is_stale = True
            self._report = self._what_to_report()
            self._changed.notify_all()

    def knows(self, generation: int) -> None:
        """Say that the device holds `generation`, in force or not: it need not be told of it again."""
        with self._changed:
            self._known, self._looked_at = max(generation, self._enforced), self._told[0]
            self._changed.notify_all()

    def installed(
        self, generation: int, *, losses: Mapping[str, int] | None = None, controls: Mapping[str, str] | None = None
    ) -> None:
        """Say that the service enforces `generation` now; it is reported to the enterprise.

        Both connections are made anew for it: that an old one lives on does not prove that the list lets a new one be.
        """
        with self._changed:
            self._enforced = generation
            self._said = {"losses": dict(losses or {}), "controls": dict(controls or {})}
            self._report = self._what_to_report()
            self._known = max(self._known, generation)
            self._wait.is_stale = self._send_side.is_stale = True
            self._changed.notify_all()

    def examined(self, found: Mapping[str, Any] | None) -> None:
        """Say what came of trying the controls, when they were tried; it is reported to the enterprise."""
        if found is None:
            return
        with self._changed:
            self._examined = found
            self._report = self._what_to_report()
            self._changed.notify_all()

    def _what_to_report(self) -> dict[str, Any]:
        report = {"generation": self._enforced, "at": self._clock.wall_s(), **self._said}
        return report if self._examined is None else {**report, "examined": self._examined}

    def status(self) -> dict[str, Any]:
        """Return what `mamplus status` shows: state, last contact, queue, evicted, last error."""
        counters = self._outbox.counters()
        with self._changed:
            wait, send = self._wait, self._send_side
            # A long poll that was cut off answers after its whole time; a sender that got through knows it earlier.
            told = send if send.failures or wait.state == "connecting" or send.turn > wait.turn else wait
            state = told.state
            return {
                "enterprise": self._identity.enterprise.url,
                "connected": state == "connected",
                "state": state,
                "last_contact": max(wait.last_contact_s, send.last_contact_s),
                "last_error": told.last_error,
                "queued": counters.queued,
                "queued_bytes": counters.queued_bytes,
                "acknowledged": counters.acknowledged,
                "refused": counters.refused,
                "evicted": counters.evicted,
                "lost": counters.lost,
            }

    def stop(self) -> None:
        """End both threads within STOP_WITHIN_S seconds, also out of an open long poll."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for side in (self._wait, self._send_side):
            side.client.interrupt()
        deadline = time.monotonic() + STOP_WITHIN_S
        for thread in (self, self._sender):
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def run(self) -> None:
        """The waiter; it starts the sender beside it."""
        self._sender.start()
        while not self._stopping:
            began = time.monotonic()
            newest = self._attempt(self._wait, self._poll)
            if newest is not None and self._is_news(newest):
                self._announce(newest)
            elif newest is not None:
                self._sleep(MIN_POLL_PERIOD_S - (time.monotonic() - began))
        self._wait.client.close()

    def _poll(self, client: Client) -> int:
        told = client.wait(self._enforced, self._settings.poll_s, known=self._known)
        if told.orders:
            self._on_orders(told.orders)
        return told.generation

    def _is_news(self, newest: int) -> bool:
        """Whether the device may not hold `newest`. One below what it knows is: a thief may have driven that up."""
        return newest > self._known or newest not in (0, self._known, self._looked_at)

    def _announce(self, newest: int) -> None:
        """Tell the service, and wait until it enforces `newest`, for a while that grows with every time it did not."""
        self._told = (newest, self._told[1] + 1 if self._told[0] == newest else 1)
        level = logging.INFO if self._told[1] == 1 else logging.DEBUG
        LOG.log(level, "generation %d exists, %d is enforced", newest, self._enforced)
        self._on_generation(newest)
        patience_s = max(MIN_POLL_PERIOD_S, self._delay_s(self._told[1]))
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self._is_news(newest), patience_s)

    def _run_sender(self) -> None:
        while self._wait_for_work():
            if self._attempt(self._send_side, self._drain) is None:
                with self._changed:
                    self._wanted = True
        self._send_side.client.close()

    def _wait_for_work(self) -> bool:
        """Block until there is something to send; False when it is time to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._wanted or self._report is not None)
            return not self._stopping

    def _drain(self, client: Client) -> bool:
        """Send all that is queued, then the report: a report that is not taken must not hold up the alerts."""
        count = MAX_BATCH
        while True:
            with self._changed:
                self._wanted = False
            records = self._outbox.batch(self._identity.device_id, self._identity.sign, max_count=count)
            if not records:
                self._send_report(client)
                return True
            count = self._send(client, records)

    def _send(self, client: Client, records: list[Sealed]) -> int:
        """Send one batch; return how many records the next one may have."""
        try:
            stored = client.send_alerts(records)
        except AlertRefused as error:
            if error.seq not in {record.seq for record in records}:
                raise UplinkFailed(f"the enterprise refuses alert {error.seq}, which was not sent to it") from None
            LOG.error("%s; it is counted as refused and not sent again", error)
            self._outbox.refuse(error.seq)
            return len(records)
        except UplinkRefused as error:
            if error.status != _TOO_LARGE or len(records) == 1:
                raise
            return len(records) // 2
        self._outbox.acknowledge(stored)
        if not {record.seq for record in records} & set(stored):
            raise UplinkFailed(f"the enterprise acknowledges none of {len(records)} alerts")
        return MAX_BATCH

    def _send_report(self, client: Client) -> None:
        with self._changed:
            report = self._report
        if report is None:
            return
        client.report(report)
        with self._changed:
            if self._report is report:
                self._report = None

    def _attempt(self, side: _Side, action: Callable[[Client], _T]) -> _T | None:
        """Return what `action` returns; after a failure note it, wait as the schedule says, and return None."""
        if side.is_stale:
            side.is_stale = False
            side.client.close()
        try:
            result = action(side.client)
        except Exception as error:
            if not isinstance(error, MamplusError):
                LOG.exception("uplink: %s failed in a way that was not foreseen", side.name)
            self._recover(side, error)
            return None
        with self._changed:
            self._note_turn(side)
            side.failures, side.last_error, side.state = 0, "", "connected"
            side.last_contact_s, side.reached_ns = self._clock.wall_s(), side.client.opened_ns
        return result

    def _recover(self, side: _Side, error: Exception) -> None:
        with self._changed:
            if self._stopping:
                return
            self._note_turn(side)
            side.failures += 1
            side.last_error, side.state = str(error) or type(error).__name__, _state_after(error)
            is_first = side.failures == 1
        pause_s = self._settings.retry_max_s if _is_hopeless(error) else self._delay_s(side.failures)
        level = logging.WARNING if is_first else logging.DEBUG  # an outage is one line, not one every minute
        LOG.log(level, "uplink (%s): %s; trying again in %.1f s, what waits is kept", side.name, error, pause_s)
        self._sleep(pause_s)

    def _note_turn(self, side: _Side) -> None:
        side.turn = max(self._wait.turn, self._send_side.turn) + 1

    def _delay_s(self, failures: int) -> float:
        least, most = self._settings.retry_min_s, self._settings.retry_max_s
        return delay_s(failures, min_s=least, max_s=most, random=random.random)

    def _sleep(self, seconds: float) -> None:
        """Wait, but not beyond `stop`."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, max(0.0, seconds))


def _is_hopeless(error: Exception) -> bool:
    """Whether trying again soon will not help: removed, unknown, or somebody else answers."""
    return isinstance(error, WrongCertificate) or (isinstance(error, UplinkRefused) and error.status in _HOPELESS)


def _state_after(error: Exception) -> str:
    if isinstance(error, WrongCertificate):
        return "wrong-certificate"
    return "refused" if isinstance(error, UplinkRefused) else "unreachable"
