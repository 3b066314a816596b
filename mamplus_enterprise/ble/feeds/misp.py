# SPDX-License-Identifier: Apache-2.0
"""MISP JSON: an event, a list of events, a search's answer, or attributes alone. Attributes with `to_ids` count."""

from collections.abc import Iterator
from typing import Any

import msgspec

from mamplus_enterprise.ble.feeds.found import Dropped, Found
from mamplus_host.ble.entry import PROTOCOLS, Kind
from mamplus_host.errors import ConfigInvalid

# type -> (which part of a value split at "|", kind; None: a URL); several parts make several entries.
_TYPES: dict[str, tuple[tuple[int, Kind | None], ...]] = {
    "ip-dst": ((0, Kind.IP),), "ip-src": ((0, Kind.IP),), "domain": ((0, Kind.DOMAIN),),
    "hostname": ((0, Kind.DOMAIN),), "domain|ip": ((0, Kind.DOMAIN), (1, Kind.IP)),
    "hostname|port": ((0, Kind.DOMAIN),), "sha256": ((0, Kind.SHA256),), "filename|sha256": ((-1, Kind.SHA256),),
    "url": ((0, None),), "uri": ((0, None),), "x509-fingerprint-sha256": ((0, Kind.TLS),),
}  # fmt: skip
_WITH_PORT = frozenset({"ip-dst|port", "ip-src|port"})
PROTOCOL_TAG = "mamplus:protocol"  # MISP's ports have none, so it is a machine tag: mamplus:protocol="udp"
_PROTOCOLS = {f'{PROTOCOL_TAG}="{name}"': f"/{name}" for name in PROTOCOLS}


class Attribute(msgspec.Struct):
    type: str
    value: str
    to_ids: bool | int | str = False  # old exports write "1"
    deleted: bool | int | str = False
    comment: str = ""
    Tag: Any = ()
    event: str = ""  # ours: the info of its event
    fault: str = ""  # ours: why it cannot be read


def document(data: bytes) -> Iterator[tuple[int, str, list[Found | Dropped] | None]]:
    """Yield (number, value, what became of it) for each attribute. ConfigInvalid when the file is no MISP JSON."""
    try:
        read = msgspec.json.decode(data)
        for number, one in enumerate(_attributes(read), 1):
            yield number, f"{one.type} {one.value}", _taken(one)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ConfigInvalid(f"the file is no MISP JSON: {error}") from None


def _taken(one: Attribute) -> list[Found | Dropped]:
    if one.fault:
        return [Dropped("malformed", f"the attribute cannot be read: {one.fault}")]
    if _is(one.deleted):
        return [Dropped("revoked", "the attribute was deleted")]
    if not _is(one.to_ids):
        return [Dropped("to_ids", "to_ids is not set: its author does not want it to be detected")]
    reason = ", ".join(filter(None, (one.comment, one.event)))[:1000]
    parts = one.value.split("|") if "|" in one.type else [one.value]  # a file's name and a URL may hold one, too
    if one.type in _WITH_PORT and len(parts) == 2:
        address = f"[{parts[0]}]" if ":" in parts[0] else parts[0]
        kind = Kind.CIDR if "/" in address else Kind.IP
        return [Found(f"{address}:{parts[1]}{_protocol(one.Tag)}", kind, reason=reason)]
    if one.type not in _TYPES:
        code = "hash" if one.type.rpartition("|")[2] in _HASHES else "unsupported"
        return [Dropped(code, f"no entry is a {one.type!r}")]
    return [_found(parts, place, kind, reason) for place, kind in _TYPES[one.type]]


def _protocol(tags: Any) -> str:
    """Return the protocol that our own export named, as it stands behind a port."""
    names = (tag.get("name") for tag in tags if isinstance(tag, dict)) if isinstance(tags, list) else ()
    return next((_PROTOCOLS[name] for name in names if isinstance(name, str) and name in _PROTOCOLS), "")


_HASHES = frozenset({"md5", "sha1", "sha224", "sha384", "sha512", "imphash", "ssdeep", "tlsh"})


def _found(parts: list[str], place: int, kind: Kind | None, reason: str) -> Found:
    text = parts[place] if place < len(parts) else ""
    return Found(text, Kind.CIDR if kind is Kind.IP and "/" in text else kind, reason=reason)


def _is(flag: bool | int | str) -> bool:
    return flag in (True, 1, "1", "true")


def _attributes(read: Any, info: str = "") -> Iterator[Attribute]:
    """Walk the shapes that MISP exports."""
    if isinstance(read, list):
        for one in read:
            yield from _attributes(one, info)
    elif isinstance(read, dict):
        if "type" in read and "value" in read:
            try:
                attribute = msgspec.convert(read, Attribute, strict=False)
                attribute.event = info
            except msgspec.ValidationError as error:  # that one is no attribute; the others are
                attribute = Attribute(type=str(read["type"])[:64], value=str(read["value"])[:200], fault=str(error))
            yield attribute
        info = str(read.get("info", info))
        for name in ("response", "Event", "Attribute", "Object"):
            yield from _attributes(read.get(name, ()), info)
