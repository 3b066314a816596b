# SPDX-License-Identifier: Apache-2.0
"""Our own CSV: kind,value[,verdict[,reason]]; a first line that begins with `kind,value` names the columns.

Further columns by name: severity, confidence, valid_until, message, link.
"""

from collections.abc import Sequence

from mamplus_enterprise.ble.author import parse_severity, parse_verdict
from mamplus_enterprise.ble.feeds.found import NOTHING, Context, Dropped, Found, Values
from mamplus_enterprise.ble.feeds.text import column, fields_of, header_of, percent, seconds
from mamplus_host.ble.entry import parse_kind

_DEFAULT = {"kind": 0, "value": 1, "verdict": 2, "reason": 3}


def columns(head: Sequence[str]) -> dict[str, int]:
    """Return the columns that the first line names, or those of a file without a header."""
    return header_of([text for text in head[:1] if text.lower().startswith("kind,value")], "kind", "value") or _DEFAULT


def line(text: str, context: Context) -> Values:
    if text.startswith("#") or text.lower().startswith("kind,value"):
        return NOTHING
    fields, most = fields_of(text), len(context.columns)
    if not 2 <= len(fields) <= most:
        raise Dropped("malformed", f"the line has {len(fields)} fields, want kind,value[,verdict[,reason]]")

    def named(name: str) -> str:
        return column(fields, context.columns, name)

    return (
        Found(
            named("value"),
            parse_kind(named("kind")),
            parse_verdict(named("verdict")) if named("verdict") else None,
            percent(named("confidence")),
            seconds(named("valid_until")),
            named("reason"),
            named("link"),
            parse_severity(named("severity")) if named("severity") else None,
            named("message"),
        ),
    )
