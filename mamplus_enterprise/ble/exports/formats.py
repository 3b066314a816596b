# SPDX-License-Identifier: Apache-2.0
"""The exports by name, and the entries that they are given: of the published list, one opinion a value."""

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sqlalchemy.orm import Session

from mamplus_enterprise.ble import author, states
from mamplus_enterprise.ble.exports import crowdsec, hosts, ipset, misp, nftables, rpz, stix, table
from mamplus_enterprise.ble.exports.common import About
from mamplus_enterprise.errors import PublishFailed
from mamplus_enterprise.home import Home
from mamplus_host.ble.entry import Entry
from mamplus_host.ble.layer import Layer
from mamplus_host.errors import ConfigInvalid
from mamplus_host.files import replacing

Lines = Callable[[Iterable[Entry], About], Iterator[str]]
EXPORTS: dict[str, Lines] = {
    "nftables": nftables.lines, "ipset": ipset.lines, "hosts": hosts.lines, "rpz": rpz.lines, "stix": stix.lines,
    "misp": misp.lines, "crowdsec": crowdsec.lines, "crowdsec-csv": crowdsec.csv_lines, "csv": table.lines,
}  # fmt: skip
CARRIER = "carrier"


def format_of(name: str) -> Lines:
    """Return the export called `name`; ConfigInvalid lists the names."""
    try:
        return EXPORTS[name.strip().lower()]
    except KeyError:
        raise ConfigInvalid(f"unknown format {name!r}; want one of: {CARRIER}, {', '.join(EXPORTS)}") from None


def entries_of(session: Session, number: int) -> list[Entry]:
    """Return what devices enforce of a generation now: of each value the greatest verdict of all layers, by id.

    All at once: a value's opinions lie apart. A million entries take some 500 MB.
    """
    best: dict[tuple[int, str], Entry] = {}
    now_s = time.time()
    for layer in Layer:
        when = author.published_at(session, layer, number)
        for entry in author.state_at(session, layer, when or 0.0):
            if entry.valid_until and entry.valid_until <= now_s:
                continue
            known = best.get((entry.kind, entry.value))
            if known is None or entry.verdict > known.verdict:
                best[entry.kind, entry.value] = entry
    return sorted(best.values(), key=lambda entry: entry.id)


def about(home: Home, session: Session) -> About:
    """Return whose list it is, and of which generation: the newest."""
    number = states.newest(session)
    created = author.published_at(session, Layer.ENTERPRISE, number) or time.time()
    newest = max([created, *(author.published_at(session, layer, number) or 0.0 for layer in Layer)])
    return About(home.settings.enterprise_id, home.settings.name, number, int(newest))


def write(out: Path, lines: Iterable[str]) -> int:
    """Write `lines` to `out`, whole or not at all, or to stdout for `-`; return how many there are."""
    if str(out) in ("-", "/dev/stdout"):
        return _written(sys.stdout.write, lines)
    try:
        with replacing(out, mode=0o666) as file:
            text = io.TextIOWrapper(file, encoding="utf-8")
            count = _written(text.write, lines)
            text.detach()
            return count
    except OSError as error:
        raise PublishFailed(f"cannot write {str(out)!r}: {error.strerror}; want a place that is writable") from None


def _written(write_text: Callable[[str], int], lines: Iterable[str]) -> int:
    count = 0
    for line in lines:
        write_text(f"{line}\n")
        count += 1
    return count
