# SPDX-License-Identifier: Apache-2.0
"""A wipe needs an order that the enterprise signed for this very device; each is good once, until its date."""

import sqlite3
from pathlib import Path

import msgspec
import pytest

from mamplus_host.enterprise import Enterprise, enterprise_path
from mamplus_host.errors import CodeExpired, CodeForged, CodeMalformed, CodeUsed, CodeWrongDevice, NotPossible
from mamplus_host.maintenance import order as orders
from mamplus_host.maintenance.order import Order, Orders

from .company import Company

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


def test_without_yes_and_without_one_device_nothing_is_signed(company: Company) -> None:
    assert "--yes" in company.attempt("wipe", "scanner-7").stderr
    assert company.attempt("wipe", "scanner-9", "--yes").returncode == 1
