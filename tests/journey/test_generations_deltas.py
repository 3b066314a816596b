# SPDX-License-Identifier: Apache-2.0
"""A delta changes the loaded tables; files that are merged change nothing but themselves."""

from pathlib import Path

import pytest

from mamplus_host.ble.entry import Kind
from mamplus_host.ble.store import MAX_DELTAS
from tests.journey.device import Device

BAD = (Kind.IP, "203.0.113.99")


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """A device with generation 1 in force."""
    made = Device(tmp_path)
    made.take(1, BAD)
    return made


def test_a_delta_is_patched_into_the_tables_and_a_list_is_loaded_at_the_first_time(device: Device) -> None:
    assert device.tables.patches == []
    device.install_delta(2, (Kind.IP, "203.0.113.98"))
    device.generations.reload()

    assert device.tables.patches == [(2, [2])]
    assert device.generations.number == 2
    assert device.generations.loaded["enforced"] == 2


def test_deltas_that_came_while_nobody_looked_are_patched_together(device: Device) -> None:
    for number in (2, 3, 4):
        device.install_delta(number, (Kind.IP, f"203.0.113.{number}"))
    device.generations.reload()

    assert device.tables.patches == [(4, [2, 3, 4])]


def test_merged_files_leave_the_tables_alone_and_the_old_ones_are_let_go(device: Device) -> None:
    for number in range(2, MAX_DELTAS + 4):
        device.install_delta(number, (Kind.IP, f"203.0.113.{number}"))
    device.generations.reload()
    loads = list(device.tables.loads)
    assert device.store.compact()
    device.generations.reload()

    assert device.tables.loads == loads
    assert device.generations.ble is not None
    assert [len(files.deltas) for files in device.generations.ble.layers] == [0]
    device.install_delta(100, (Kind.IP, "203.0.113.100"))
    device.generations.reload()
    assert device.tables.patches[-1] == (100, [100])


def test_going_back_is_a_patch_too(device: Device) -> None:
    device.install_delta(2, (Kind.IP, "203.0.113.98"))
    device.generations.reload()
    before, after = device.store.open_number(1), device.store.open_number(2)
    assert before is not None
    assert after is not None

    parts = before.changed_since(after)
    assert parts is not None
    assert {part.value(slot) for part in parts for slot in range(part.count)} == {BAD, (Kind.IP, "203.0.113.98")}
