# SPDX-License-Identifier: Apache-2.0
"""A bounded run of the fuzzers at every `make test`; `make fuzz` runs them for a million mutants."""

import random
from collections.abc import Iterator

import pytest

from tests.fuzz import run
from tests.fuzz.bundles import INSTALLED, Range, open_range

LISTS, BUNDLES = 20_000, 400


@pytest.fixture(scope="module")
def target() -> Iterator[Range]:
    made, close = open_range()
    yield made
    close()


def test_what_lists_once_broke_stays_mended() -> None:
    assert run.replay_lists() == ""


@pytest.mark.timeout(300)
def test_mutated_lists_break_nothing_and_what_passes_the_check_is_told_alike_by_all_who_read_it() -> None:
    assert run.fuzz_lists(LISTS, seed=12, quiet=True)


def test_each_published_state_is_accepted_as_it_is(target: Range) -> None:
    for number in range(len(target.company.states)):
        before = target.accepted
        target.attack(number.to_bytes(4, "little") + bytes([1, 0, 0, 0]) * 2)
        assert target.accepted == before + 1
    assert len(target.company.states) > INSTALLED


def test_of_mutated_bundles_none_is_accepted_that_nobody_published(target: Range) -> None:
    chance = random.Random(12)
    refused = target.refused
    for _ in range(BUNDLES):
        target.attack(chance.randbytes(chance.choice([20, 40, 80])))

    assert target.refused > refused + BUNDLES // 5
