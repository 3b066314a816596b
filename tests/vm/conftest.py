# SPDX-License-Identifier: Apache-2.0
"""Boots each kernel once for all tests that ask what happened there, whichever worker of xdist asks."""

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.vm import kernels, selection

HARD_LIMIT_S = 3600.0  # for one machine, also where others work; on two idle cores it takes half of it


def _common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that all workers of this run share, and no other run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def _booted(series: str, directory: Path) -> selection.Run:
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = directory / "run.json"
        if not told.exists():
            ran = selection.run(kernels.find(series), directory / "share", timeout_s=HARD_LIMIT_S)
            told.write_text(json.dumps(asdict(ran)))
        stored = json.loads(told.read_text())
    outcomes = {name: selection.Outcome(**said) for name, said in stored["outcomes"].items()}
    return selection.Run(outcomes, stored["output"], stored["trouble"])


@pytest.fixture(scope="session")
def ran_on(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], selection.Run]:
    """Returns what the tests said on a series of kernels; the first who asks boots it."""
    kept: dict[str, selection.Run] = {}

    def ran(series: str) -> selection.Run:
        if series not in kept:
            directory = _common(tmp_path_factory) / f"vm-{series}"
            directory.mkdir(exist_ok=True)
            kept[series] = _booted(series, directory)
        return kept[series]

    return ran
