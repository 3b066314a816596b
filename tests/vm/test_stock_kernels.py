# SPDX-License-Identifier: Apache-2.0
"""Each test of the selection, on each stock kernel: what it said in the machine it says here, too."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.vm import kernels, selection

pytestmark = [pytest.mark.vm, pytest.mark.timeout(7200)]  # the machine has its own limit, and may wait for a lock


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test here for each test there and each kernel, kernel by kernel."""
    if "inner" in metafunc.fixturenames:
        places = [(series, inner) for series in kernels.SERIES for inner in selection.collected()]
        metafunc.parametrize(("series", "inner"), [_at(*place) for place in places])
    elif "series" in metafunc.fixturenames:
        metafunc.parametrize("series", [_at(series) for series in kernels.SERIES])


def _at(series: str, *inner: str) -> Any:
    """Return a parameter whose tests all run in one worker: with a worker each, the kernels run at the same time."""
    return pytest.param(series, *inner, id="-".join((series, *inner)), marks=pytest.mark.xdist_group(series))


def test_the_machine_runs_to_its_end(series: str, ran_on: Callable[[str], selection.Run]) -> None:
    ran = ran_on(series)

    assert not ran.trouble, ran.trouble
    assert ran.outcomes, ran.output


def test_on_a_stock_kernel(series: str, inner: str, ran_on: Callable[[str], selection.Run]) -> None:
    ran = ran_on(series)

    if inner not in ran.outcomes:
        pytest.fail(f"it told nothing on {series}. {ran.trouble or ran.output[-4000:]}", pytrace=False)
    said = ran.outcomes[inner]
    if fault := selection.fault(inner, said):
        pytest.fail(f"on {series}:\n{fault}", pytrace=False)
    if said.outcome == "skipped":
        pytest.skip(said.text)
