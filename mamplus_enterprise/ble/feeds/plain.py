# SPDX-License-Identifier: Apache-2.0
"""One value a line: address, network, range, domain, SHA-256 or URL; with `--kind`, values of that kind.

Lists of names write `*.bad.example` or `.bad.example` for a name with its sub-domains, which is what a name means here.
"""

from mamplus_enterprise.ble.feeds.found import NOTHING, Context, Found, Values
from mamplus_enterprise.ble.feeds.text import without_comment
from mamplus_host.ble.entry import Kind


def line(text: str, context: Context) -> Values:
    value = without_comment(text)
    if context.kind in (None, Kind.DOMAIN):
        value = value.removeprefix("*").removeprefix(".") if value.startswith(("*.", ".")) else value
    return (Found(value, context.kind),) if value else NOTHING
