# SPDX-License-Identifier: Apache-2.0
"""What an import says about itself: counts, reasons with their first examples, and the whole of it in a file."""

from collections import Counter
from dataclasses import dataclass, field
from typing import IO

import msgspec

from mamplus_enterprise.ble.judge import Drop, Judged

MAX_SHOWN = 1000  # dropped values kept with their reason; beyond, they are only counted
EXAMPLES = 3  # a reason
# What an administrator should see first: mistakes in the file or in the feed, then what is expected of every feed.
_BY_INTEREST = (
    "page", "never", "decided", "suffix", "known", "shared", "wide", "private", "bogon", "layer", "malformed",
    "pattern", "unsupported", "hash", "url", "excepted", "to_ids", "revoked", "benign", "expired", "duplicate", "score",
)  # fmt: skip
_UNDERSTOOD = frozenset({"decided", "excepted"})  # the value is on the list, or was never meant to be


@dataclass(frozen=True, slots=True)
class Dropped:
    line: int  # counted from 1; of a document, the part
    text: str  # its beginning
    reason: str
    code: str


@dataclass(slots=True)
class Report:
    """What became of a file. A line may hold several values, so values are counted apart from lines."""

    feed: str
    format: str
    layer: str
    lines: int = 0
    comments: int = 0  # and empty lines; of a document, parts that are no indicators
    added: int = 0
    renewed: int = 0
    unchanged: int = 0
    withdrawn: int = 0
    kept: int = 0  # named no more by this feed, but by another, whose they are now
    dropped_count: int = 0
    dropped: list[Dropped] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)  # code -> how many
    examples: dict[str, list[Dropped]] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)  # warninglist that knows what was taken all the same
    forced: list[tuple[str, str]] = field(default_factory=list)  # value, what the gate said
    seconds: float = 0.0
    valid_until: int = 0  # the default end
    file: "IO[bytes] | None" = None  # where every dropped value goes, a JSON object a line

    def take(self, judged: Judged) -> None:
        self.lines += judged.lines
        self.comments += judged.comments
        self.notes.update(judged.notes)
        self.forced += judged.forced
        for drop in judged.drops:
            self.drop(drop)

    def drop(self, drop: Drop) -> None:
        line, text, code, reason = drop
        one = Dropped(line, text, reason, code)
        self.dropped_count += 1
        self.reasons[code] += 1
        if len(self.dropped) < MAX_SHOWN:
            self.dropped.append(one)
        examples = self.examples.setdefault(code, [])
        if len(examples) < EXAMPLES:
            examples.append(one)
        if self.file is not None:
            self.file.write(msgspec.json.encode(one) + b"\n")

    def is_nothing(self) -> bool:
        """Whether the file holds nothing, or all of it was dropped: a download that failed, or another format."""
        taken = self.added + self.renewed + self.unchanged
        is_dropped = self.dropped_count > 0 and _UNDERSTOOD.isdisjoint(self.reasons)
        return not taken and (is_dropped or not self.lines)

    def is_change(self) -> bool:
        return bool(self.added + self.renewed + self.withdrawn + self.kept)

    def by_interest(self) -> list[tuple[str, int]]:
        """Return (reason's code, how many were dropped for it), the most telling first."""
        places = {code: place for place, code in enumerate(_BY_INTEREST)}
        return sorted(self.reasons.items(), key=lambda one: places.get(one[0], len(places)))

    def counts(self) -> dict[str, int]:
        """Return the figures that are kept with the feed."""
        names = ("lines", "comments", "added", "renewed", "unchanged", "withdrawn", "dropped_count")
        return {name: getattr(self, name) for name in names}

    def shown(self) -> dict[str, object]:
        """Return what `--json` prints."""
        names = (
            "feed", "format", "layer", "lines", "comments", "added", "renewed", "unchanged", "withdrawn", "kept",
            "dropped_count", "dropped", "forced", "seconds", "valid_until",
        )  # fmt: skip
        counted = {"reasons": dict(self.by_interest()), "notes": dict(self.notes.most_common())}
        return {name: getattr(self, name) for name in names} | counted
