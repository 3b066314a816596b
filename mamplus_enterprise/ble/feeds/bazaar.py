# SPDX-License-Identifier: Apache-2.0
"""MalwareBazaar (abuse.ch) as CSV, recent or full: the SHA-256 of each sample, and what it is called."""

from collections.abc import Sequence

from mamplus_enterprise.ble.feeds.found import NOTHING, Context, Found, Values
from mamplus_enterprise.ble.feeds.text import column, fields_of, header_of
from mamplus_host.ble.entry import Kind

_NAMES = (
    "first_seen_utc", "sha256_hash", "md5_hash", "sha1_hash", "reporter", "file_name", "file_type_guess", "mime_type",
    "signature", "clamav", "vtpercent", "imphash", "ssdeep", "tlsh",
)  # fmt: skip


def columns(head: Sequence[str]) -> dict[str, int]:
    return header_of(head, "sha256_hash") or {name: place for place, name in enumerate(_NAMES)}


def line(text: str, context: Context) -> Values:
    if text.startswith("#") or "sha256_hash" in text[:80]:
        return NOTHING
    fields = fields_of(text)
    what = (column(fields, context.columns, name) for name in ("signature", "file_name"))
    reason = " ".join(filter(None, what))
    return (Found(column(fields, context.columns, "sha256_hash"), Kind.SHA256, reason=reason),)
