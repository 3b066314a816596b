# SPDX-License-Identifier: Apache-2.0
"""Layers in the store: deltas on top of lists, merged when they are many, whole whenever the power goes."""

import signal
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import msgspec
import pytest

from mamplus_host.ble import store as store_module
from mamplus_host.ble.apply import DeltaMisfit
from mamplus_host.ble.encode import encode, encode_delta, withdrawal
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.record import Installed
from mamplus_host.ble.store import BleStore
from mamplus_host.errors import BleInvalid
from mamplus_host.verdicts import Verdict
from tests.journey.offers import Trusted, chain, whole
from tests.journey.powercut import forked
from tests.journey.repository import entries


class Company:
    """Publishes lists and deltas, and puts them where a device's helper would have fetched them to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers, self._names = count(1), count(1)

    def list(self, chosen: Iterable[Entry], layer: Layer = Layer.ENTERPRISE) -> Trusted:
        path = self._path()
        path.write_bytes(encode(chosen, generation=next(self._numbers), created_s=1_700_000_000))
        return whole(path, layer)

    def delta(self, device: "Path | BleStore", changes: Iterable[Entry], layer: Layer = Layer.ENTERPRISE) -> Trusted:
        """Return a delta to what `device` has."""
        store = device if isinstance(device, BleStore) else BleStore(device)
        path, stack = self._path(), store.current()
        assert stack is not None
        with stack:
            (files,) = (files for files in stack.layers if files.layer is layer)
            data = encode_delta(changes, files.parts, generation=next(self._numbers), created_s=1_700_000_001)
        path.write_bytes(data)
        return chain(path, layer=layer)

    def _path(self) -> Path:
        return self.folder / f"staged-{next(self._names)}"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@pytest.fixture
def company(tmp_path: Path) -> Company:
    return Company(tmp_path)


def install(state: Path, *offers: Trusted) -> Installed:
    store = BleStore(state)
    record = store.prepare(offers, store.installed(), source="network", enterprise_id="e")
    store.install(record)
    return record


def act(state: Path, offers: Sequence[Trusted]) -> None:
    install(state, *offers)


def said(state: Path) -> tuple[int, dict[str, set[int]]]:
    """Return the generation in force after a restart and, by layer, the ids of what stands."""
    stack = BleStore(state).current()
    if stack is None:
        return 0, {}
    with stack:
        found: dict[str, set[int]] = {files.layer.word: set() for files in stack.layers}
        for layer, entry in stack.entries():
            found[layer.word].add(entry.id)
        return stack.number, found


def files(state: Path) -> list[str]:
    return sorted(path.name for path in (state / "ble").glob("*.mble"))


def test_a_delta_lies_on_its_list_and_leaves_the_list_alone(state: Path, company: Company) -> None:
    install(state, company.list(entries(10)))
    before = (state / "ble" / "enterprise-1.mble").read_bytes()
    gone = withdrawal(Kind.SHA256, entries(10)[3].value)
    record = install(state, company.delta(state, [*entries(1, first=11), gone]))

    assert said(state) == (2, {"enterprise": {*range(1, 12)} - {4}})
    assert files(state) == ["enterprise-1-2.delta.mble", "enterprise-1.mble"]
    assert (state / "ble" / "enterprise-1.mble").read_bytes() == before
    (change,) = record.changed
    assert (change.before, change.number, change.changes, change.entries_before, change.entries) == (1, 2, 2, 10, 10)
    assert BleStore(state).entry(1, 4) == entries(10)[3]  # what was decided by generation 1 can still be explained
    assert BleStore(state).entry(2, 4) is None


def test_each_layer_changes_alone(state: Path, company: Company) -> None:
    install(state, company.list(entries(3)), company.list(entries(2, first=100), Layer.FEEDS))
    install(state, company.list(entries(1, first=50), Layer.EMERGENCY))
    install(state, company.delta(state, entries(1, first=102), Layer.FEEDS))

    assert said(state) == (4, {"enterprise": {1, 2, 3}, "emergency": {50}, "feeds": {100, 101, 102}})
    with BleStore(state).current() as stack:  # type: ignore[union-attr]
        assert {files.layer.word: files.number for files in stack.layers} == {
            "enterprise": 1, "emergency": 3, "feeds": 4,
        }  # fmt: skip


def test_a_delta_that_does_not_lead_to_the_signed_root_changes_nothing(state: Path, company: Company) -> None:
    install(state, company.list(entries(10)))
    honest = company.delta(state, entries(1, first=11))
    before = said(state), files(state)
    for lie in (
        replace(honest, root=bytes(32)), replace(honest, entries=12), replace(honest, number=9)
    ):  # fmt: skip
        with pytest.raises(DeltaMisfit, match="want generation"):
            install(state, lie)
    assert (said(state), files(state)) == before


def test_a_delta_to_another_list_is_refused_and_the_whole_list_is_taken(state: Path, company: Company) -> None:
    other = state.parent / "other"
    other.mkdir()
    install(other, company.list(entries(9)))
    install(state, company.list(entries(10)))
    stranger = company.delta(other, entries(1, first=30))

    with pytest.raises(DeltaMisfit, match="changes generation 1, 2 is installed"):
        install(state, stranger)
    install(state, company.list(entries(12)))
    assert said(state) == (4, {"enterprise": set(range(1, 13))})


def test_a_delta_without_a_list_is_refused(tmp_path: Path, state: Path, company: Company) -> None:
    install(state, company.list(entries(3)))
    delta = company.delta(state, entries(1, first=4))

    with pytest.raises(DeltaMisfit, match="there is no list that they change"):
        install(tmp_path / "empty", delta)


def test_a_list_with_another_root_than_was_signed_is_refused(state: Path, company: Company) -> None:
    lie = replace(company.list(entries(3)), root=b"x" * 32)

    with pytest.raises(BleInvalid, match="were signed"):
        install(state, lie)
    assert said(state) == (0, {})


def test_many_deltas_are_merged_and_the_generation_stays_what_it_is(state: Path, company: Company) -> None:
    install(state, company.list(entries(5)))
    for number in range(40):
        record = install(state, company.delta(state, entries(1, first=100 + number)))
    before = said(state)

    assert [store_module.is_long(layer) for layer in record.layers] == [True]
    assert BleStore(state).compact()
    assert said(state) == before
    assert [layer.parts[0].name for layer in BleStore(state).records()[0].layers] == ["enterprise-41.mble"]
    assert [len(layer.parts) for layer in BleStore(state).records()[0].layers] == [1]
    assert not BleStore(state).compact()
    install(state, company.delta(state, entries(1, first=200)))  # deltas go on from there
    assert said(state)[0] == 42
    for _ in range(12):
        install(state, company.delta(state, []))
    assert len(files(state)) == 14  # the list before, and what came since: older ones are forgotten with the history


def test_a_merged_list_is_byte_for_byte_what_the_enterprise_has(state: Path, company: Company) -> None:
    install(state, company.list(entries(5)))
    for number in range(33):
        install(state, company.delta(state, entries(1, first=100 + number)))
    BleStore(state).compact()
    everything = [*entries(5), *entries(33, first=100)]
    wanted = encode(everything, generation=34, created_s=1_700_000_001)

    assert (state / "ble" / "enterprise-34.mble").read_bytes() == wanted


def test_a_damaged_delta_leads_back_to_the_newest_generation_without_it(state: Path, company: Company) -> None:
    install(state, company.list(entries(3)))
    for number in (4, 5, 6):
        install(state, company.delta(state, entries(1, first=number)))
    path = state / "ble" / "enterprise-2-3.delta.mble"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    store = BleStore(state)

    assert said(state) == (2, {"enterprise": {1, 2, 3, 4}})
    assert store.installed() is not None
    assert "generation 3 is damaged" in store.note


def test_damage_that_leaves_no_trace_in_the_file_system_is_found_by_a_thorough_look(
    state: Path, company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(state, company.list(entries(3)))
    install(state, company.delta(state, entries(1, first=4)))
    path = state / "ble" / "enterprise-1-2.delta.mble"
    path.write_bytes(path.read_bytes()[:-2] + b"!!")
    seen = {part.name: part.seen for part in BleStore(state).records()[0].parts}
    monkeypatch.setattr(store_module, "look", lambda path: seen[path.name])  # as if nobody had written

    assert BleStore(state, is_thorough=True).installed().number == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("damage", [None, b"\0" * 64, b'{"history": [{}]}'], ids=["gone", "zeros", "other"])
def test_a_lost_record_is_made_up_from_lists_and_deltas(state: Path, company: Company, damage: bytes | None) -> None:
    install(state, company.list(entries(3)), company.list(entries(2, first=100), Layer.FEEDS))
    for number in (4, 5):
        install(state, company.delta(state, entries(1, first=number)))
    before = said(state)
    record = state / "ble" / "installed.json"
    record.unlink() if damage is None else record.write_bytes(damage)

    assert said(state) == before
    assert BleStore(state).records()[0].source == "found"
    (state / "ble" / "enterprise-1-3.delta.mble").unlink()
    assert said(state) == (2, {"enterprise": {1, 2, 3}, "feeds": {100, 101}})


def test_what_is_installed_is_never_written_over(state: Path, company: Company, tmp_path: Path) -> None:
    """Another enterprise counts from 1 again: its files have the same names, and the old ones stay until the end."""
    install(state, company.list(entries(3)))
    store = BleStore(state)
    record = store.prepare([Company(tmp_path).list(entries(4))], None, source="network", enterprise_id="other")

    assert said(state) == (1, {"enterprise": {1, 2, 3}})  # the power goes here
    store.install(record)
    assert said(state) == (1, {"enterprise": {1, 2, 3, 4}})


def test_files_of_old_generations_give_way_when_there_is_no_room_for_all(
    state: Path, company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "HISTORY_BYTES", 1)
    for size in (1, 2, 3, 4):
        install(state, company.list(entries(size)))

    assert files(state) == ["enterprise-3.mble", "enterprise-4.mble"]
    assert [record.number for record in BleStore(state).records()] == [4, 3, 2, 1]
    assert BleStore(state).open_number(3) is not None
    assert BleStore(state).open_number(2) is None


def test_power_that_goes_at_any_step_leaves_the_old_generation_or_the_new_one(state: Path, company: Company) -> None:
    install(state, company.list(entries(5)), company.list(entries(2, first=500), Layer.FEEDS))
    for step in range(1, 100):
        added = entries(1, first=1000 + step)
        offers = [company.delta(state, added), company.delta(state, added, Layer.FEEDS)]
        if step % 3 == 0:
            offers[0] = company.list(entries(5 + step))
        before = said(state)
        status = forked(partial(act, state, offers), end_at=step)
        now = said(state)
        if status == 0:
            assert now[0] == max(offer.number for offer in offers)
            break
        assert status == -signal.SIGKILL
        assert now == before or now[0] == max(offer.number for offer in offers)
    assert step > 8  # that many steps were cut off


def test_power_that_goes_while_files_are_merged_changes_nothing(state: Path, company: Company) -> None:
    install(state, company.list(entries(5)))
    for number in range(35):
        install(state, company.delta(state, entries(1, first=100 + number)))
    before = said(state)
    for step in range(1, 100):
        status = forked(lambda: (BleStore(state).compact(), None)[1], end_at=step)
        assert said(state) == before
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert step > 4
    assert [len(layer.parts) for layer in BleStore(state).records()[0].layers] == [1]


def test_an_allow_of_the_administrators_stands_above_a_feed_s_block(state: Path, company: Company) -> None:
    one = Entry(id=1, kind=Kind.IP, value="203.0.113.7", verdict=Verdict.ALLOW)
    feed = msgspec.structs.replace(one, id=2, verdict=Verdict.BLOCK)
    install(state, company.list([one]), company.list([feed], Layer.FEEDS))

    with BleStore(state).current() as stack:  # type: ignore[union-attr]
        part = stack.layers[1].base
        (section,) = part.sections
        assert stack.verdicts(part, section, 0.0) == (bytes([Verdict.ALLOW]), bytes(4))
