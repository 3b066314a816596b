# SPDX-License-Identifier: Apache-2.0
"""What is in force is written down, and its time runs whatever happens to clocks and boots."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.inforce import MAX_IN_FORCE, NOTE_EVERY_S, InForce, InForceStore
from mamplus_host.verdicts import ActionKind, Indicator

HOUR = 3600


class Hands:
    """A clock that is moved by hand."""

    def __init__(self, wall_s: float = 1_700_000_000.0, boot_s: float = 1000.0) -> None:
        self.wall, self.up = wall_s, boot_s

    def wall_s(self) -> float:
        return self.wall

    def list_s(self) -> float:
        return self.wall

    def boot_ns(self) -> int:
        return int(self.up * 1e9)

    def pass_s(self, seconds: float) -> None:
        self.wall += seconds
        self.up += seconds


def entry(action_id: str = "A-refuse", *, ttl_s: int = HOUR, place: str = "") -> InForce:
    return InForce(id=action_id, decision_id=action_id[:1], kind=ActionKind.REFUSE, facts={}, ttl_s=ttl_s, place=place)


def opened(path: Path, clock: Hands, boot_id: str = "one") -> InForceStore:
    return InForceStore(path / "actions.json", clock=clock, boot_id=boot_id)


def left_s(store: InForceStore) -> float:
    (one,) = store.all()
    left = store.left_s(one)
    assert left is not None
    return left


def test_a_place_whose_name_is_no_utf8_is_remembered_as_it_is(tmp_path: Path) -> None:
    store = opened(tmp_path, Hands())
    kept = store.stamped(InForce(id="A-freeze", decision_id="A", kind=ActionKind.FREEZE, facts={"path": "/u\udcff"},
                                 indicator=Indicator("sha256", "ab" * 32), place="/sys/fs/cgroup/u\udcff"))  # fmt: skip
    store.put([kept])

    assert opened(tmp_path, Hands()).all() == [kept]


def test_time_runs_through_suspend_and_stops_for_no_clock_that_steps(tmp_path: Path) -> None:
    clock = Hands()
    store = opened(tmp_path, clock)
    store.put([store.stamped(entry())])
    clock.pass_s(600)  # CLOCK_BOOTTIME counts while the device sleeps
    clock.wall -= 10 * 365 * 86_400

    assert left_s(store) == HOUR - 600


def test_time_runs_while_the_device_is_off(tmp_path: Path) -> None:
    clock = Hands()
    store = opened(tmp_path, clock)
    store.put([store.stamped(entry())])
    clock.wall += 1800
    clock.up = 20

    assert left_s(opened(tmp_path, clock, "two")) == HOUR - 1800


def test_a_clock_that_was_set_back_while_the_device_was_off_holds_nothing_for_ever(tmp_path: Path) -> None:
    clock = Hands()
    store = opened(tmp_path, clock)
    store.put([store.stamped(entry())])
    clock.wall, clock.up = 0.0, 5.0
    store = opened(tmp_path, clock, "two")
    clock.pass_s(HOUR)

    assert left_s(store) == 0


@given(st.lists(st.tuples(st.floats(0, 5000), st.booleans(), st.floats(-1e6, 1e4)), max_size=8))
def test_what_is_left_never_grows_but_by_what_a_wrong_clock_can_take_off_at_a_restart(
    steps: list[tuple[float, bool, float]],
) -> None:
    with TemporaryDirectory() as name:
        clock, boot = Hands(), 0
        store = opened(Path(name), clock)
        store.put([store.stamped(entry(ttl_s=10_000))])
        left = left_s(store)
        for passed_s, is_reboot, step_s in steps:
            clock.pass_s(passed_s)
            store.tick()
            if is_reboot:
                boot += 1
                clock.up, clock.wall = 1.0, clock.wall + step_s
                store = opened(Path(name), clock, f"boot {boot}")
                store.put(store.all())  # as the next action that is noted does
            now = left_s(store)
            assert now <= left + (NOTE_EVERY_S if is_reboot else 0)
            left = now


def test_without_a_time_limit_it_holds_until_it_is_undone(tmp_path: Path) -> None:
    store = opened(tmp_path, Hands())
    store.put([store.stamped(entry(ttl_s=0))])

    assert store.left_s(store.all()[0]) is None


def test_what_has_no_room_is_refused_whole_and_the_old_stays(tmp_path: Path) -> None:
    store = opened(tmp_path, Hands())
    store.put(entry(f"{number}-refuse") for number in range(MAX_IN_FORCE))

    with pytest.raises(ActionFailed, match="in force already"):
        store.put([entry("X-refuse")])
    assert len(opened(tmp_path, Hands()).all()) == MAX_IN_FORCE


def test_only_the_same_effect_is_shared(tmp_path: Path) -> None:
    store = opened(tmp_path, Hands())
    store.put([entry("A-refuse", place="192.0.2.1"), entry("B-refuse", place="192.0.2.2"), entry("C-refuse")])

    assert [one.id for one in store.sharing(ActionKind.REFUSE, "192.0.2.1")] == ["A-refuse"]
    assert store.sharing(ActionKind.REFUSE, "") == []
    assert store.sharing(ActionKind.CUT, "192.0.2.1") == []
