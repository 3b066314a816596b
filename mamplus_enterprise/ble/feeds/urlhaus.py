# SPDX-License-Identifier: Apache-2.0
"""URLhaus (abuse.ch) as CSV: id, dateadded, url, url_status, last_online, threat, tags, urlhaus_link, reporter."""

from collections.abc import Sequence

from mamplus_enterprise.ble.feeds.found import NOTHING, Context, Found, Values
from mamplus_enterprise.ble.feeds.text import column, fields_of, header_of

_NAMES = ("id", "dateadded", "url", "url_status", "last_online", "threat", "tags", "urlhaus_link", "reporter")


def columns(head: Sequence[str]) -> dict[str, int]:
    return header_of(head, "url", "url_status") or {name: place for place, name in enumerate(_NAMES)}


def line(text: str, context: Context) -> Values:
    if text.startswith("#") or text.lstrip('"').startswith("id,"):
        return NOTHING
    fields = fields_of(text)
    threat, tags = column(fields, context.columns, "threat"), column(fields, context.columns, "tags")
    reason = f"{threat or 'malware'}{': ' + tags if tags else ''}"
    return (
        Found(
            column(fields, context.columns, "url"), reason=reason, link=column(fields, context.columns, "urlhaus_link")
        ),
    )
