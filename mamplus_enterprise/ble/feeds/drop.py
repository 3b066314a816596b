# SPDX-License-Identifier: Apache-2.0
"""Spamhaus DROP as JSON lines: {"cidr": "192.0.2.0/24", "sblid": "SBL1", "rir": "..."}; the last line is metadata."""

import msgspec

from mamplus_enterprise.ble.feeds.found import NOTHING, Context, Dropped, Found, Values
from mamplus_host.ble.entry import Kind


class _Line(msgspec.Struct):
    cidr: str = ""
    sblid: str = ""
    asn: int = 0
    type: str = ""


def line(text: str, context: Context) -> Values:  # noqa: ARG001
    try:
        read = msgspec.json.decode(text, type=_Line)
    except msgspec.MsgspecError as error:
        raise Dropped("malformed", f"the line is no object of DROP: {error}") from None
    if read.type == "metadata":
        return NOTHING
    if read.asn and not read.cidr:
        raise Dropped("unsupported", f"AS{read.asn}: a list entry names networks, not autonomous systems")
    link = f"https://check.spamhaus.org/sbl/query/{read.sblid}" if read.sblid else ""
    return (Found(read.cidr, Kind.CIDR, reason=f"Spamhaus {read.sblid}".strip(), link=link),)
