# SPDX-License-Identifier: Apache-2.0
"""MISP: one event, an attribute an entry; blocked ones have `to_ids`. The protocol of a port is a tag."""

from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID, uuid5

import msgspec

from mamplus_enterprise.ble.exports.common import About, address
from mamplus_enterprise.ble.feeds.misp import PROTOCOL_TAG
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.verdicts import Verdict

_NAMESPACE = UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 4122, for URLs
_TYPES = {
    Kind.SHA256: ("sha256", "Payload delivery"), Kind.DOMAIN: ("domain", "Network activity"),
    Kind.IP: ("ip-dst", "Network activity"), Kind.CIDR: ("ip-dst", "Network activity"),
    Kind.TLS: ("x509-fingerprint-sha256", "Network activity"),
}  # fmt: skip


def lines(entries: Iterable[Entry], about: About) -> Iterator[str]:
    event = {
        "uuid": str(uuid5(_NAMESPACE, f"mamplus:{about.enterprise}")), "info": about.title(), "analysis": "2",
        "threat_level_id": "2", "distribution": "0", "timestamp": str(about.created_s),
    }  # fmt: skip
    yield '{"Event":' + msgspec.json.encode(event).decode()[:-1] + ',"Attribute":['
    between = ""
    for entry in entries:
        attribute = _attribute(entry, about) if entry.verdict is not Verdict.ALLOW else None
        if attribute is None:
            about.leave(entry, "allow" if entry.verdict is Verdict.ALLOW else "")
            continue
        yield between + msgspec.json.encode(attribute).decode()
        between = ","
    yield "]}}"


def _attribute(entry: Entry, about: About) -> dict[str, Any] | None:
    if entry.kind not in _TYPES or entry.value.startswith("="):
        return None
    (type_, category), value, protocol = _TYPES[entry.kind], entry.value, ""
    if entry.kind in (Kind.IP, Kind.CIDR):
        where, _, protocol, port = address(entry)
        if protocol and not port:
            return None
        type_, value = ("ip-dst|port", f"{where}|{port}") if port else (type_, where)
    return {
        "uuid": str(uuid5(_NAMESPACE, f"mamplus:{about.enterprise}:{entry.kind.name}:{entry.value}")), "type": type_,
        "category": category, "value": value, "to_ids": entry.verdict is Verdict.BLOCK, "comment": entry.reason,
        "timestamp": str(about.created_s),
        "Tag": [{"name": f'{PROTOCOL_TAG}="{protocol}"'}] if protocol else [],
    }  # fmt: skip
