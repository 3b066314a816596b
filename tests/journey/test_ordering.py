# SPDX-License-Identifier: Apache-2.0
"""Orders that came over the network are carried out once, answered, and refused with words: whatever is cut off."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mamplus_host.config import Agent
from mamplus_host.errors import ActionFailed, CodeForged, CodeUsed
from mamplus_host.executor.courses import Line
from mamplus_host.executor.receipts import Receipts, told_of
from mamplus_host.executor.shape import Deed, Facts, State
from mamplus_host.executor.steps import step
from mamplus_host.maintenance import order as orders
from mamplus_host.maintenance.order import Order, Orders
from mamplus_host.ordering import Ordering
from mamplus_host.verdicts import ActionKind, Escalation

from .acting import Device

KEY = Ed25519PrivateKey.generate()
GENUINE, FORGED = b"g" * 64, b"f" * 64


class Believing(Orders):
    """Tells what is genuine by the first letter: tests/enterprise/test_orders.py is about signatures."""

    def _want_genuine(self, order: Order, data: bytes, signature: bytes) -> None:
        if signature != GENUINE:
            raise CodeForged(f"order {order.id} ({len(data)} bytes) is not signed by this device's enterprise")


class Screens:
    """Locks the screens: a file counts how often."""

    kind, has_inverse = ActionKind.LOCK, False

    def __init__(self, count: Path) -> None:
        self._count = count

    def prepare(self, _action_id: str, _target: dict[str, Any]) -> Facts:
        return {}

    def do(self, _facts: Facts) -> str:
        step("lock")
        with self._count.open("a") as file:
            file.write("locked ")
        step("locked")
        return "locked 1 session"

    def undo(self, _facts: Facts) -> str:
        raise NotImplementedError

    def verify(self, _facts: Facts) -> State:
        return State.DONE if self._count.exists() else State.UNDONE


class Ordered(Device):
    """A device that gets orders; `told` is what reached its outbox."""

    def __init__(self, directory: Path) -> None:
        self.count, self.told, self.now_s = directory / "count", list[Escalation](), 0.0
        super().__init__(directory)

    def start(self) -> None:
        super().start()
        self.receipts = Receipts(self.config.state / "receipts", lambda: KEY.sign)
        self.order_book = Believing(self.config.state, lambda: self.now_s)
        self.ordering = Ordering(
            self.config, self.clock, executor=self.executor, receipts=self.receipts, tell=self.told.append,
            order_book=self.order_book, tell_receipts=self.tell_receipts,
        )  # fmt: skip

    def deeds(self) -> dict[ActionKind, Deed]:
        return {ActionKind.LOCK: Screens(self.count)}

    def tell_receipts(self) -> None:
        for action_id, kept in self.receipts.untold().items():
            self.told.append(told_of(action_id, kept, self.clock))
            self.receipts.told(action_id)

    def times_locked(self) -> int:
        return len(self.count.read_text().split()) if self.count.exists() else 0


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Ordered]:
    made = Ordered(tmp_path)
    yield made
    made.close()


def order(what: str = "lock", number: int = 1, signature: bytes = GENUINE) -> str:
    made = Order(what=what, device="d" * 64, id=f"{number:016x}", expires_s=1000, reason="lost")
    return orders.spell(orders.payload(made), signature)


def test_an_order_is_carried_out_once_however_often_it_comes_and_its_receipt_is_signed(device: Ordered) -> None:
    device.ordering.take([order(), order()])
    device.ordering.take([order()])

    assert device.times_locked() == 1
    (told,) = device.told
    receipt = json.loads(told.evidence["receipt"])
    assert (told.kind, receipt["order"], receipt["what"]) == ("order", "0" * 15 + "1", "lock")
    assert receipt["detail"] == "locked 1 session"


def test_an_enterprise_that_lost_the_answer_gets_it_again_from_the_next_agent(device: Ordered) -> None:
    device.ordering.take([order()])
    device.close()
    device.start()

    device.ordering.take([order()])

    assert device.times_locked() == 1
    assert [one.evidence["receipt"] for one in device.told] == [device.told[0].evidence["receipt"]] * 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (order(signature=FORGED), "not signed by this device's enterprise"),
        (order("burn"), "knows no order 'burn'"),
        (order("container-lock"), "nothing that could do 'container-lock'"),
    ],
)
def test_what_cannot_be_carried_out_is_told_once_with_its_reason_and_leaves_no_file(
    device: Ordered, text: str, why: str
) -> None:
    device.ordering.take([text])
    device.ordering.take([text])

    (told,) = device.told
    assert why in told.summary
    assert told.evidence["state"] == "failed"
    assert device.times_locked() == 0
    assert not (device.config.state / "receipts").exists()


def test_an_order_past_its_date_and_one_in_monitor_mode_are_refused(device: Ordered) -> None:
    device.now_s = 1000.0
    device.ordering.take([order()])
    device.now_s = 0.0
    device.config = msgspec.structs.replace(device.config, agent=Agent(mode="monitor"))
    device.close()
    device.start()
    device.ordering.take([order(number=2)])

    assert device.times_locked() == 0
    assert ["minutes ago" in device.told[0].summary, "only watches" in device.told[1].summary] == [True, True]


def test_what_is_no_order_is_dropped(device: Ordered) -> None:
    device.ordering.take(["", "wipe it", order().replace("A", "*", 1)])
    assert (device.told, device.times_locked()) == ([], 0)


def test_an_order_that_a_power_cut_interrupted_is_carried_out_and_answered_when_it_comes_again(tmp_path: Path) -> None:
    cut_at, is_cut = 0, True
    while is_cut:
        cut_at += 1
        device = Ordered(tmp_path / str(cut_at))
        is_cut = device.run(lambda: device.ordering.take([order()]), cut_at=cut_at)  # noqa: B023 - run at once
        if is_cut:
            device.start()
            device.recover()
            device.ordering.take([order()])
        assert device.times_locked() >= 1
        assert ["receipt" in one.evidence for one in device.told] == [True]
        with pytest.raises(CodeUsed):
            Believing(device.config.state, lambda: 0.0).accept(order(), "lock")
        device.close()
    assert cut_at > 3


@pytest.fixture
def in_line(device: Ordered, monkeypatch: pytest.MonkeyPatch) -> Ordered:
    """A device that carries orders out in line: the first one is begun, and goes on when the agent stops."""
    monkeypatch.setattr(Screens, "is_slow", True, raising=False)
    device.close()
    device.start()
    device.executor.work_beside(Line(lambda _job: None), lambda _outcomes: None)
    return device


def test_an_order_in_line_when_the_agent_stops_has_no_answer_and_the_next_agent_carries_it_out(
    in_line: Ordered,
) -> None:
    in_line.ordering.take([order(), order(number=2)])
    in_line.executor.stop()
    assert in_line.times_locked() == 1
    in_line.close()
    in_line.start()

    in_line.ordering.take([order(number=2)])

    assert in_line.times_locked() == 2
    assert ["receipt" in one.evidence for one in in_line.told] == [True, True]


def test_an_order_that_failed_half_done_while_the_agent_stops_is_answered(
    in_line: Ordered, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_screens: Screens, _facts: Facts) -> str:
        in_line.order_book.mark(orders.read(order())[0])
        raise ActionFailed("all but one")

    monkeypatch.setattr(Screens, "do", fail)
    in_line.ordering.take([order()])
    in_line.executor.stop()

    assert [one.evidence["detail"] for one in in_line.told] == ["all but one"]
