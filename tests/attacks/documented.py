# SPDX-License-Identifier: Apache-2.0
"""For the tests that play attacks: a ground of a tier, and whether an outcome is the documented one."""

import contextlib
import os
from collections.abc import Iterator

import pytest

from tests.attacks import table
from tests.attacks.attack import Attack, Missing
from tests.attacks.ground import Ground, ground
from tests.attacks.outcome import Outcome
from tests.attacks.play import is_expected, play


@contextlib.contextmanager
def measured_ground(tier: str) -> Iterator[Ground]:
    """A ground of `tier`; the test is skipped where that was never measured on this kernel, or cannot be had."""
    release = os.uname().release
    if not table.path_of(tier, release).exists():
        pytest.skip(f"no outcomes of tier {tier} on Linux {table.series(release)}: play them with `make attacks`")
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(ground(tier))
        except Missing as missing:
            pytest.skip(f"tier {tier}: {missing}")
        yield made


def check(attack: Attack, on: Ground) -> None:
    """Play an attack; fail unless its outcome is a documented one. One that was never measured here is skipped.

    A whole agent also tells of a busy machine (a silence, rules that could not be compared in time). So where an attack
    is documented as not covered, and something was told, that has to happen twice.
    """
    release = os.uname().release
    if attack.name not in table.outcomes(on.tier, release):
        pytest.skip(f"not measured on Linux {table.series(release)}: play it with --only")
    result = play(attack, on)
    if result.outcome == Outcome.NOTICED and Outcome.NOT_COVERED in attack.expects(on.tier, on.hooks):
        result = play(attack, on)
    if result.outcome == "missing":
        pytest.skip(f"{result.why} is missing here")
    assert is_expected(attack, on, result), (
        f"{attack.name!r} on tier {on.tier} was {result.outcome} ({result.why or result.seen}; told: {result.told}),"
        f" documented is {attack.expects(on.tier, on.hooks)}"
    )
