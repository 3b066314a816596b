# SPDX-License-Identifier: Apache-2.0
"""What a look at the kernel's own settings finds."""

from pathlib import Path

import pytest

from mamplus_host.tamper import watch
from mamplus_host.tamper.watch import Watch


@pytest.mark.parametrize(("was_on", "now", "is_told"), [(True, "0", True), (True, "1", False), (False, "0", False)])
def test_hooks_that_somebody_switched_off_are_switched_on_again_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_on: bool, now: str, is_told: bool
) -> None:
    setting = tmp_path / "ftrace_enabled"
    setting.write_text(now + "\n")
    monkeypatch.setattr(watch, "_TRACING", setting)
    looking = Watch.__new__(Watch)
    looking._traces = was_on

    found = list(looking._tracing())

    assert [(one.op, one.is_put_back) for one in found] == ([("tracing", True)] if is_told else [])
    assert setting.read_text().strip().endswith("1" if is_told else now)
