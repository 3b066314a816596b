# SPDX-License-Identifier: Apache-2.0
"""hosts(5) as block lists use it: `0.0.0.0 bad.example worse.example # why`. The address is nobody's."""

from mamplus_enterprise.ble.feeds.found import NOTHING, Context, Dropped, Found, Values
from mamplus_enterprise.ble.feeds.text import without_comment
from mamplus_host.ble.entry import Kind

SINKS = frozenset({"0.0.0.0", "127.0.0.1", "::", "::0", "::1", "0"})
# Every such list begins with these, which are the machine's own.
LOCAL = frozenset({
    "localhost", "localhost.localdomain", "local", "broadcasthost", "0.0.0.0", "ip6-localhost", "ip6-loopback",
    "ip6-localnet", "ip6-mcastprefix", "ip6-allnodes", "ip6-allrouters", "ip6-allhosts",
})  # fmt: skip


def line(text: str, context: Context) -> Values:  # noqa: ARG001
    address, *names = without_comment(text, "#").split() or ("",)
    names = [name for name in names if name.lower() not in LOCAL]
    if not names:
        return NOTHING
    if address not in SINKS:
        raise Dropped("malformed", f"the line sends {names[0]!r} to {address!r}, want 0.0.0.0: it blocks nothing")
    return tuple(Found(name, Kind.DOMAIN) for name in names)
