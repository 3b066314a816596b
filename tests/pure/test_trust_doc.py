# SPDX-License-Identifier: Apache-2.0
"""docs/trust.md says which test shows that an attack fails: it must name real ones, and all of them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NAMED = re.compile(r"`(test_[a-z0-9_]+)`")
_DEFINED = re.compile(r"^def (test_[a-z0-9_]+)\(", re.MULTILINE)


def defined(paths: "list[Path]") -> set[str]:
    return {name for path in paths for name in _DEFINED.findall(path.read_text())}


def named() -> list[str]:
    return _NAMED.findall((ROOT / "docs" / "trust.md").read_text())


def test_every_test_that_the_attack_table_names_exists() -> None:
    there = defined(list((ROOT / "tests").rglob("test_*.py")))

    assert [name for name in named() if name not in there] == []
    assert len(named()) > 50


def test_every_test_of_an_attack_is_in_the_table() -> None:
    attacks = defined(list((ROOT / "tests" / "journey").glob("test_attacks_*.py")))

    assert sorted(attacks - set(named())) == []
