# SPDX-License-Identifier: Apache-2.0
"""Deltas from a signed repository to a device: cheap, caught up with, and never believed against the root."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import msgspec
import pytest

from mamplus_host.ble.apply import DeltaMisfit
from mamplus_host.ble.encode import place_of
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.record import Book, look
from mamplus_host.ble.store import BleStore
from mamplus_host.ble.update import FetchResult, compact, update
from mamplus_host.ble.update_helper import update_here
from tests.journey.powercut import forked
from tests.journey.repository import Repository, entries


@pytest.fixture
def repository() -> Repository:
    return Repository().publish(entries(2000)).publish(entries(20, first=9000), layer=Layer.EMERGENCY)


@pytest.fixture
def state(tmp_path: Path, repository: Repository) -> Path:
    return repository.enroll(tmp_path / "device")


def load(state: Path, repository: Repository, stick: Path) -> FetchResult:
    return update_here(state, str(repository.write(stick)))


def stands(state: Path) -> set[int]:
    """Return the ids of everything that stands."""
    with BleStore(state).current() as stack:  # type: ignore[union-attr]
        return {entry.id for _layer, entry in stack.entries()}


def test_a_change_comes_as_a_delta_and_costs_what_the_change_does(
    state: Path, repository: Repository, tmp_path: Path
) -> None:
    first = load(state, repository, tmp_path / "1")
    second = load(state, repository.publish(entries(2001), delta=True), tmp_path / "2")

    assert first.patched == []
    assert second.patched == ["enterprise-1-3.delta.mble"]
    assert (second.new, second.generation, second.entries) == (True, 3, 2021)
    assert second.layers == {"enterprise": 3, "emergency": 2}
    assert second.bytes < first.bytes / 4
    assert stands(state) == {*range(1, 2002), *range(9000, 9020)}


def test_a_device_that_missed_thirty_generations_catches_up_with_deltas(
    state: Path, repository: Repository, tmp_path: Path
) -> None:
    load(state, repository, tmp_path / "1")
    for number in range(1, 31):
        repository.publish(entries(2000 + number), delta=True)
    caught_up = load(state, repository, tmp_path / "2")

    assert len(caught_up.patched) == 30
    assert caught_up.note == ""
    assert stands(state) == {*range(1, 2031), *range(9000, 9020)}


def test_a_device_takes_the_list_where_that_is_smaller(state: Path, repository: Repository, tmp_path: Path) -> None:
    load(state, repository, tmp_path / "1")
    for first in (3000, 6000, 1):  # each replaces the whole list
        repository.publish(entries(1500, first=first), delta=True)
    result = load(state, repository, tmp_path / "2")

    assert result.patched == []
    assert [change.is_delta for change in BleStore(state).records()[0].changed] == [False]
    assert stands(state) == {*range(1, 1501), *range(9000, 9020)}


def test_a_delta_that_does_not_lead_to_the_signed_root_gives_way_to_the_list_and_that_is_said(
    state: Path, repository: Repository, tmp_path: Path
) -> None:
    """The record says that the device has what the delta was made for, and a file of it is another one."""
    load(state, repository, tmp_path / "1")
    base, gone = state / "ble" / "enterprise-1.mble", entries(2000)[-1]
    data = bytearray(base.read_bytes())
    made = Generation(bytes(data))
    section, key = place_of(gone.kind, gone.value)
    data[made.sections[section].ids + 8 * made.find(section, key)[0]] ^= 1
    base.write_bytes(data)
    believe(state, base)
    result = load(state, repository.publish(entries(1999), delta=True), tmp_path / "2")

    assert "took the whole list" in result.note
    assert result.patched == []
    assert stands(state) == {*range(1, 2000), *range(9000, 9020)}


def believe(state: Path, path: Path) -> None:
    """Have the record say that the file at `path` is as it was when it was verified."""
    record = state / "ble" / "installed.json"
    book = json.loads(record.read_text())
    parts = [part for layer in book["history"][0]["layers"] for part in layer["parts"]]
    next(part for part in parts if part["name"] == path.name)["seen"] = list(look(path))
    record.write_text(json.dumps(book))


def test_the_list_is_taken_when_deltas_are_refused(
    state: Path, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> int:
        raise DeltaMisfit("they do not fit")

    load(state, repository, tmp_path / "1")
    monkeypatch.setattr("mamplus_host.ble.store.check_deltas", refuse)
    result = load(state, repository.publish(entries(2001), delta=True), tmp_path / "2")

    assert result.note == "they do not fit; took the whole list"
    assert stands(state) == {*range(1, 2002), *range(9000, 9020)}


def test_an_update_by_deltas_cut_off_at_any_step_leaves_the_old_generation_or_the_new_one(
    state: Path, repository: Repository, tmp_path: Path
) -> None:
    load(state, repository, tmp_path / "0")
    count = 2000
    for step in range(1, 100):
        count += 1
        stick = repository.publish(entries(count), delta=True).write(tmp_path / str(step))
        before = stands(state)
        status = forked(partial(_update, state, stick), end_at=step)
        now = {*range(1, count + 1), *range(9000, 9020)}
        assert stands(state) in (before, now)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        update_here(state, str(stick))  # and the next attempt gets there
        assert stands(state) == now
    assert step > 15


def _update(state: Path, stick: Path) -> None:
    update_here(state, str(stick))


def test_a_long_chain_is_merged_by_the_helper_when_it_is_asked_to(
    state: Path, repository: Repository, tmp_path: Path
) -> None:
    load(state, repository, tmp_path / "0")
    for number in range(1, 34):
        result = load(state, repository.publish(entries(2000 + number), delta=True), tmp_path / str(number))
    before = stands(state)

    assert result.is_long
    assert compact(state)
    assert not compact(state)
    assert stands(state) == before
    result = update(state, source=str(repository.publish(entries(2040), delta=True).write(tmp_path / "last")))
    assert (result.patched, result.is_long) == (["enterprise-35-36.delta.mble"], False)


def test_show_and_history_tell_the_layers_and_what_each_generation_changed(
    state: Path, repository: Repository, tmp_path: Path
) -> None:
    load(state, repository, tmp_path / "1")
    load(state, repository.publish(entries(2001), delta=True), tmp_path / "2")
    config = tmp_path / "agent.toml"
    config.write_text(f'[paths]\nstate = "{state}"\nrun = "{tmp_path}"\n')

    def said(*words: str) -> str:
        command = [str(Path(sys.executable).with_name("mamplus")), "--config", str(config), "ble", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"})
        return done.stdout

    shown = said("show", "--limit", "3")
    assert "enterprise: generation 3, 2001 entries, 1 deltas on generation 1" in shown
    assert "emergency: generation 2, 20 entries" in shown
    assert shown.count("sha256") == 3
    lines = [json.loads(line) for line in said("show", "--json").splitlines()]
    assert {line["layer"] for line in lines} == {"enterprise", "emergency"}
    assert len(lines) == 2021
    history = said("history")
    assert "enterprise 1 to 3: 1 changes, 2000 to 2001 entries" in history
    assert "enterprise 1: a whole list, 0 to 2000 entries" in history
    records = [json.loads(line) for line in said("history", "--json").splitlines()]
    assert [record["number"] for record in records] == [3, 2]
    assert all(record["bytes"] > 0 for record in records), "what each cost is known later, too"


def test_the_record_names_every_part_by_its_hash(state: Path, repository: Repository, tmp_path: Path) -> None:
    load(state, repository, tmp_path / "1")
    load(state, repository.publish(entries(2001), delta=True), tmp_path / "2")
    book = msgspec.json.decode((state / "ble" / "installed.json").read_bytes(), type=Book)

    assert [part.name for part in book.history[0].parts] == [
        "enterprise-1.mble", "enterprise-1-3.delta.mble", "emergency-2.mble",
    ]  # fmt: skip
    assert all(len(part.sha256) == 64 for part in book.history[0].parts)
