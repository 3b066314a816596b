# SPDX-License-Identifier: Apache-2.0
"""What tests say inside the machine arrives outside, test by test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm import report, selection
from tests.vm.kernels import ROOT

INNER = """
import os, pytest
def test_passes(): pass
def test_fails(): assert 1 == 2, "the reason"
def test_skips(): pytest.skip("no such feature")
@pytest.fixture
def broken(): raise OSError("not set up")
def test_cannot_start(broken): pass
@pytest.fixture
def torn():
    yield
    raise OSError("not torn down")
def test_leaves_a_mess(torn): pass
def test_dies(): os._exit(3)
"""


@pytest.mark.parametrize("jobs", ["0", "2"])
def test_each_test_says_its_outcome_and_why(tmp_path: Path, jobs: str) -> None:
    (tmp_path / "test_inner.py").write_text(INNER)
    results = tmp_path / "results"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {report.VARIABLE: str(results), "PYTHONPATH": str(ROOT)}
    arguments = ["-p", "tests.vm.report", "-n", jobs, str(tmp_path)]
    if jobs == "0":
        arguments += ["--deselect", "test_inner.py::test_dies"]

    subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], cwd=tmp_path, env=environment, capture_output=True, check=False
    )

    told = {name.split("::")[1]: said for name, said in selection.told(results.read_text()).items()}
    assert told["test_passes"] == selection.Outcome("passed", "")
    assert told["test_skips"] == selection.Outcome("skipped", "Skipped: no such feature")
    failures = {name: said.text for name, said in told.items() if said.outcome == "failed"}
    reasons = {"test_fails": "the reason", "test_cannot_start": "not set up", "test_leaves_a_mess": "not torn down"}
    if jobs == "2":
        reasons["test_dies"] = "crashed"
    assert set(failures) == set(reasons)
    assert all(reason in failures[name] for name, reason in reasons.items())


def test_a_line_that_was_cut_off_is_no_outcome() -> None:
    told = selection.told('{"test": "a", "outcome": "passed", "text": ""}\n{"test": "b", "outc')

    assert told == {"a": selection.Outcome("passed", "")}


def test_a_skip_is_a_fault_unless_a_stock_kernel_lacks_what_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MAY_SKIP", {"*::test_new[[]*": "came with 6.13"})
    skipped = selection.Outcome("skipped", "no such hook")

    assert "no such hook" in selection.fault("a.py::test_old", skipped)
    assert selection.fault("a.py::test_new[x]", skipped) == ""
    assert selection.fault("a.py::test_new[x]", selection.Outcome("failed", "why")) == "why"


def test_what_would_run_is_known_before_a_machine_boots() -> None:
    collected = selection.collected("tests/vm/test_selection.py")

    assert "tests/vm/test_selection.py::test_a_line_that_was_cut_off_is_no_outcome" in collected


def test_each_file_of_kernel_tests_is_selected_or_says_why_it_is_left_out() -> None:
    files = sorted(path.stem.removeprefix("test_") for path in (ROOT / "tests" / "kernel").glob("test_*.py"))
    selected = {Path(place.partition("::")[0]).stem.removeprefix("test_") for place in selection.PLACES}
    left_out = [name for names in selection.LEFT_OUT.values() for name in names.split()]

    assert sorted([*(selected & set(files)), *left_out]) == files
