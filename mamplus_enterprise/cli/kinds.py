# SPDX-License-Identifier: Apache-2.0
"""Kinds and values as they are typed, and as they are printed."""

from pathlib import Path

from mamplus_host.ble.entry import KIND_NAMES, Kind
from mamplus_host.ble.rules import MAX_RULE_BYTES
from mamplus_host.errors import ConfigInvalid

_RULES = (Kind.YARA, Kind.SIGMA)
_BRIEF_CHARS = 120


def kinds(incomplete: str) -> list[str]:
    """The kinds that begin with `incomplete`, for the shell's completion."""
    return [name for name in KIND_NAMES if name.startswith(incomplete.lower())]


def text_of(kind: Kind, value: str) -> str:
    """Return `value`, of a rule that is named as @FILE what the file holds; ConfigInvalid when it cannot be read."""
    if kind not in _RULES or not value.startswith("@"):
        return value
    try:
        with Path(value[1:]).open(encoding="utf-8") as file:
            return file.read(MAX_RULE_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "it is not in UTF-8"
        raise ConfigInvalid(f"cannot read {value[1:]!r}: {why}; want a file with one rule in UTF-8") from None


def brief(value: str) -> str:
    """Return a value on one line of bounded length: a rule has many."""
    line = value.split("\n", 1)[0]
    return value if line == value and len(value) <= _BRIEF_CHARS else f"{line[:_BRIEF_CHARS]} …"
