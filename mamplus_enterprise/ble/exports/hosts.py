# SPDX-License-Identifier: Apache-2.0
"""hosts(5): blocked names go to 0.0.0.0. The file cannot say "and its sub-domains", nor an exception."""

from collections.abc import Iterable, Iterator

from mamplus_enterprise.ble.exports.common import About, is_block
from mamplus_host.ble.entry import Entry, Kind


def lines(entries: Iterable[Entry], about: About) -> Iterator[str]:
    yield f"# {about.title()}"
    for entry in entries:
        if entry.kind is Kind.DOMAIN and is_block(entry):
            yield f"0.0.0.0 {entry.value.removeprefix('=')}"
        else:
            about.leave(entry, "" if is_block(entry) else entry.verdict.name.lower())
