# SPDX-License-Identifier: Apache-2.0
"""One entry of the BLE, its kinds, and the one canonical spelling of each kind's values.

Both sides use this module: the enterprise to accept what an administrator types,
the device to look up what a probe saw. Values are canonical past `canonical`.
"""

import re
from collections.abc import Callable
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import msgspec

from mamplus_host.ble.accounts import canonical_group, canonical_user
from mamplus_host.ble.domains import canonical_domain
from mamplus_host.ble.paths import canonical_path
from mamplus_host.ble.rules import canonical_sigma, canonical_yara
from mamplus_host.ble.usb import canonical_usb
from mamplus_host.ble.versions import canonical_package
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import Severity, Verdict

MAX_TEXT_BYTES = 4096  # reason, message, source, link: each
PROTOCOLS = {"tcp": 6, "udp": 17}  # IPPROTO_
MAX_VALUE_BYTES = 60_000  # a rule's text; other values are far shorter
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Kind(IntEnum):
    """Entry kinds; the numbers are on disk, so they are never renumbered or reused."""

    SHA256 = 1
    IP = 2
    CIDR = 3
    DOMAIN = 4
    PATH = 5
    PORT = 6
    PACKAGE = 7
    USER = 8
    GROUP = 9
    USB = 10
    TLS = 11
    YARA = 12
    SIGMA = 13


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the list. Text fields are shown to people and never matched on."""

    id: int  # unique within an enterprise, 1 to 2**63 - 1; stays with the entry through generations
    kind: Kind
    value: str  # canonical, see `canonical`
    verdict: Verdict  # ALLOW, BLOCK or SUSPECT
    severity: Severity = Severity.HIGH
    confidence: int = 100  # 0-100
    valid_until: int = 0  # seconds since the epoch; 0: no end
    source: str = ""  # feed or administrator
    reason: str = ""  # for administrators
    message: str = ""  # shown to the person who carries the device
    link: str = ""


KIND_NAMES = tuple(kind.name.lower() for kind in Kind)
EXAMPLES = (  # of what a person types, for help texts
    "As 203.0.113.7:443/tcp, 203.0.113.0/24, 53/udp, bad.example, /usr/bin/nc, /home/*/.cache/**, deb:openssl<3.0.11,"
    " eve, uid:1001, 0781:5581:SERIAL, or a SHA-256."
)


def parse_kind(text: str) -> Kind:
    """Return the kind named `text` (any case); ConfigInvalid lists the names."""
    try:
        return Kind[text.strip().upper()]
    except KeyError:
        raise ConfigInvalid(f"unknown kind {text!r}; want one of: {', '.join(KIND_NAMES)}") from None


def canonical(kind: Kind, text: str) -> str:
    """Return the one spelling of `text` under which `kind` is stored and looked up.

    sha256: 64 lower-case hex digits. ip: compressed, IPv4-mapped IPv6 as IPv4. cidr:
    network address with zero host bits. domain: lower case, IDNA A-labels, no trailing dot;
    a leading `=` means the name alone, without its sub-domains (domains.py). port: 443 or
    443/tcp. tls: SHA-256 of the certificate, as sha256. An ip or cidr may end in `:PORT`,
    `:PORT/tcp` or `:*/udp`; IPv6 stands in brackets then. Paths and patterns: paths.py; packages:
    versions.py; users and groups: accounts.py; USB devices: usb.py; YARA and Sigma: rules.py.

    Raises ConfigInvalid, naming what was seen and what was wanted.
    """
    return _CANONICAL[kind](text.strip())


def _sha256(text: str) -> str:
    value = text.lower()
    if not _SHA256.fullmatch(value):
        raise ConfigInvalid(f"{text!r} is no SHA-256; want 64 hex digits, as printed by sha256sum")
    return value


def unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return `address`, as IPv4 where it is IPv4-mapped IPv6."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped if mapped is not None else address


def _tls(text: str) -> str:
    """Take what openssl prints, too: `sha256 Fingerprint=AA:BB:...`."""
    return _sha256(text.rpartition("=")[2].replace(":", ""))


def _qualified(text: str, what: Callable[[str], str]) -> str:
    """Return address or network and port; `what` makes the first canonical."""
    where, mark, qualifier = _parted(text)
    if not mark:
        return what(text)
    where, qualifier = what(where), _qualifier(qualifier)
    if what is _cidr and where.endswith("/128" if ":" in where else "/32"):
        host = where.rpartition("/")[0]
        spelled = f"[{host}]:{qualifier}" if ":" in host else f"{host}:{qualifier}"
        raise ConfigInvalid(f"{text!r} is one host; want kind ip: {spelled}")
    if where == "::/0" and qualifier[0] != "*":
        raise ConfigInvalid(f"{text!r} is every address; want kind port (both families), or [2000::/3]:PORT (IPv6)")
    return f"[{where}]:{qualifier}" if ":" in where else f"{where}:{qualifier}"


def _parted(text: str) -> tuple[str, str, str]:
    if text.startswith("["):
        return text[1:].partition("]:")
    return text.partition(":") if text.count(":") == 1 else (text, "", "")


def _qualifier(text: str) -> str:
    port, _, protocol = text.lower().partition("/")
    if port == "*" and protocol in PROTOCOLS:
        return f"*/{protocol}"
    return _port(text)


def _port(text: str) -> str:
    port, slash, protocol = text.lower().partition("/")
    is_port = port.isascii() and port.isdigit() and len(port) <= 8 and 1 <= int(port) <= 65535
    if not is_port or (slash and protocol not in PROTOCOLS):
        raise ConfigInvalid(f"{text!r} is no port; want 1 to 65535, or with a protocol like 443/tcp or 53/udp")
    return f"{int(port)}{slash}{protocol}"


def _ip(text: str) -> str:
    try:
        if "%" in text:
            raise ValueError("a zone index is one machine's: the list is for all of them")
        return str(unmapped(ip_address(text)))
    except ValueError:
        raise ConfigInvalid(f"{text!r} is no IP address; want one like 203.0.113.7 or 2001:db8::7") from None


def _cidr(text: str) -> str:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ConfigInvalid(f"{text!r} is no network; want one like 203.0.113.0/24 or 2001:db8::/32") from None
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None and network.prefixlen >= 96:
        return str(IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96)))
    return str(network)


_CANONICAL: dict[Kind, Callable[[str], str]] = {
    Kind.SHA256: _sha256, Kind.IP: lambda text: _qualified(text, _ip),
    Kind.CIDR: lambda text: _qualified(text, _cidr), Kind.DOMAIN: canonical_domain, Kind.PORT: _port, Kind.TLS: _tls,
    Kind.PATH: canonical_path, Kind.PACKAGE: canonical_package, Kind.USER: canonical_user,
    Kind.GROUP: canonical_group, Kind.USB: canonical_usb, Kind.YARA: canonical_yara, Kind.SIGMA: canonical_sigma,
}  # fmt: skip


def address_key(text: str) -> bytes:
    """Return the 16 bytes under which a canonical address is stored: IPv6, IPv4 as ::ffff:a.b.c.d."""
    address = ip_address(text)
    packed = address.packed
    return packed if len(packed) == 16 else b"\0" * 10 + b"\xff\xff" + packed


def cidr_key(text: str) -> tuple[int, bytes]:
    """Return (prefix length 0-128, 16 bytes) of a canonical network; an IPv4 /n is 96 + n."""
    network = ip_network(text)
    offset = 96 if isinstance(network, IPv4Network) else 0
    return network.prefixlen + offset, address_key(str(network.network_address))
