# SPDX-License-Identifier: Apache-2.0
"""From a value as a feed wrote it to canonical values: kinds are seen, ranges split, URLs reduced to hosts.

Reports write addresses so that nobody follows them by a click (hxxp://bad[.]example): they are read as meant.
"""

import re
import socket
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, summarize_address_range
from urllib.parse import urlsplit

from mamplus_enterprise.ble.feeds.found import Dropped
from mamplus_host.ble.endpoint import split
from mamplus_host.ble.entry import Kind, canonical

MAX_NETWORKS = 64  # that one range may fall into; an odd range of 2^31 addresses makes 62
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_HEX = re.compile(r"[0-9a-fA-F]+")
_DOT, _COLON = re.compile(r"\[\.\]|\(\.\)|\{\.\}|\[dot\]|\(dot\)", re.IGNORECASE), re.compile(r"\[(:|://)\]")
_HOST_PORT = re.compile(r"[^:/\[\]]+:\d{1,5}")
_CLICKED = (None, Kind.IP, Kind.CIDR, Kind.DOMAIN)  # kinds that people take the click out of
_DEFAULT_PORTS = {"http": 80, "https": 443, "ftp": 21}
Pair = tuple[Kind, str]


def looks_like_address(text: str) -> bool:
    """Whether `text` is an address, network or range, by its form alone."""
    return bool(text) and (text[0].isdigit() or ":" in text or text[0] == "[") and kind_of(text) in (Kind.IP, Kind.CIDR)


def kind_of(text: str) -> Kind | None:
    """Return the kind that `text` looks like; None for a URL."""
    if is_address(text):
        return Kind.IP
    if _SHA256.fullmatch(text):
        return Kind.SHA256
    if "://" in text:
        return None
    if is_address(split(text)[0]):
        return Kind.IP
    first, slash, rest = text.partition("/")
    if slash and is_address(first.strip("[")):
        return Kind.CIDR
    if _range_ends(text):
        return Kind.CIDR
    return None if (slash and rest) or _HOST_PORT.fullmatch(text) else Kind.DOMAIN


def _meant(text: str) -> str:
    """Return an address as it was before somebody took the click out of it."""
    text = _COLON.sub(r"\1", _DOT.sub(".", text))
    return f"http{text[4:]}" if text[:4].lower() == "hxxp" else text


def _is_ipv4(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET, text)
    except (OSError, UnicodeError, ValueError):
        return False
    return True


def is_address(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, UnicodeError, ValueError):  # ValueError: a NUL within
        return False
    return True


def canonical_values(text: str, kind: Kind | None) -> Iterator[tuple[Kind, str, bool]]:
    """Yield (kind, canonical value, whether a URL named it as its host) for all that `text` means.

    Dropped or ConfigInvalid says why it means nothing.
    """
    if kind in (None, Kind.IP) and _is_ipv4(text):  # the commonest by far, and canonical when it is one
        yield Kind.IP, text, False
        return
    if kind in _CLICKED:
        text = _meant(text)
    seen = kind or kind_of(text)
    if kind is None and seen is Kind.DOMAIN and len(text) in (32, 40, 128) and _HEX.fullmatch(text):
        raise Dropped("hash", f"a hash of {len(text)} hex digits names no program here; want SHA-256")
    if seen is None:
        yield (*from_url(text), True)
    elif seen in (Kind.IP, Kind.CIDR) and (ends := _range_ends(text)):
        yield from ((*pair, False) for pair in _networks(*ends))
    else:
        yield (*settled(seen, canonical(seen, text)), False)


def settled(kind: Kind, value: str) -> Pair:
    """Return what `kind` and `value` are stored as: a network of one address is that address."""
    if kind is not Kind.CIDR:
        return kind, value
    where, qualifier = split(value)
    address, _, prefix = where.partition("/")
    if prefix != ("128" if ":" in address else "32"):
        return kind, value
    if not qualifier:
        return Kind.IP, address
    return Kind.IP, f"[{address}]:{qualifier}" if ":" in address else f"{address}:{qualifier}"


def from_url(text: str) -> Pair:
    """Return what to block for a URL: its host, and only the port when the host is an address."""
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise Dropped("malformed", f"{text[:80]!r} is no URL") from None
    if not is_address(host):
        return Kind.DOMAIN, canonical(Kind.DOMAIN, host)
    port = port or _DEFAULT_PORTS.get(parts.scheme.lower(), 0)
    where = f"[{host}]" if ":" in host else host
    return Kind.IP, canonical(Kind.IP, f"{where}:{port}/tcp" if port else host)


def _range_ends(text: str) -> tuple[str, str] | None:
    first, dash, last = text.partition("-")
    first, last = first.strip(), last.strip()
    return (first, last) if dash and is_address(first) and is_address(last) else None


def _networks(first: str, last: str) -> Iterator[Pair]:
    start, end = ip_address(first), ip_address(last)
    if start.version != end.version or int(start) > int(end):
        raise Dropped("malformed", f"{first}-{last} is no range: want the lower address first")
    networks = list[IPv4Network | IPv6Network](summarize_address_range(start, end))
    if len(networks) > MAX_NETWORKS:
        raise Dropped("wide", f"{first}-{last} makes {len(networks)} networks, want at most {MAX_NETWORKS}")
    for network in networks:
        yield settled(Kind.CIDR, str(network))
