# SPDX-License-Identifier: Apache-2.0
"""Every attack is played on every tier that was measured on this kernel.

Its outcome must be the documented one, in both directions: one that is refused although the table says
that it is not covered fails, too.
"""

import os
from collections.abc import Iterator

import pytest

from tests.attacks import table
from tests.attacks.attack import TIERS, Attack, Missing, all_attacks
from tests.attacks.ground import Ground, ground
from tests.attacks.play import is_expected, play

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module", params=TIERS)
def on(request: pytest.FixtureRequest) -> Iterator[Ground]:
    release = os.uname().release
    if not table.path_of(request.param, release).exists():
        pytest.skip(
            f"no outcomes of tier {request.param} on Linux {table.series(release)}: play them with `make attacks`"
        )
    try:
        with ground(request.param) as made:
            yield made
    except Missing as missing:
        pytest.skip(f"tier {request.param}: {missing}")


@pytest.mark.parametrize("attack", all_attacks().values(), ids=lambda attack: attack.name)
def test_an_attack_has_the_documented_outcome(on: Ground, attack: Attack) -> None:
    result = play(attack, on)

    if result.outcome == "missing":
        pytest.skip(f"{result.why} is missing here")
    assert is_expected(attack, on, result), (
        f"{attack.name!r} on tier {on.tier} was {result.outcome} ({result.why or result.seen}),"
        f" documented is {attack.expects(on.tier, on.hooks)}"
    )
