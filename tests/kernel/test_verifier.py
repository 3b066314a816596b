# SPDX-License-Identifier: Apache-2.0
"""What the kernel's verifier walks to take our programs: older kernels walk more, and refuse at a million steps."""

import re
from pathlib import Path

import pytest

from mamplus_host.kernel import pins
from mamplus_host.kernel.bpf import Fd

from .conftest import Agent

pytestmark = pytest.mark.kernel
MOST_STEPS = 200_000  # a fifth of what Linux allows; Linux 6.1 walks 167,000 for dns, 6.12 and later 52,000 at most


def _steps(pin: Path) -> int:
    with Fd.open(pin) as program:
        told = Path(f"/proc/self/fdinfo/{program.number}").read_text()
    found = re.search(r"^verified_insns:\s+(\d+)$", told, re.MULTILINE)
    if not found:
        pytest.skip("the kernel does not tell verified_insns of a program (5.16)")
    return int(found[1])


def test_no_program_takes_the_verifier_a_fifth_of_the_steps_that_linux_allows(agent: Agent) -> None:
    directory = pins.directory_for(agent.config, agent.cgroup)

    steps = {pin.name.removeprefix("prog_"): _steps(pin) for pin in sorted(directory.glob("prog_*"))}

    print(steps)
    assert {name: walked for name, walked in steps.items() if walked > MOST_STEPS} == {}
    assert steps["mamplus_connect6"] > 0
