# SPDX-License-Identifier: Apache-2.0
"""Every attack is played on every tier that was measured on this kernel; tier lsm has a file of its own.

Its outcome must be the documented one, in both directions: one that is refused although the table says
that it is not covered fails, too.
"""

from collections.abc import Iterator

import pytest

from tests.attacks.attack import Attack, all_attacks
from tests.attacks.documented import check, measured_ground
from tests.attacks.ground import Ground

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module", params=["signal", "fanotify"])
def on(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with measured_ground(request.param) as made:
        yield made


@pytest.mark.parametrize("attack", all_attacks().values(), ids=lambda attack: attack.name)
def test_an_attack_has_the_documented_outcome(on: Ground, attack: Attack) -> None:
    check(attack, on)
