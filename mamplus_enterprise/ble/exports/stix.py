# SPDX-License-Identifier: Apache-2.0
"""STIX 2.1: a bundle with an indicator an entry. Its id comes from enterprise, kind and value: it stays the same."""

from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID, uuid5

import msgspec

from mamplus_enterprise.ble.exports.common import About, address, stamp
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.verdicts import Verdict

_NAMESPACE = UUID("00abedb4-aa42-466c-9c01-fed23315a9b7")  # of STIX 2.1 itself, for ids made of content
_TYPES = {Verdict.BLOCK: "malicious-activity", Verdict.SUSPECT: "anomalous-activity"}


def lines(entries: Iterable[Entry], about: About) -> Iterator[str]:
    yield f'{{"type":"bundle","id":"bundle--{_id(about, "bundle", str(about.number))}","objects":['
    between = ""
    for entry in entries:
        pattern = _pattern(entry) if entry.verdict in _TYPES else ""
        if not pattern:
            about.leave(entry, "allow" if entry.verdict not in _TYPES else "")
            continue
        yield between + msgspec.json.encode(_indicator(entry, pattern, about)).decode()
        between = ","
    yield "]}"


def _indicator(entry: Entry, pattern: str, about: About) -> dict[str, Any]:
    made = stamp(about.created_s)
    indicator: dict[str, Any] = {
        "type": "indicator", "spec_version": "2.1",
        "id": f"indicator--{_id(about, entry.kind.name, entry.value)}", "created": made, "modified": made,
        "indicator_types": [_TYPES[entry.verdict]], "pattern": pattern, "pattern_type": "stix", "valid_from": made,
        "confidence": entry.confidence,
    }  # fmt: skip
    if entry.reason:
        indicator["name"] = entry.reason
    if entry.valid_until > about.created_s:
        indicator["valid_until"] = stamp(entry.valid_until)
    if entry.source:
        indicator["labels"] = [entry.source]
    if entry.link:
        indicator["external_references"] = [{"source_name": entry.source or "link", "url": entry.link}]
    return indicator


def _pattern(entry: Entry) -> str:
    """Return the pattern, "" when STIX has none of one comparison that means the same."""
    if entry.kind is Kind.SHA256:
        return f"[file:hashes.'SHA-256' = '{entry.value}']"
    if entry.kind is Kind.TLS:
        return f"[x509-certificate:hashes.'SHA-256' = '{entry.value}']"
    if entry.kind is Kind.DOMAIN and not entry.value.startswith("="):
        return f"[domain-name:value = '{entry.value}']"
    if entry.kind not in (Kind.IP, Kind.CIDR):
        return ""
    where, version, protocol, port = address(entry)
    if protocol:
        return ""
    if port:
        return f"[network-traffic:dst_ref.value = '{where}' AND network-traffic:dst_port = {port}]"
    return f"[ipv{version}-addr:value = '{where}']"


def _id(about: About, *parts: str) -> UUID:
    return uuid5(_NAMESPACE, "\n".join((about.enterprise, *parts)))
