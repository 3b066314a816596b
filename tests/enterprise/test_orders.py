# SPDX-License-Identifier: Apache-2.0
"""A wipe needs an order that the enterprise signed for this very device; each is good once, until its date."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mamplus_host.enterprise import Enterprise, enterprise_path
from mamplus_host.errors import CodeExpired, CodeForged, CodeMalformed, CodeUsed, CodeWrongDevice, NotPossible
from mamplus_host.maintenance import order as orders
from mamplus_host.maintenance.order import Order, Orders

from .company import Company, FakeDevice

SEVEN, EIGHT = "a7" * 32, "b8" * 32


@pytest.fixture
def company(tmp_path: Path) -> Company:
    made = Company(tmp_path / "enterprise").found()
    for name, device_id in (("scanner-7", SEVEN), ("scanner-8", EIGHT)):
        made.change(
            "INSERT INTO devices (id, public_key, name, facts, report, generation, enrolled_at, last_seen) VALUES"
            f" ('{device_id}', x'{device_id}', '{name}', '{{}}', '{{}}', 0, 1, 1)"
        )
    return made


class Device:
    """What a device keeps, and its time."""

    def __init__(self, company: Company, state: Path, device_id: str) -> None:
        self.state, self.now_s = state, 0.0
        (state / "trust").mkdir(parents=True)
        root = max((company.dir / "repository" / "metadata").glob("*.root.json"))
        (state / "trust" / "root.json").write_bytes(root.read_bytes())
        enterprise_path(state).parent.mkdir()
        belongs = Enterprise("https://127.0.0.1", "", "e" * 64, device_id, enrolled_at=1)
        enterprise_path(state).write_bytes(msgspec.json.encode(belongs))
        self.orders = Orders(state, lambda: self.now_s)


@pytest.fixture
def device(company: Company, tmp_path: Path) -> Device:
    return Device(company, tmp_path / "state", SEVEN)


def order_for(company: Company, device: str, *more: str) -> str:
    return str(company.json("wipe", device, "--reason", "stolen", "--yes", *more)["order"])


def test_an_order_is_taken_once_by_the_device_it_is_for_and_stands_in_the_audit_log(
    company: Company, device: Device
) -> None:
    text = order_for(company, "scanner-7")

    order = device.orders.accept(text, orders.WIPE)

    assert (order.what, order.device, order.reason) == ("wipe", SEVEN, "stolen")
    device.orders.mark(order)
    device.orders.mark(order)  # a wipe that a power cut interrupted goes on
    with pytest.raises(CodeUsed, match="each is good once"):
        Orders(device.state, lambda: 0.0).accept(text, orders.WIPE)
    with sqlite3.connect(company.dir / "database.sqlite") as db:
        what, subject, detail = db.execute("SELECT what, subject, detail FROM audit ORDER BY id DESC").fetchone()
    assert (what, subject.split()[0]) == ("ordered a wipe", "scanner-7")
    assert order.id in detail
    assert "stolen" in detail


def test_an_order_for_another_device_from_a_stranger_or_past_its_date_is_refused(
    company: Company, device: Device, tmp_path: Path
) -> None:
    with pytest.raises(CodeWrongDevice):
        device.orders.accept(order_for(company, "scanner-8"), orders.WIPE)

    stranger = Company(tmp_path / "stranger").found()
    stranger.change(
        "INSERT INTO devices (id, public_key, name, facts, report, generation, enrolled_at, last_seen) VALUES"
        f" ('{SEVEN}', x'{SEVEN}', 'scanner-7', '{{}}', '{{}}', 0, 1, 1)"
    )
    with pytest.raises(CodeForged):
        device.orders.accept(order_for(stranger, "scanner-7"), orders.WIPE)

    device.now_s = 1e12
    with pytest.raises(CodeExpired):
        device.orders.accept(order_for(company, "scanner-7"), orders.WIPE)


def test_an_order_that_was_changed_or_says_something_else_is_refused(company: Company, device: Device) -> None:
    text = order_for(company, "scanner-7")
    order, data, signature = orders.read(text)
    later = msgspec.json.encode(msgspec.structs.replace(order, expires_s=order.expires_s + 1))
    with pytest.raises(CodeForged):
        device.orders.accept(orders.spell(later, signature), orders.WIPE)
    with pytest.raises(CodeMalformed, match="want 'lock'"):
        device.orders.accept(text, "lock")
    for broken in ("", text[:-40], text.replace("A", "*", 1), "x" * 5000, orders.spell(b"{}", signature)):
        with pytest.raises(CodeMalformed):
            device.orders.accept(broken, orders.WIPE)
    assert orders.read(orders.spell(data, signature))[0] == order


def test_a_maintenance_code_is_no_order_and_an_order_no_code(company: Company, device: Device) -> None:
    """Both are signed with one key; what is signed says which it is."""
    from mamplus_host.maintenance import code as codes

    code = str(company.json("maintenance", "scanner-7")["code"])
    _code, signature = codes.read(code)
    order = Order(what="wipe", device=SEVEN, id="0" * 16, expires_s=1 << 40)
    with pytest.raises(CodeForged):
        device.orders.accept(orders.spell(orders.payload(order), signature), orders.WIPE)


def test_a_damaged_memory_of_orders_lets_none_be_used_twice(company: Company, device: Device) -> None:
    text = order_for(company, "scanner-7")
    (device.state / "orders.json").write_bytes(b"junk")
    with pytest.raises(NotPossible, match="damaged"):
        device.orders.accept(text, orders.WIPE)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Company]:
    made = Company(tmp_path / "enterprise").found().serve()
    try:
        yield made
    finally:
        made.stop()


def receipt_of(device: FakeDevice, order_id: str, by: FakeDevice | None = None) -> dict[str, str]:
    text = json.dumps({"order": order_id, "device": device.id, "what": "lock", "at": 1.0, "detail": "locked 1 session"})
    return {"receipt": text, "signature": (by or device).sign(b"mamplus-receipt\n" + text.encode())}


def state_of(company: Company, order_id: str) -> str:
    return str(next(one["state"] for one in company.json("orders") if one["id"] == order_id))


def pass_a_minute(company: Company) -> None:
    company.change("UPDATE orders SET handed_at = handed_at - 61")


def test_an_order_is_handed_to_its_device_at_once_and_again_until_its_receipt_is_there(serving: Company) -> None:
    device, other = serving.device(), serving.device("other")
    issued = serving.json("lock", "scanner", "--reason", "lost")

    assert device.wait(99, 20).body["orders"] == [issued["order"]]
    assert "orders" not in device.wait(99, 0).body, "it would ask and be answered without end"
    assert "orders" not in other.wait(99, 0).body
    pass_a_minute(serving)
    assert device.wait(99, 20).body["orders"] == [issued["order"]]

    device.sent(kind="order", indicator=None, evidence=receipt_of(device, issued["id"]))

    pass_a_minute(serving)
    assert "orders" not in device.wait(99, 0).body
    (listed,) = serving.json("orders")
    assert (listed["state"], listed["detail"], listed["device_name"]) == ("done", "locked 1 session", "scanner")
    assert json.loads(listed["receipt"])["order"] == issued["id"]


def test_no_other_device_and_no_other_key_answers_an_order(serving: Company) -> None:
    device, other = serving.device(), serving.device("other")
    order_id = str(serving.json("lock", "scanner")["id"])

    other.sent(kind="order", indicator=None, evidence=receipt_of(other, order_id))
    device.sent(kind="order", indicator=None, evidence=receipt_of(device, order_id, by=other))
    device.sent(kind="exec", indicator=None, evidence=receipt_of(device, order_id))
    device.sent(
        kind="order", indicator=None, evidence={"receipt": "[]", "signature": device.sign(b"mamplus-receipt\n[]")}
    )

    assert state_of(serving, order_id) == "waiting"


def test_a_refusal_ends_an_order_and_a_receipt_counts_more(serving: Company) -> None:
    device = serving.device()
    order_id = str(serving.json("wipe", "scanner", "--yes", "--send")["id"])

    device.sent(kind="order", indicator=None, evidence={"order": order_id, "state": "failed", "detail": "not now"})
    assert [(one["state"], one["detail"]) for one in serving.json("orders")] == [("failed", "not now")]
    assert "orders" not in device.wait(99, 0).body

    device.sent(kind="wipe", indicator=None, evidence=receipt_of(device, order_id))
    device.sent(kind="order", indicator=None, evidence={"order": order_id, "state": "failed", "detail": "used"})
    assert state_of(serving, order_id) == "done"


def test_what_is_withdrawn_or_past_its_date_is_not_handed_out(serving: Company) -> None:
    device = serving.device()
    withdrawn, late = (str(serving.json("lock", "scanner")["id"]) for _ in range(2))
    serving.run("orders", "withdraw", withdrawn)
    serving.change(f"UPDATE orders SET expires_at = 1 WHERE id = '{late}'")

    assert "orders" not in device.wait(99, 0).body

    assert (state_of(serving, withdrawn), state_of(serving, late)) == ("withdrawn", "expired")
    assert serving.attempt("orders", "withdraw", withdrawn).returncode == 1
    assert serving.attempt("orders", "withdraw", "0" * 16).returncode == 1


def test_an_order_to_wipe_that_is_not_sent_is_carried_by_hand_alone(serving: Company) -> None:
    device = serving.device()
    serving.run("wipe", "scanner", "--yes")
    assert "orders" not in device.wait(99, 0).body
    assert serving.json("orders") == []


def test_without_yes_and_without_one_device_nothing_is_signed(company: Company) -> None:
    assert "--yes" in company.attempt("wipe", "scanner-7").stderr
    assert company.attempt("wipe", "scanner-9", "--yes").returncode == 1
