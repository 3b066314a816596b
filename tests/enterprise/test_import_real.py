# SPDX-License-Identifier: Apache-2.0
"""Real lists, where they are at hand: MAMPLUS_REAL_DATA names their folder."""

import os
from pathlib import Path

import pytest

from tests.enterprise.company import Company

REAL = Path(os.environ.get("MAMPLUS_REAL_DATA") or "/nonexistent") / "feeds"

pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="MAMPLUS_REAL_DATA names no folder with feeds")


@pytest.mark.parametrize(
    ("name", "format_", "least"),
    [
        ("ipsum.txt", "scores", 100_000),
        ("stevenblack.domains.txt", "plain", 120_000),
        ("hagezi-doh-bypass.adblock.txt", "adblock", 500),
        ("hagezi-doh-bypass.hosts.txt", "hosts", 900),
    ],
)
def test_a_real_list_is_recognized_and_mostly_taken(quiet: Company, name: str, format_: str, least: int) -> None:
    report = quiet.json("ble", "import", "auto", REAL / name)

    assert report["format"] == format_
    assert report["added"] >= least
    assert report["lines"] == report["added"] + report["comments"] + report["dropped_count"]
    assert set(report["reasons"]) <= {"known", "suffix", "duplicate", "malformed", "bogon", "private"}
