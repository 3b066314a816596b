# SPDX-License-Identifier: Apache-2.0
"""A stock kernel treated as one without BTF: bcc loads the exec probes with its own headers, and they enforce."""

import json
import sys
from typing import Any

import pytest

from tests.vm import kernels, machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(7200)]  # the machine has its own limit, and may wait for a lock
SERIES = "6.1"  # packaging/fetch-kernel takes its headers, too
LIMIT_S = 600.0
KILLED = -9


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What tests/vm/without_btf.py said in the machine."""
    kernel = kernels.find(SERIES)
    assert kernel.headers.is_dir(), f"no {str(kernel.headers)!r}: run packaging/fetch-kernel {SERIES}"
    done = machine.run(
        kernel, [sys.executable, "-m", "tests.vm.without_btf"], timeout_s=LIMIT_S, directory=kernels.ROOT
    )
    assert done.exit_code == 0, done.output[-4000:]
    found: dict[str, Any] = json.loads(done.output.splitlines()[-1])
    return found


def test_exec_is_attached_as_raw_tracepoints(told: dict[str, Any]) -> None:
    assert told["has_btf"] is False
    assert told["hooks"]["exec"] == "raw_tp/sched_process_exec"


def test_listed_programs_are_killed_and_others_run(told: dict[str, Any]) -> None:
    assert told["codes"] == {
        "unknown": 0, "known": 0, "listed, unknown": KILLED, "listed, known": KILLED, "listed, copied": KILLED,
    }  # fmt: skip
    assert told["counters"]["refused"] == 3


def test_unknown_programs_waited_for_the_responders_hash(told: dict[str, Any]) -> None:
    assert told["answered"] == told["contents"]
    assert (told["counters"]["held"], told["counters"]["declared"]) == (3, 0)
