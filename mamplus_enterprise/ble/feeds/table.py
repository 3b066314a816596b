# SPDX-License-Identifier: Apache-2.0
"""Our own CSV: kind,value[,verdict[,reason]]; a first line that names `kind` and `value` names all columns.

Further columns by name: severity, confidence, valid_until, message, link. Another name is refused: an entry
whose end was not understood would stay for ever.
"""

from collections.abc import Sequence

from mamplus_enterprise.ble.author import parse_severity, parse_verdict
from mamplus_enterprise.ble.feeds.found import NOTHING, Context, Dropped, Found, Values
from mamplus_enterprise.ble.feeds.text import column, end_of, fields_of, header_of, percent
from mamplus_host.ble.entry import parse_kind
from mamplus_host.errors import ConfigInvalid

_DEFAULT = {"kind": 0, "value": 1, "verdict": 2, "reason": 3}
_COLUMNS = (*_DEFAULT, "severity", "confidence", "valid_until", "message", "link")


def header(head: Sequence[str]) -> dict[str, int]:
    """Return the columns that the first line, comments apart, names; {} when it is no header."""
    first = next((text for text in head if text and not text.startswith("#")), "")
    return header_of([first], "kind", "value")


def columns(head: Sequence[str]) -> dict[str, int]:
    """Return the columns of a file, those of one without a header too; ConfigInvalid for a name that is none."""
    named = header(head)
    unknown = [name for name in named if name not in _COLUMNS]
    if unknown:
        raise ConfigInvalid(f"the first line names a column {unknown[0]!r}; want some of: {', '.join(_COLUMNS)}")
    return named or _DEFAULT


def line(text: str, context: Context) -> Values:
    if text.startswith("#"):
        return NOTHING
    fields, most = fields_of(text), len(context.columns)
    if not 2 <= len(fields) <= most:
        raise Dropped("malformed", f"the line has {len(fields)} fields, want kind,value[,verdict[,reason]]")

    def named(name: str) -> str:
        return column(fields, context.columns, name)

    if (named("kind").lower(), named("value").lower()) == ("kind", "value"):
        return NOTHING
    return (
        Found(
            named("value"),
            parse_kind(named("kind")),
            parse_verdict(named("verdict")) if named("verdict") else None,
            percent(named("confidence")),
            end_of(named("valid_until")),
            named("reason"),
            named("link"),
            parse_severity(named("severity")) if named("severity") else None,
            named("message"),
        ),
    )
