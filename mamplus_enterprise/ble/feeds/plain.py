# SPDX-License-Identifier: Apache-2.0
"""One value a line: address, network, range, domain, SHA-256 or URL; with `--kind`, values of that kind."""

from mamplus_enterprise.ble.feeds.found import NOTHING, Context, Found, Values
from mamplus_enterprise.ble.feeds.text import without_comment


def line(text: str, context: Context) -> Values:
    value = without_comment(text)
    return (Found(value, context.kind),) if value else NOTHING
