# SPDX-License-Identifier: Apache-2.0
"""What every export is given, and how it says what it left out."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mamplus_host.ble.endpoint import split
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.verdicts import Verdict

NETWORK = (Kind.IP, Kind.CIDR)
_VERDICTS = {verdict.name.lower(): f"verdict {verdict.name.lower()}" for verdict in Verdict}


@dataclass(slots=True)
class About:
    """Whose list it is, and what of it could not be said."""

    enterprise: str  # id
    name: str
    number: int  # generation
    created_s: int
    left_out: Counter[str] = field(default_factory=Counter)  # kind or reason -> how many

    def leave(self, entry: Entry, why: str = "") -> None:
        """Count `entry` as one that cannot be said; `why`: what of it, else its kind with what is special about it."""
        self.left_out[_VERDICTS.get(why) or why or _sort(entry)] += 1

    def title(self) -> str:
        name = "".join(char if char.isprintable() else "?" for char in self.name)
        return f"MAM+ list of {name}, generation {self.number}, {stamp(self.created_s)}"


def stamp(seconds: int) -> str:
    """Return a time as RFC 3339 has it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def is_block(entry: Entry) -> bool:
    return entry.verdict is Verdict.BLOCK


def address(entry: Entry) -> tuple[str, int, str, int]:
    """Return (address or network, IP version, protocol or "", port or 0) of an ip or cidr entry."""
    where, qualifier = split(entry.value)
    port, _, protocol = qualifier.partition("/")
    return where, 6 if ":" in where else 4, protocol, 0 if port in ("", "*") else int(port)


def one_line(text: str) -> str:
    """Return untrusted text as a part of one line."""
    return "".join(char if char.isprintable() else " " for char in text)


def _sort(entry: Entry) -> str:
    """Return the kind, and what most entries of it do not have: a tool that takes `ip` may take no port."""
    kind = entry.kind.name.lower()
    if entry.kind is Kind.DOMAIN and entry.value.startswith("="):
        return f"{kind} without sub-domains"
    if entry.kind not in NETWORK:
        return kind
    _, _, protocol, port = address(entry)
    extra = " and ".join(name for name, there in (("port", port), ("protocol", protocol)) if there)
    return f"{kind} with {extra}" if extra else kind
