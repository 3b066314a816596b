# SPDX-License-Identifier: Apache-2.0
"""Real tools encrypt, rename and remove protected files in masses, under the eyes of a whole agent."""

import shutil
from collections.abc import Iterator

import pytest

from tests.kernel import acts, ransom

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]


MOST = 50  # of 2,000, however busy the machine is: the writer does not get to run before he is counted


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ransom.Rig]:
    with acts.own_tmpfs() as place, ransom.rig(place, tmp_path_factory.mktemp("agent")) as made:
        yield made


@pytest.mark.parametrize("tool", [*ransom.TOOLS, *ransom.AT_ONCE])
def test_who_rewrites_protected_files_in_masses_stands_still_and_all_files_are_back(rig: ransom.Rig, tool: str) -> None:
    assert shutil.which(tool.split()[0].rstrip(",").replace("python", "python3")), f"{tool} is missing"
    before, alerts = rig.inodes(), len(rig.mass_alerts())
    assert len(before) == ransom.FILES
    assert rig.call("status")["files"]["brake"] == "on"

    with rig.attacked_by(tool) as process:
        rig.wait("the writer to stand still", rig.holds_somebody)
        rig.wait("the alert about a mass rewrite", lambda: len(rig.mass_alerts()) > alerts)
        rig.wait("all files to be back", lambda: not rig.damaged())
        assert process.poll() is None  # it was stopped, and is held
        after = rig.inodes()
        damaged = [name for name in before if after[name] != before[name]]

    assert len(damaged) <= MOST
    alert = rig.mass_alerts()[0]
    assert "were stopped after" in alert["summary"]
    assert {one["action"]: one["state"] for one in alert["actions"]} == {"freeze": "done", "restore": "done"}
    assert not rig.damaged()
