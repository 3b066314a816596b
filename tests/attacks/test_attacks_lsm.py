# SPDX-License-Identifier: Apache-2.0
"""As test_attacks.py, where the kernel has BPF LSM: what the virtual machines play."""

from collections.abc import Iterator

import pytest

from tests.attacks.attack import Attack, all_attacks
from tests.attacks.documented import check, measured_ground
from tests.attacks.ground import Ground

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def on() -> Iterator[Ground]:
    with measured_ground("lsm") as made:
        yield made


@pytest.mark.parametrize("attack", all_attacks().values(), ids=lambda attack: attack.name)
def test_an_attack_has_the_documented_outcome(on: Ground, attack: Attack) -> None:
    check(attack, on)
