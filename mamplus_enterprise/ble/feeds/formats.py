# SPDX-License-Identifier: Apache-2.0
"""The formats by name."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mamplus_enterprise.ble.feeds import (
    adblock,
    bazaar,
    clamav,
    drop,
    feodo,
    hosts,
    misp,
    netset,
    plain,
    scores,
    stix,
    table,
    threatfox,
    urlhaus,
)
from mamplus_enterprise.ble.feeds.found import Context, Dropped, Found, Values
from mamplus_host.errors import ConfigInvalid

Line = Callable[[str, Context], Values]
Document = Callable[[bytes], Iterator[tuple[int, str, list[Found | Dropped] | None]]]


@dataclass(frozen=True, slots=True)
class Format:
    """How a format is read: line by line, or as one document."""

    what: str  # one line of help
    line: Line | None = None
    document: Document | None = None
    columns: Callable[[Sequence[str]], dict[str, int]] | None = None


FORMATS = {
    "plain": Format("one value a line; kinds are recognized, or all of --kind", plain.line),
    "csv": Format("kind,value[,verdict[,reason]]", table.line, columns=table.columns),
    "stix": Format("STIX 2.1 bundle", document=stix.document),
    "misp": Format("MISP JSON", document=misp.document),
    "urlhaus": Format("URLhaus CSV", urlhaus.line, columns=urlhaus.columns),
    "threatfox": Format("ThreatFox CSV", threatfox.line, columns=threatfox.columns),
    "bazaar": Format("MalwareBazaar CSV", bazaar.line, columns=bazaar.columns),
    "feodo": Format("Feodo Tracker CSV", feodo.line, columns=feodo.columns),
    "drop": Format("Spamhaus DROP JSON", drop.line),
    "netset": Format("FireHOL netset or ipset", netset.line),
    "hosts": Format("hosts file", hosts.line),
    "adblock": Format("AdBlock domain list", adblock.line),
    "clamav": Format("ClamAV .hsb", clamav.line),
    "scores": Format("address and score, like ipsum", scores.line),
}
AUTO = "auto"


def format_of(name: str) -> Format:
    """Return the format called `name`; ConfigInvalid lists the names."""
    try:
        return FORMATS[name.strip().lower()]
    except KeyError:
        raise ConfigInvalid(f"unknown format {name!r}; want one of: {AUTO}, {', '.join(FORMATS)}") from None
