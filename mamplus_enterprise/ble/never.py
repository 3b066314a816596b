# SPDX-License-Identifier: Apache-2.0
"""What no import may block: the enterprise itself, and what its policy adds.

Devices hold the same set above the list (mamplus_host/ble/guard.py); an entry about it would be
overruled there, so here it is not even taken.

    the enterprise's address    `init --url`, where it was served, the names of its certificate
    the policy                  never_block.addresses, never_block.names and actions.spared.programs
    what every device needs     the programs of mamplus_host/ble/guarded.py
    DIR/never-block.txt         one address, network or name a line; `#` begins a comment
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from mamplus_enterprise import policy
from mamplus_enterprise.ble.ranges import Ranges, Span, span
from mamplus_enterprise.home import Home
from mamplus_host.ble import guarded
from mamplus_host.ble.endpoint import split
from mamplus_host.ble.entry import Kind, canonical
from mamplus_host.ble.paths import is_pattern, pattern
from mamplus_host.errors import ConfigInvalid


class Never:
    """The set; `why` of each value is where it comes from."""

    def __init__(
        self,
        values: Iterator[tuple[str, str]] | Sequence[tuple[str, str]] = (),
        *,
        programs: Sequence[str] = (),
    ) -> None:
        """`programs`: paths that the policy spares."""
        self._programs = tuple(canonical(Kind.PATH, path) for path in programs)
        self.names: dict[str, str] = {}
        self._origins: list[str] = []
        networks: list[tuple[str, int]] = []
        for text, why in values:
            if name := _name(text):
                self.names[name] = why
            elif network := _network(text):
                networks.append((network, len(self._origins)))
                self._origins.append(why)
            else:
                raise ConfigInvalid(f"{why}: {text!r} is no address, network or DNS name")
        self._networks = Ranges(networks)

    def network(self, at: Span) -> str | None:
        """Return where the protected address comes from that `at` touches."""
        label = self._networks.touching(at)
        return None if label is None else self._origins[label]

    def program(self, value: str) -> str | None:
        """Return what a path entry would refuse that no device can do without; None for nothing."""
        if covered := guarded.covered(value):
            return guarded.why(covered)
        matches = pattern(value).fullmatch if is_pattern(value) else value.__eq__
        spared = next((path for path in self._programs if matches(path)), None)
        return f"actions.spared.programs of the policy names {spared}" if spared else None

    def domain(self, value: str) -> str | None:
        """Return where the protected name comes from that a domain entry covers."""
        name = value.removeprefix("=")
        for protected, why in self.names.items():
            if name == protected or (not value.startswith("=") and protected.endswith("." + name)):
                return why
        return None


def never(home: Home) -> Never:
    """Return the set of the enterprise `home`; ConfigInvalid when a line of never-block.txt is none."""
    named = [*_own(home), *_of_policy(home), *_of_file(home.dir / "never-block.txt")]
    return Never(named, programs=policy.current(home).actions.spared.programs)


def _own(home: Home) -> Iterator[tuple[str, str]]:
    host = urlsplit(home.url).hostname or ""
    hosts = [host, *_certified(home.certificate)]
    for text in dict.fromkeys(hosts):
        if _name(text) or _network(text):  # a name without a dot can be in no list
            yield text, "the enterprise's own address"


def _certified(path: Path) -> list[str]:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def _of_policy(home: Home) -> Iterator[tuple[str, str]]:
    said = policy.current(home).never_block
    for text in (*said.addresses, *said.names):
        yield text, "never_block of the policy"


def _of_file(path: Path) -> Iterator[tuple[str, str]]:
    if not path.exists():
        return
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ConfigInvalid(f"{str(path)!r} is not in UTF-8; convert it, as by iconv -t UTF-8") from None
    for number, line in enumerate(lines, 1):
        if text := line.partition("#")[0].strip():
            yield text, f"line {number} of {path.name}"


def _name(text: str) -> str:
    try:
        return canonical(Kind.DOMAIN, text)
    except ConfigInvalid:
        return ""


def _network(text: str) -> str:
    """Return `text` without its port, when it is an address or network."""
    try:
        where = split(text)[0]
        return where if span(where) else ""
    except ValueError:
        return ""
