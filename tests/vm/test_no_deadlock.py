# SPDX-License-Identifier: Apache-2.0
"""A whole machine goes on when whoever answers for its opens is held up or dead: no_deadlock.py, booted once."""

import sys
from pathlib import Path

import pytest

from tests.vm import kernels, machine, no_deadlock

pytestmark = [pytest.mark.vm, pytest.mark.timeout(7200)]  # the machine has its own limit, and may wait for a lock
LIMIT_S = 900.0  # on two idle cores it takes a third of it


@pytest.mark.parametrize("series", [pytest.param(one, marks=pytest.mark.xdist_group(one)) for one in kernels.SERIES])
def test_a_whole_machine_goes_on_although_nobody_answers(series: str, tmp_path: Path) -> None:
    no_deadlock.build(tmp_path)  # here: an emulated compiler takes longer than all phases
    command = [sys.executable, "-m", "tests.vm.no_deadlock"]
    done = machine.run(kernels.find(series), command, timeout_s=LIMIT_S, directory=kernels.ROOT, share=tmp_path)

    assert done.exit_code == 0, done.output
    assert done.output.count("ok: ") == len(no_deadlock.PHASES), done.output
