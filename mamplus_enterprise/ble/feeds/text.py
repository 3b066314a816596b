# SPDX-License-Identifier: Apache-2.0
"""What several line formats share: comments, CSV fields, times."""

import csv
from collections.abc import Sequence
from datetime import UTC, datetime

from mamplus_enterprise.ble.feeds.found import Dropped


def without_comment(text: str, marks: str = "#;") -> str:
    """Return `text` without the comment that one of `marks` begins at its start or behind a blank."""
    for mark in marks:
        if text.startswith(mark):
            return ""
        for blank in (" ", "\t"):
            text = text.partition(blank + mark)[0]
    return text.strip()


def fields_of(text: str) -> list[str]:
    """Return the fields of one line of CSV; blanks behind the commas do not count."""
    try:
        return [field.strip() for field in next(csv.reader([text], strict=True, skipinitialspace=True))]
    except (csv.Error, StopIteration) as error:
        raise Dropped("malformed", f"the line is no CSV: {error}") from None


def header_of(head: Sequence[str], *wanted: str) -> dict[str, int]:
    """Return the columns of the first line, comment or not, that names all of `wanted`; none: {}."""
    for line in head:
        try:
            names = [name.lower() for name in fields_of(line.lstrip("# "))]
        except Dropped:
            continue
        if set(wanted) <= set(names):
            return {name: place for place, name in reversed(list(enumerate(names)))}
    return {}


def column(fields: Sequence[str], columns: dict[str, int], name: str) -> str:
    """Return a field by its column's name; "" when the header or the line lacks it."""
    place = columns.get(name, len(fields))
    value = fields[place] if place < len(fields) else ""
    return "" if value in ("None", "n/a", "-") else value


def seconds(text: str) -> int:
    """Return a time as feeds write it in seconds since the epoch, UTC where no zone is named; 0 when it is none."""
    try:
        moment = datetime.fromisoformat(text.strip().removesuffix(" UTC"))
    except ValueError:
        return 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def percent(text: str) -> int:
    """Return a confidence of 0 to 100; -1 when `text` is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= 100 else -1
