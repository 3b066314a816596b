# SPDX-License-Identifier: Apache-2.0
"""MISP's warninglists, compiled: values that are known to be good, or too common to be blocked.

The lists come with `pymispwarninglists`, which asks every list about every value: a fifth of a
second each. Here they are one dictionary a kind and one array of networks, asked in a microsecond.

What a list means for a block entry differs, so each has one of three treatments:

    drop   good or shared by many: resolvers, mail and update servers, popular and public names
    note   no reason to keep from blocking: anybody rents an address in a cloud, scanners and sinkholes are
           nobody's service; counted in the report only
    rank   a million most visited sites: evil ones are among them; asked only for names that a URL gave
"""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from mamplus_enterprise.ble.ranges import Ranges, Span, span
from mamplus_host.errors import ConfigInvalid

_NOTED_NAMES = frozenset({
    "amazon-aws", "bunny-net", "digitalside", "github", "google-gcp", "googlebot", "microsoft-azure",
    "microsoft-azure-china", "microsoft-azure-germany", "microsoft-azure-us-gov", "openai-gptbot", "oracle-oci",
    "ovh-cluster", "parking-domain", "parking-domain-ns", "sinkholes", "umich-cse-connection-attempts",
    "vpn-ipv4", "vpn-ipv6", "check-host-net", "censys-scanning", "shadowserver", "modat-scanner",
    "onyphe-scanner", "internetcleanup-scanner",
})  # fmt: skip
_NOTED_ENDS = ("-scanning", "-scanner")
_RANKS = frozenset({"tranco", "google-chrome-crux-1million"})
_IGNORED = frozenset({"microsoft-attack-simulator", "disposable-email"})  # not about what a list entry can name
# Whoever owns the listed name owns all names below it; elsewhere anybody may have a name below.
_OWNED = frozenset({
    "bank-website", "captive-portals", "crl-hostname", "dax30", "microsoft-office365", "microsoft-office365-cn",
    "microsoft-win10-connection-endpoints", "umbrella-blockpage-hostname",
})  # fmt: skip
_NAMES = frozenset({"domain", "hostname"})
_ADDRESSES = frozenset({"ip-src", "ip-dst"})


@cache
def compiled() -> "Warninglists":
    """Return the lists that came with the package: compiled once a process, and never changed."""
    return Warninglists()


class _File(msgspec.Struct):
    name: str
    values: list[str] = msgspec.field(name="list")
    matching_attributes: list[str] = []
    type: str = "string"


class Match(NamedTuple):
    """A list that knows the value."""

    drop: bool
    list: str
    how: str  # "is", "touches a network", "contains" or "is part of"
    value: str = ""  # of the list, when it is another


class Warninglists:
    """All lists of a directory, compiled: about 0.5 s and 100 MB for the 450,000 values that are always loaded."""

    def __init__(self, directory: Path | None = None, *, ranks: bool = False) -> None:
        self.titles: list[str] = []
        self._drops: list[bool] = []
        self._names: dict[str, int] = {}
        self._owned: dict[str, int] = {}
        self._above: dict[str, tuple[str, int]] = {}
        self._hashes: dict[str, int] = {}
        self._certificates: dict[str, int] = {}
        networks: dict[bool, list[tuple[str, int]]] = {True: [], False: []}
        for name, file in _files(directory, ranks):
            self._add(name, file, networks)
        self._dropped_networks, self._noted_networks = Ranges(networks[True]), Ranges(networks[False])
        self.values = sum(map(len, (self._names, self._hashes, self._certificates, *networks.values())))

    def _add(self, name: str, file: _File, networks: dict[bool, list[tuple[str, int]]]) -> None:
        label = len(self.titles)
        attributes = frozenset(file.matching_attributes)
        self.titles.append(file.name)
        drop = not (name in _NOTED_NAMES or name.endswith(_NOTED_ENDS) or name in _RANKS)
        self._drops.append(drop)
        if file.type == "cidr" and attributes & _ADDRESSES:
            networks[drop] += [(text, label) for text in file.values if _is_network(text)]
        elif file.type != "regex":
            if attributes & _NAMES:
                self._add_names(file.values, label, owned=name in _OWNED)
            if "sha256" in attributes:
                self._hashes |= {text.lower(): label for text in file.values if len(text) == 64}
            if "x509-fingerprint-sha256" in attributes:
                self._certificates |= {text.lower(): label for text in file.values if len(text) == 64}

    def _add_names(self, texts: Iterable[str], label: int, *, owned: bool) -> None:
        for text in texts:
            name = text.lower().removeprefix("*.").strip(".")
            if not name or "/" in name:
                continue
            if name not in self._names or self._drops[label]:
                self._names[name] = label
            if owned or text.startswith("*."):
                self._owned[name] = label
            parent = name.partition(".")[2]
            while "." in parent and self._drops[label]:
                self._above.setdefault(parent, (name, label))
                parent = parent.partition(".")[2]

    def network(self, at: Span) -> Match | None:
        """Return what knows an address of `at`; one that drops before one that notes."""
        for drop, ranges in ((True, self._dropped_networks), (False, self._noted_networks)):
            label = ranges.touching(at)
            if label is not None:
                return Match(drop, self.titles[label], "touches a network")
        return None

    def sha256(self, value: str) -> Match | None:
        return self._exact(self._hashes, value)

    def certificate(self, value: str) -> Match | None:
        return self._exact(self._certificates, value)

    def domain(self, value: str) -> Match | None:
        """Return what knows the name of a domain entry, a name that it covers, or an owner above it."""
        name = value.removeprefix("=")
        label = self._names.get(name)
        if label is not None:
            return Match(self._drops[label], self.titles[label], "is")
        if not value.startswith("=") and name in self._above:
            below, label = self._above[name]
            return Match(True, self.titles[label], "contains", below)
        parent = name.partition(".")[2]
        while parent:
            label = self._owned.get(parent)
            if label is not None:
                return Match(self._drops[label], self.titles[label], "is part of", parent)
            parent = parent.partition(".")[2]
        return None

    def _exact(self, table: dict[str, int], value: str) -> Match | None:
        label = table.get(value)
        return None if label is None else Match(self._drops[label], self.titles[label], "is")


def installed() -> Path:
    """Return where `pymispwarninglists` keeps its lists; ConfigInvalid when it is not installed."""
    try:
        import pymispwarninglists
    except ImportError:
        raise ConfigInvalid("the warninglists are missing; install pymispwarninglists") from None
    return Path(pymispwarninglists.__file__).parent / "data" / "misp-warninglists" / "lists"


def _files(directory: Path | None, ranks: bool) -> Iterator[tuple[str, _File]]:
    """Yield (name, content) of `*/list.json` as the package has them, or of `*.json`."""
    root = directory or installed()
    found = {path.parent.name: path for path in root.glob("*/list.json")} or {
        path.stem: path for path in root.glob("*.json")
    }
    if not found:
        raise ConfigInvalid(f"{str(root)!r} holds no warninglists; want NAME/list.json or NAME.json")
    for name, path in sorted(found.items()):
        if name in _IGNORED or (name in _RANKS and not ranks):
            continue
        try:
            yield name, msgspec.json.decode(path.read_bytes(), type=_File)
        except msgspec.MsgspecError as error:
            raise ConfigInvalid(f"the warninglist {str(path)!r} cannot be read: {error}") from None


def _is_network(text: str) -> bool:
    try:
        span(text)
    except ValueError:
        return False
    return True
