# SPDX-License-Identifier: Apache-2.0
"""What is held is written down whatever its cgroup is called."""

from pathlib import Path

from mamplus_host.executor.held import Held, HeldStore
from mamplus_host.executor.process import Hold
from mamplus_host.verdicts import Indicator


def test_a_cgroup_whose_name_is_no_utf8_is_remembered_as_it_is(tmp_path: Path) -> None:
    hold = Hold(cgroup="/sys/fs/cgroup/u\udcff", tgid=7, boot_ns=8)
    held = Held(decision_id="A", indicator=Indicator("sha256", "ab" * 32), hold=hold, deadline_ns=9)

    HeldStore(tmp_path / "held.json", boot_id="boot").put(held)

    assert HeldStore(tmp_path / "held.json", boot_id="boot").all() == [held]
