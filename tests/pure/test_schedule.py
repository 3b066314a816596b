# SPDX-License-Identifier: Apache-2.0
"""When to try again."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mamplus_host.outbox.schedule import delay_s


@given(st.integers(1, 10**6), st.floats(0.01, 10), st.floats(0.01, 1000), st.floats(0, 1))
def test_a_delay_is_between_its_bounds(failures: int, min_s: float, max_s: float, chance: float) -> None:
    delay = delay_s(failures, min_s=min_s, max_s=max_s, random=lambda: chance)

    assert min_s <= delay <= max(min_s, max_s) * (1 + 1e-9)


@pytest.mark.parametrize(("failures", "wanted"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (10**6, 60.0)])
def test_the_longest_delay_doubles_up_to_the_bound(failures: int, wanted: float) -> None:
    assert delay_s(failures, min_s=0.5, max_s=60, random=lambda: 1.0) == wanted


def test_a_fleet_is_spread_over_the_whole_delay() -> None:
    chance = random.Random(1)
    delays = sorted(delay_s(7, min_s=0.5, max_s=60, random=chance.random) for _ in range(1000))

    assert delays[0] < 2
    assert delays[-1] > 58
    assert 25 < delays[500] < 35
