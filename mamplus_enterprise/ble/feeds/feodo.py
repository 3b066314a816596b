# SPDX-License-Identifier: Apache-2.0
"""Feodo Tracker (abuse.ch) as CSV: control servers of botnets. The whole address is blocked: it is theirs."""

from collections.abc import Sequence

from mamplus_enterprise.ble.feeds.found import NOTHING, Context, Found, Values
from mamplus_enterprise.ble.feeds.text import column, fields_of, header_of
from mamplus_host.ble.entry import Kind

_NAMES = ("first_seen_utc", "dst_ip", "dst_port", "c2_status", "last_online", "malware")


def columns(head: Sequence[str]) -> dict[str, int]:
    return header_of(head, "dst_ip", "dst_port") or {name: place for place, name in enumerate(_NAMES)}


def line(text: str, context: Context) -> Values:
    if text.startswith("#") or "dst_ip" in text[:80]:
        return NOTHING
    fields = fields_of(text)
    malware, port = column(fields, context.columns, "malware"), column(fields, context.columns, "dst_port")
    reason = f"botnet control, {malware or 'unnamed'}, seen at port {port}"
    return (Found(column(fields, context.columns, "dst_ip"), Kind.IP, reason=reason),)
