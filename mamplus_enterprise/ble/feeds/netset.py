# SPDX-License-Identifier: Apache-2.0
"""FireHOL's .netset and .ipset: an address or network a line, `#` comments. Ranges `a-b` are taken, too."""

from mamplus_enterprise.ble.feeds.found import NOTHING, Context, Dropped, Found, Values
from mamplus_enterprise.ble.feeds.text import without_comment
from mamplus_enterprise.ble.feeds.values import looks_like_address


def line(text: str, context: Context) -> Values:  # noqa: ARG001
    value = without_comment(text)
    if not value:
        return NOTHING
    if not looks_like_address(value):
        raise Dropped("malformed", f"{value[:80]!r} is no address, network or range")
    return (Found(value),)
