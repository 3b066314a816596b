# SPDX-License-Identifier: Apache-2.0
"""What a parser hands on: a value as its feed wrote it, with what the feed says about it."""

from dataclasses import dataclass, field
from typing import NamedTuple

from mamplus_host.ble.entry import Kind
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import Severity, Verdict


class Found(NamedTuple):
    """One value of a feed. What is None or negative, the import's defaults say."""

    text: str
    kind: Kind | None = None  # None: to be seen from the value
    verdict: Verdict | None = None
    confidence: int = -1  # 0-100
    valid_until: int = 0  # seconds since the epoch; 0: the feed does not say
    reason: str = ""
    link: str = ""
    severity: Severity | None = None
    message: str = ""
    is_exception: bool = False  # the feed takes the value out of itself


class Dropped(ConfigInvalid):
    """A line, or one value of it, that becomes no entry; `code` is what reports count by."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Context:
    """What a line cannot know by itself."""

    kind: Kind | None = None  # of all values, when an administrator said so
    columns: dict[str, int] = field(default_factory=dict)  # of a CSV: name -> place
    min_score: int = 0


Values = tuple[Found, ...]
NOTHING: Values = ()
