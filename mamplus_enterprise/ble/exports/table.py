# SPDX-License-Identifier: Apache-2.0
"""Our own CSV, all of an entry: `ble import csv` reads it back."""

import csv
import io
from collections.abc import Iterable, Iterator

from mamplus_enterprise.ble.exports.common import About, one_line, stamp
from mamplus_host.ble.entry import Entry

_FIELDS = ("kind", "value", "verdict", "reason", "severity", "confidence", "valid_until", "message", "link")


def lines(entries: Iterable[Entry], about: About) -> Iterator[str]:
    yield ",".join(_FIELDS)
    for entry in entries:
        if "\n" in entry.value:
            about.leave(entry, "rule of several lines")
            continue
        row = io.StringIO()
        csv.writer(row, lineterminator="").writerow((
            entry.kind.name.lower(), entry.value, entry.verdict.name.lower(), one_line(entry.reason),
            entry.severity.name.lower(), entry.confidence, stamp(entry.valid_until) if entry.valid_until else "",
            one_line(entry.message), one_line(entry.link),
        ))  # fmt: skip
        yield row.getvalue()
