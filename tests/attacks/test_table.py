# SPDX-License-Identifier: Apache-2.0
"""docs/attacks.md shows the committed outcomes, and those are of the attacks that there are."""

import pytest

from tests.attacks import table
from tests.attacks.attack import all_attacks, several
from tests.attacks.outcome import Outcome, Seen, Told, Unexplained, classify

REFUSAL = Told(what="held", is_refusal=True, after_ms=1.0)
REPORT = Told(what="exec", is_refusal=False, after_ms=1.0)


def test_the_page_shows_the_committed_outcomes() -> None:
    page = table.DOC.read_text()

    assert page == table.whole(page), "docs/attacks.md is stale: make attacks"


@pytest.mark.parametrize("outcomes", table.kept(), ids=lambda one: f"{one['tier']}-{one['kernel']}")
def test_every_attack_was_played_and_had_a_documented_outcome(outcomes: dict) -> None:  # type: ignore[type-arg]
    attacks = all_attacks()
    assert list(outcomes["attacks"]) == list(attacks)
    for name, result in outcomes["attacks"].items():
        known = [want for key, want in attacks[name].expected.items() if key.split()[0] == outcomes["tier"]]
        assert any(result["outcome"] in ("missing", *several(want)) for want in known), f"{name}: {result}"


def test_what_is_not_covered_says_why() -> None:
    silent = [
        one.name for one in all_attacks().values() if Outcome.NOT_COVERED in one.expected.values() and not one.limit
    ]

    assert silent == []


@pytest.mark.parametrize(
    ("seen", "is_done", "told", "outcome"),
    [
        (Seen(exit=1, errno=1), False, [REFUSAL], Outcome.REFUSED),
        (Seen(exit=2), False, [REFUSAL], Outcome.REFUSED),  # an interpreter could not open it
        (Seen(exit=-9), False, [REFUSAL], Outcome.KILLED),
        (Seen(exit=-9), True, [REFUSAL], Outcome.NOTICED),  # killed, but it had run
        (Seen(exit=7), True, [REPORT], Outcome.NOTICED),
        (Seen(exit=7), True, [], Outcome.NOT_COVERED),
    ],
)
def test_an_outcome_needs_both_sides(seen: Seen, is_done: bool, told: list[Told], outcome: Outcome) -> None:
    assert classify(seen, is_done, told) is outcome


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (Seen(exit=-9), []),  # killed by somebody else
        (Seen(exit=1, errno=2), [REFUSAL]),  # it failed by itself
        (Seen(exit=7), [REPORT]),  # it ran, and did not do what it is for
    ],
)
def test_an_attack_that_failed_by_itself_is_not_taken_for_a_refusal(seen: Seen, told: list[Told]) -> None:
    with pytest.raises(Unexplained):
        classify(seen, False, told)
