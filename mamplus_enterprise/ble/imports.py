# SPDX-License-Identifier: Apache-2.0
"""Feeds become entries: what fits is added, what does not is dropped and said, line by line.

    plain   one value a line, all of one kind; `#` begins a comment line
    csv     kind,value[,verdict[,reason]]; a first line that begins with `kind,value` names the columns

An import adds and never replaces: what an administrator decided about a value stays.
"""

import csv
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TextIO

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from mamplus_enterprise.ble.author import Draft, fields_of, parse_verdict
from mamplus_enterprise.storage.schema import EntryRow
from mamplus_enterprise.storage.store import note
from mamplus_host.ble.entry import Kind, canonical, parse_kind
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import Verdict

MAX_LINE_CHARS = 8192
MAX_SHOWN = 1000  # dropped lines kept with their reason; beyond, they are only counted
_BATCH = 1000  # rows a statement


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a line does not say."""

    kind: Kind | None
    verdict: Verdict = Verdict.BLOCK
    source: str = ""
    valid_until: int = 0


@dataclass(frozen=True, slots=True)
class Dropped:
    line: int  # counted from 1
    text: str  # its beginning
    reason: str


@dataclass(slots=True)
class Report:
    """What became of every line: `lines` = added + dropped_count + comments."""

    lines: int = 0
    added: int = 0
    comments: int = 0  # and empty lines
    dropped_count: int = 0
    dropped: list[Dropped] = field(default_factory=list)

    def drop(self, line: int, text: str, reason: str) -> None:
        self.dropped_count += 1
        if len(self.dropped) < MAX_SHOWN:
            self.dropped.append(Dropped(line, text[:200], reason))


Parse = Callable[[str, Defaults], Draft]


def import_file(session: Session, path: Path, format_name: str, defaults: Defaults, *, who: str) -> Report:
    """Add what `path` holds; ConfigInvalid when the format is unknown or the file cannot be read."""
    parse = _parser(format_name, defaults)
    wanted = select(EntryRow.kind, EntryRow.value, EntryRow.id, EntryRow.verdict).where(EntryRow.removed_at.is_(None))
    rows = session.execute(wanted)
    known = {(Kind(kind), value): (entry_id, Verdict(verdict)) for kind, value, entry_id, verdict in rows}
    report = Report()
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            drafts = _drafts(file, parse, defaults, known, report)
            while batch := list(islice(drafts, _BATCH)):
                now_s = time.time()
                session.execute(insert(EntryRow), [{**fields_of(draft), "added_at": now_s} for draft in batch])
                report.added += len(batch)
    except OSError as error:
        raise ConfigInvalid(f"cannot read {str(path)!r}: {error.strerror}; want a text file") from None
    detail = f"{report.added} added, {report.dropped_count} dropped of {report.lines} lines"
    note(session, who=who, what="imported", subject=f"{format_name} {path.name}", detail=detail)
    return report


def _parser(format_name: str, defaults: Defaults) -> Parse:
    parsers: dict[str, Parse] = {"plain": _plain, "csv": _csv}
    if format_name not in parsers:
        raise ConfigInvalid(f"unknown format {format_name!r}; want one of: {', '.join(parsers)}")
    if format_name == "plain" and defaults.kind is None:
        raise ConfigInvalid("a plain file does not say what its values are; say --kind KIND")
    return parsers[format_name]


def _drafts(
    file: TextIO, parse: Parse, defaults: Defaults, known: dict[tuple[Kind, str], tuple[int, Verdict]], report: Report
) -> Iterator[Draft]:
    for number, text, whole in _lines(file):
        report.lines += 1
        if not text or text.startswith("#") or (number == 1 and text.lower().startswith("kind,value")):
            report.comments += 1
            continue
        try:
            if not whole:
                raise ConfigInvalid(f"the line is longer than {MAX_LINE_CHARS} characters")
            draft = parse(text, defaults)
        except ConfigInvalid as error:
            report.drop(number, text, str(error))
            continue
        key = (draft.kind, draft.value)
        if key in known:
            entry_id, verdict = known[key]
            where = f"entry {entry_id}" if entry_id else "an earlier line"
            report.drop(number, text, f"{where} says {verdict.name.lower()} about it already")
            continue
        known[key] = (0, draft.verdict)
        yield draft


def _lines(file: TextIO) -> Iterator[tuple[int, str, bool]]:
    """Yield (number, stripped text, whether it is whole); the rest of an overlong line is skipped."""
    number = 0
    while text := file.readline(MAX_LINE_CHARS):
        number += 1
        whole = text.endswith("\n") or len(text) < MAX_LINE_CHARS
        rest = text
        while not rest.endswith("\n") and len(rest) == MAX_LINE_CHARS:
            rest = file.readline(MAX_LINE_CHARS)
        yield number, text.strip().removeprefix("\ufeff"), whole


def _plain(text: str, defaults: Defaults) -> Draft:
    assert defaults.kind is not None  # `_parser` refused that
    value = canonical(defaults.kind, text)
    return Draft(
        kind=defaults.kind, value=value, verdict=defaults.verdict, source=defaults.source,
        valid_until=defaults.valid_until,
    )  # fmt: skip


def _csv(text: str, defaults: Defaults) -> Draft:
    fields = _fields([text])
    if not 2 <= len(fields) <= 4:
        raise ConfigInvalid(f"the line has {len(fields)} fields, want kind,value[,verdict[,reason]]")
    kind_text, value, verdict_text, reason = (*fields, "", "")[:4]
    kind = parse_kind(kind_text)
    verdict = parse_verdict(verdict_text) if verdict_text.strip() else defaults.verdict
    return Draft(
        kind=kind, value=canonical(kind, value), verdict=verdict, source=defaults.source, reason=reason.strip(),
        valid_until=defaults.valid_until,
    )  # fmt: skip


def _fields(lines: Iterable[str]) -> list[str]:
    try:
        return next(csv.reader(lines, strict=True))
    except csv.Error as error:
        raise ConfigInvalid(f"the line is no CSV: {error}") from None
