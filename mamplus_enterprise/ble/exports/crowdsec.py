# SPDX-License-Identifier: Apache-2.0
"""CrowdSec: decisions for `cscli decisions import -i FILE`, as JSON or CSV. Addresses and networks, without ports."""

import csv
import io
from collections.abc import Iterable, Iterator

import msgspec

from mamplus_enterprise.ble.exports.common import NETWORK, About, address, is_block, one_line
from mamplus_host.ble.entry import Entry, Kind

_NO_END_H = 87_600  # ten years: a decision has an end
_FIELDS = ("duration", "scope", "value", "type", "reason")


def lines(entries: Iterable[Entry], about: About) -> Iterator[str]:
    yield "["
    between = ""
    for decision in _decisions(entries, about):
        yield between + msgspec.json.encode(decision).decode()
        between = ","
    yield "]"


def csv_lines(entries: Iterable[Entry], about: About) -> Iterator[str]:
    yield ",".join(_FIELDS)
    for decision in _decisions(entries, about):
        row = io.StringIO()
        csv.writer(row, lineterminator="").writerow([decision[name] for name in _FIELDS])
        yield row.getvalue()


def _decisions(entries: Iterable[Entry], about: About) -> Iterator[dict[str, str]]:
    for entry in entries:
        if not is_block(entry) or entry.kind not in NETWORK or any(address(entry)[2:]):
            about.leave(entry, "" if is_block(entry) else entry.verdict.name.lower())
            continue
        left_h = (entry.valid_until - about.created_s + 3599) // 3600 if entry.valid_until else _NO_END_H
        if left_h <= 0:
            about.leave(entry, "an end in the past")
            continue
        yield {
            "duration": f"{left_h}h", "scope": "ip" if entry.kind is Kind.IP else "range", "value": entry.value,
            "type": "ban", "reason": one_line(entry.reason or entry.source or about.title()),
        }  # fmt: skip
