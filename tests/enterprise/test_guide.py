# SPDX-License-Identifier: Apache-2.0
"""The administrator's guide, run line by line as a newcomer would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mamplus_enterprise.ble.exports.formats import EXPORTS
from mamplus_enterprise.ble.feeds.formats import FORMATS
from tests.pure.feed_samples import DROP, SCORES, URLHAUS

GUIDE = Path(__file__).parents[2] / "docs" / "administrators-guide.md"
FILES = {
    "pass.txt": "a passphrase\n", "urlhaus.csv": URLHAUS, "ipsum.txt": SCORES, "drop.json": DROP,
    "ours.txt": "9.9.9.9\nworse.example.org\n",
}  # fmt: skip


def commands() -> list[str]:
    lines = GUIDE.read_text().splitlines()
    return [line.removeprefix("    $ ") for line in lines if line.startswith("    $ ")]


@pytest.mark.timeout(900)
def test_every_command_of_the_guide_works_in_its_order(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    for command in commands():
        line = command.replace("/srv/mamplus", str(tmp_path / "srv"))
        done = subprocess.run(
            ["sh", "-c", line], cwd=tmp_path, env={**os.environ, "PATH": programs}, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        if "revert 4 --dry-run" in command:
            assert "enterprise: 1 withdrawn" in done.stdout

    made = {path.name for path in tmp_path.iterdir()}
    assert {"carrier.tar", "mamplus.nft", "mamplus.ipset", "rpz.zone", "bundle.json", "dropped.jsonl"} <= made
    assert "45.66.7.99" in (tmp_path / "mamplus.nft").read_text()


def test_the_guide_names_every_format() -> None:
    text = GUIDE.read_text()

    assert [name for name in (*FORMATS, *EXPORTS) if f"`{name}`" not in text] == []


def test_the_guide_says_that_only_a_suspected_program_is_held() -> None:
    (row,) = (line for line in GUIDE.read_text().splitlines() if line.startswith("| `suspect` |"))

    assert "a program is held meanwhile, a connection or a name goes on" in row
