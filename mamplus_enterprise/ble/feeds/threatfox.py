# SPDX-License-Identifier: Apache-2.0
"""ThreatFox (abuse.ch) as CSV, recent or full: addresses with ports, domains, URLs, hashes, each with a confidence."""

from collections.abc import Sequence

from mamplus_enterprise.ble.feeds.found import NOTHING, Context, Dropped, Found, Values
from mamplus_enterprise.ble.feeds.text import column, fields_of, header_of, percent
from mamplus_host.ble.entry import Kind

_NAMES = (
    "first_seen_utc", "ioc_id", "ioc_value", "ioc_type", "threat_type", "fk_malware", "malware_alias",
    "malware_printable", "last_seen_utc", "confidence_level", "is_compromised", "reference", "tags", "anonymous",
    "reporter",
)  # fmt: skip
_KINDS: dict[str, Kind | None] = {"ip:port": Kind.IP, "domain": Kind.DOMAIN, "sha256_hash": Kind.SHA256, "url": None}


def columns(head: Sequence[str]) -> dict[str, int]:
    return header_of(head, "ioc_value", "ioc_type") or {name: place for place, name in enumerate(_NAMES)}


def line(text: str, context: Context) -> Values:
    if text.startswith("#") or "ioc_value" in text[:80]:
        return NOTHING
    fields = fields_of(text)

    def named(name: str) -> str:
        return column(fields, context.columns, name)

    if named("ioc_type") not in _KINDS:
        raise Dropped("hash" if "hash" in named("ioc_type") else "unsupported", f"no entry is a {named('ioc_type')!r}")
    kind, value = _KINDS[named("ioc_type")], named("ioc_value")
    return (
        Found(
            f"{value}/tcp" if kind is Kind.IP and ":" in value else value,
            kind,
            confidence=percent(named("confidence_level")),
            reason=" ".join(filter(None, (named("threat_type"), named("malware_printable")))),
            link=f"https://threatfox.abuse.ch/ioc/{named('ioc_id')}/" if named("ioc_id").isdigit() else "",
        ),
    )
