# SPDX-License-Identifier: Apache-2.0
"""Carries out what the enterprise orders over the network: wipe, lock; and answers each order.

Journey: uplink -> [ordering] -> execute; receipt or refusal -> outbox -> enterprise.

The enterprise hands an order out again until it has the answer, so nothing here need survive a power cut but what
keeps an order from being carried out twice (`state/orders.json`), and the receipt. What was done is told by a receipt,
signed; what was not, by an alert alone: whoever has the server and not the key of orders must not fill this disk.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any

from mamplus_host.clock import ListClock
from mamplus_host.config import Config
from mamplus_host.errors import CodeMalformed, CodeUsed, MamplusError, NotPossible
from mamplus_host.executor.execute import Executor
from mamplus_host.executor.receipts import Receipts
from mamplus_host.ids import new_id
from mamplus_host.maintenance import order as orders
from mamplus_host.maintenance.order import Order, Orders
from mamplus_host.verdicts import ActionKind, Escalation, Finding, Outcome, Severity

LOG = logging.getLogger("mamplus")
KIND = RULE = "order"
MAX_ANSWERED = 100  # remembered, so that an answer on its way is not given again
MAX_DETAIL = 500  # characters
_KINDS = {
    orders.WIPE: ActionKind.WIPE, orders.LOCK: ActionKind.LOCK, orders.CONTAINER_LOCK: ActionKind.CONTAINER_LOCK,
}  # fmt: skip


class Ordering:
    """The orders of one device. One thread."""

    def __init__(
        self, config: Config, clock: ListClock, *, executor: Executor, receipts: Receipts, order_book: Orders,
        tell: Callable[[Escalation], object], tell_receipts: Callable[[], object],
    ) -> None:  # fmt: skip
        """`tell` sends to the enterprise; `tell_receipts` does so with the receipts that it was not told of."""
        self._config, self._clock, self._executor, self._receipts = config, clock, executor, receipts
        self._orders, self._tell, self._tell_receipts = order_book, tell, tell_receipts
        self._answered: deque[str] = deque(maxlen=MAX_ANSWERED)

    def take(self, texts: Iterable[str]) -> None:
        """Carry out what is ordered in `texts`, unless that was answered since the agent started."""
        for text in texts:
            try:
                order, _data, _signature = orders.read(text)
            except CodeMalformed as error:
                LOG.error("the enterprise sent what is no order: %s", error)
                continue
            if order.id not in self._answered:
                self._answer(order, text)
                self._answered.append(order.id)

    def _answer(self, order: Order, text: str) -> None:
        try:
            self._begin(order, text).add_done_callback(partial(self._on_done, order))
        except CodeUsed as error:
            if action_id := self._receipts.of_order(order.id):
                self._receipts.told(action_id, False)
                self._tell_receipts()
            else:
                self._refuse(order, str(error))
        except MamplusError as error:
            self._refuse(order, str(error))

    def _begin(self, order: Order, text: str) -> "Future[Outcome]":
        kind = _KINDS.get(order.what)
        if kind is None:
            raise CodeMalformed(f"this release knows no order {order.what!r}: update the agent")
        if self._config.agent.mode == "monitor":
            raise NotPossible('the agent only watches: [agent] mode = "monitor"')
        self._orders.accept(text, order.what)
        why = f"by order {order.id} of the enterprise: {order.reason}"
        return self._executor.begin(kind, {"order": text}, why=why)

    def _on_done(self, order: Order, begun: "Future[Outcome]") -> None:
        """Answer an order whose action has ended; in the loop, too."""
        try:
            done = begun.result()
            if done.action is not ActionKind.WIPE:  # that one marks its order and writes the receipt by itself
                self._write(order, done)
            self._tell_receipts()
        except (MamplusError, OSError) as error:
            is_untouched = self._executor.is_stopping and not self._orders.is_marked(order.id)
            if not is_untouched:  # else without an answer: the next agent is handed it again
                self._refuse(order, str(error))

    def _write(self, order: Order, done: Outcome) -> None:
        said: dict[str, Any] = {
            "order": order.id, "device": order.device, "what": order.what, "at": self._clock.wall_s(),
            "detail": done.detail,
        }  # fmt: skip
        self._receipts.write(f"{done.decision_id}-{done.action}", said)
        self._orders.mark(order)  # last: locked twice is locked, and an order without an answer is none

    def _refuse(self, order: Order, why: str) -> None:
        at_s, order_id = self._clock.wall_s(), order.id[:64]
        LOG.error("order %r of the enterprise is not carried out: %s", order_id, why)
        self._tell(
            Escalation(
                id=new_id(at_s), kind=KIND, finding=Finding.CONFIRMED, severity=Severity.HIGH, at=at_s,
                boot_ns=self._clock.boot_ns(), generation=0, rule=RULE,
                summary=f"order {order_id!r} ({order.what[:32]!r}) was not carried out: {why[:MAX_DETAIL]}",
                evidence={"order": order_id, "state": "failed", "detail": why[:MAX_DETAIL]},
            )
        )  # fmt: skip
