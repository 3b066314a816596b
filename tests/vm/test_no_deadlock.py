# SPDX-License-Identifier: Apache-2.0
"""A whole machine goes on when whoever answers for its opens is held up or dead: tests/vm/no_deadlock.py, booted."""

import sys

import pytest

from tests.vm import kernels, machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(7200)]  # the machine has its own limit, and may wait for a lock
LIMIT_S = 1500.0


@pytest.mark.parametrize("series", kernels.SERIES)
def test_a_whole_machine_goes_on_although_nobody_answers(series: str) -> None:
    done = machine.run(
        kernels.find(series), [sys.executable, "-m", "tests.vm.no_deadlock"], timeout_s=LIMIT_S, directory=kernels.ROOT
    )

    assert done.exit_code == 0, done.output
