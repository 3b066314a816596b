# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin for the inside of the virtual machine: one JSON line a test, written as soon as it is decided.

So a machine that is ended for being late, or dies, has told what it had done until then.
Loaded with `-p tests.vm.report`; writes to the file that MAMPLUS_VM_REPORT names.
"""

import json
import os
from pathlib import Path

import pytest

VARIABLE = "MAMPLUS_VM_REPORT"


class Reporter:
    """Collects the phases of each test: set-up, call, tear-down."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the worst phase, and write the test's line after its last; xdist reports a dead worker as "???"."""
        if report.failed or report.skipped or report.nodeid not in self._seen:
            self._seen[report.nodeid] = (report.outcome, _text(report))
        if report.when not in ("setup", "call"):
            self._write(report.nodeid, *self._seen.pop(report.nodeid))

    def _write(self, nodeid: str, outcome: str, text: str) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"test": nodeid, "outcome": outcome, "text": text}) + "\n")


def _text(report: pytest.TestReport) -> str:
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2]  # (file, line, reason)
    if not report.failed:
        return ""
    return report.longreprtext + "".join(f"\n--- {name}\n{text}" for name, text in report.sections)


def pytest_configure(config: pytest.Config) -> None:
    """Only the process that hears of all tests writes: not the workers of xdist."""
    path = os.environ.get(VARIABLE)
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Reporter(Path(path)), "mamplus-vm-report")
