# SPDX-License-Identifier: Apache-2.0
"""The story of `make run`, step by step, as a test."""

import json
import subprocess
import sys

import pytest

from story.steps import STEPS

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def played() -> dict[str, dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-m", "story", "--once", "--json"], capture_output=True, text=True, timeout=280, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    steps = {str(line["step"]): line for line in lines if "step" in line}
    print(done.stderr[-4000:])  # pytest shows it when a step fails
    return steps


@pytest.mark.parametrize("step", STEPS)
def test_every_step_of_the_story_happens(played: dict[str, dict[str, object]], step: str) -> None:
    assert step in played, f"the story ended before this step: {list(played.values())[-1:]}"
    assert played[step]["happened"], played[step]["seen"]
