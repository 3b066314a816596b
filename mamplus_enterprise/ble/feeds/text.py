# SPDX-License-Identifier: Apache-2.0
"""What several line formats share: comments, CSV fields, times."""

import csv
from collections.abc import Sequence

from mamplus_enterprise.ble.feeds.found import Dropped
from mamplus_enterprise.times import seconds


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


def end_of(text: str) -> int:
    """Return the end that a feed gives a value, in seconds since the epoch; 0 for ""; Dropped when it is no date.

    An end that cannot be read is not none: what was to end would stay for ever.
    """
    try:
        return seconds(text.removesuffix(" UTC")) if text else 0
    except ValueError:
        raise Dropped("malformed", f"the end {text[:40]!r} is no date; want one like 2031-12-31") from None


def percent(text: str) -> int:
    """Return a confidence of 0 to 100; -1 for ""; Dropped when it is none."""
    if not text:
        return -1
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= 100):
        raise Dropped("malformed", f"the confidence is {text[:40]!r}, want 0 to 100")
    return int(text)
