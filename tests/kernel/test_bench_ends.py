# SPDX-License-Identifier: Apache-2.0
"""A benchmark that is ended leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernel

ATTACHED = """
import time
from bench.rig import rig
with rig() as made, made.attached():
    print(made.cgroup, made.bpffs, made.directory, flush=True)
    time.sleep(60)
"""


def test_a_benchmark_that_gets_sigterm_leaves_no_cgroup_no_pins_and_no_files() -> None:
    with subprocess.Popen([sys.executable, "-c", ATTACHED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        made = [Path(name) for name in process.stdout.readline().split()]
        were_there = [path.is_dir() for path in made]
        process.terminate()
        code = process.wait(timeout=60)

    assert were_there == [True, True, True]
    assert [path.exists() for path in made] == [False, False, False]
    assert code == 128 + 15
