# SPDX-License-Identifier: Apache-2.0
"""Which programs a policy's patterns name, and which patterns a policy may hold."""

from pathlib import Path

import pytest

from mamplus_host.errors import ConfigInvalid
from mamplus_host.kernel import layout
from mamplus_host.kernel.interpreters import found
from mamplus_host.policy.policy import INTERPRETERS, MAX_INTERPRETERS, MAX_PATTERN_BYTES, Policy, check


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("python3.11", "pythonic.txt", "sh", "ship"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o644 if name.endswith(".txt") else 0o755)
    (tmp_path / "python3").symlink_to("python3.11")
    (tmp_path / "bash").mkdir()
    return tmp_path


def test_a_name_is_looked_for_in_the_usual_places_and_a_path_where_it_says(place: Path) -> None:
    assert list(found(["python*", "sh", "bash"], [str(place)])) == [str(place / "python3.11"), str(place / "sh")]
    assert list(found([f"{place}/s*"], [])) == [str(place / "sh"), str(place / "ship")]


def test_a_place_that_is_not_there_names_nothing(tmp_path: Path) -> None:
    assert list(found(["sh"], [str(tmp_path / "away")])) == []


@pytest.mark.parametrize("pattern", ["", "bin/sh", "x" * (MAX_PATTERN_BYTES + 1), "a\0b"])
def test_a_policy_refuses_what_no_program_can_be_called(pattern: str) -> None:
    with pytest.raises(ConfigInvalid, match="interpreters"):
        check(Policy(interpreters=(pattern,)))


def test_a_policy_holds_no_more_patterns_than_the_kernel() -> None:
    check(Policy(interpreters=("x",) * MAX_INTERPRETERS))
    with pytest.raises(ConfigInvalid, match="61 of them, want at most 60"):
        check(Policy(interpreters=("x",) * (MAX_INTERPRETERS + 1)))
    assert max(MAX_INTERPRETERS, len(INTERPRETERS)) < layout.PATTERNS_MAX
    assert MAX_PATTERN_BYTES < layout.PATTERN_LEN
