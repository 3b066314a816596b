# SPDX-License-Identifier: Apache-2.0
"""Addresses, networks and ports as the list keys them: one shape for all of them.

    203.0.113.7   203.0.113.7:443   203.0.113.7:443/tcp   203.0.113.7:*/udp   203.0.113.0/24:53/udp
    2001:db8::7   [2001:db8::7]:443   [2001:db8::/32]:*/tcp   443   443/tcp

IPv4 stands in its IPv4-mapped form, a prefix of n bits as 96 + n.
"""

from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from mamplus_host.ble.entry import PROTOCOLS, Kind, address_key, cidr_key
from mamplus_host.errors import ConfigInvalid

_NAMES = {number: name for name, number in PROTOCOLS.items()}
_EVERYWHERE = bytes(16)


class Endpoint(NamedTuple):
    """What an entry about addresses means; most specific where nothing is 0."""

    addr: bytes  # 16 bytes, network order, host bits 0
    prefix: int  # 0-128
    protocol: int = 0  # IPPROTO_TCP, IPPROTO_UDP, 0: every
    port: int = 0  # 1-65535, 0: every


def endpoint(kind: Kind, value: str) -> Endpoint:
    """Return the key of a canonical ip, cidr or port value; ConfigInvalid when it is none."""
    if kind is Kind.PORT:
        return Endpoint(_EVERYWHERE, 0, *_qualifier(value))
    where, qualifier = split(value)
    protocol, port = _qualifier(qualifier) if qualifier else (0, 0)
    if kind is Kind.IP:
        return Endpoint(address_key(where), 128, protocol, port)
    prefix, addr = cidr_key(where)
    return Endpoint(addr, prefix, protocol, port)


def split(value: str) -> tuple[str, str]:
    """Return (address or network, what follows its colon) of `value`; the latter may be empty."""
    if value.startswith("["):
        where, _, rest = value[1:].partition("]")
        return where, rest.removeprefix(":")
    if value.count(":") == 1:
        where, _, rest = value.partition(":")
        return where, rest
    return value, ""


def _qualifier(text: str) -> tuple[int, int]:
    port, _, protocol = text.partition("/")
    try:
        number = 0 if port == "*" else int(port)
        return PROTOCOLS[protocol] if protocol else 0, number
    except (KeyError, ValueError):
        raise ConfigInvalid(f"{text!r} is no port; want one like 443, 443/tcp or */udp") from None


def endpoint_value(at: Endpoint) -> tuple[Kind, str]:
    """Return kind and canonical value that `endpoint` reads as `at`."""
    qualifier = str(at.port or "*") + (f"/{_NAMES[at.protocol]}" if at.protocol else "")
    is_qualified = bool(at.port or at.protocol)
    if at.prefix == 0 and at.port:
        return Kind.PORT, qualifier
    is_v4 = at.addr[:12] == bytes(10) + b"\xff\xff" and at.prefix >= 96
    address = str(IPv4Address(at.addr[12:]) if is_v4 else IPv6Address(at.addr))
    kind = Kind.IP if at.prefix == 128 and is_qualified else Kind.CIDR
    where = address if kind is Kind.IP else f"{address}/{at.prefix - 96 if is_v4 else at.prefix}"
    if not is_qualified:
        return kind, where
    return kind, f"{where}:{qualifier}" if is_v4 else f"[{where}]:{qualifier}"
