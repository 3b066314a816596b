# SPDX-License-Identifier: Apache-2.0
"""The tests that run inside a virtual machine, and what each of them said there."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.vm import machine, report
from tests.vm.kernels import ROOT, StockKernel

# What stands or falls with the kernel. The emulation takes ten seconds of a processor and more for each test that
# attaches an agent, so what is decided in user space (the vault, the table builder, exports) is left to the machine's
# own kernel, and so are the tiers below LSM.
_WANTED = ("kernel/test_features.py", "kernel/test_verifier.py", "kernel/test_lsm_guard.py")
PLACES = tuple(str(path.relative_to(ROOT)) for pattern in _WANTED for path in sorted((ROOT / "tests").glob(pattern)))
JOBS = 2  # as many as the machine has processors
_PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Outcome:
    """What one test said: "passed", "failed" or "skipped", and why."""

    outcome: str
    text: str


@dataclass(frozen=True)
class Run:
    """All that one machine told. `trouble` says why it did not reach its end, "" when it did."""

    outcomes: dict[str, Outcome]
    output: str
    trouble: str


def collected(*selection: str) -> list[str]:
    """Return the names of the tests that `selection` (paths, or other pytest arguments) names."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [*_PYTEST, "--collect-only", "-q", *(selection or PLACES)]
    done = subprocess.run(command, cwd=ROOT, env=inherited, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"no tests are selected by {' '.join(selection or PLACES)}: {done.stdout[-2000:]}")
    return [line for line in done.stdout.splitlines() if "::" in line]


def run(kernel: StockKernel, share: Path, *selection: str, timeout_s: float) -> Run:
    """Run the tests of `selection` on `kernel`; what the machine tells lies in `share`, a directory."""
    results = share / "results.jsonl"
    results.unlink(missing_ok=True)
    reported = f"{report.VARIABLE}={machine.SHARE / results.name}"
    jobs = ["-n", str(JOBS), "--dist", "loadfile"]  # an agent of a file guards against that of another one
    command = ["env", reported, *_PYTEST, "-p", "tests.vm.report", *jobs, *(selection or PLACES)]
    trouble = output = ""
    try:
        output = machine.run(kernel, command, timeout_s=timeout_s, directory=ROOT, share=share).output
    except machine.MachineFailed as error:
        trouble = str(error)
    return Run(told(results.read_text() if results.exists() else ""), output, trouble)


def told(lines: str) -> dict[str, Outcome]:
    """Return the outcome of each test; a last line that was cut off is left out."""
    found = {}
    for line in lines.splitlines(keepends=True):
        if line.endswith("\n"):
            said: dict[str, str] = json.loads(line)
            found[said["test"]] = Outcome(said["outcome"], said["text"])
    return found


def summary(ran: Run) -> dict[str, int]:
    """Return how many tests had which outcome."""
    return dict(Counter(said.outcome for said in ran.outcomes.values()))
