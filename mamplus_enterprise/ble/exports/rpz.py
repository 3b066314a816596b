# SPDX-License-Identifier: Apache-2.0
"""A response policy zone for DNS servers: blocked names and answers with blocked addresses become NXDOMAIN."""

from collections.abc import Iterable, Iterator
from ipaddress import ip_network

from mamplus_enterprise.ble.exports.common import NETWORK, About, address
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.verdicts import Verdict

_ACTIONS = {Verdict.BLOCK: ".", Verdict.ALLOW: "rpz-passthru."}
MAX_OWNER_CHARS = 200  # of a name in the zone: the zone's own name comes behind it


def lines(entries: Iterable[Entry], about: About) -> Iterator[str]:
    yield f"; {about.title()}"
    yield "$TTL 300"
    yield f"@ SOA localhost. hostmaster.localhost. {about.number & 0xFFFFFFFF} 3600 600 604800 300"
    yield "@ NS localhost."
    for entry in entries:
        owners = list(_owners(entry)) if entry.verdict in _ACTIONS else []
        if not owners or max(map(len, owners)) > MAX_OWNER_CHARS:
            about.leave(entry, "suspect" if entry.verdict not in _ACTIONS else "")
        for owner in owners if not owners or max(map(len, owners)) <= MAX_OWNER_CHARS else ():
            yield f"{owner} CNAME {_ACTIONS[entry.verdict]}"


def _owners(entry: Entry) -> Iterator[str]:
    if entry.kind is Kind.DOMAIN:
        name = entry.value.removeprefix("=")
        yield name
        if name == entry.value:
            yield f"*.{name}"
    elif entry.kind in NETWORK:
        where, _, protocol, port = address(entry)
        if not (protocol or port):
            yield _trigger(where)


def _trigger(where: str) -> str:
    """Return prefix length and address backwards, as RPZ writes them: 24.0.113.0.203.rpz-ip."""
    network = ip_network(where)
    if network.version == 4:
        parts = str(network.network_address).split(".")
    else:
        # One run of zeros may be "zz"; written out, all of it is right as well.
        parts = [f"{int(part, 16):x}" for part in network.network_address.exploded.split(":")]
    return ".".join([str(network.prefixlen), *reversed(parts), "rpz-ip"])
