# SPDX-License-Identifier: Apache-2.0
"""STIX 2.1 bundles: indicators whose pattern is one observable, or several joined by OR.

A pattern that needs two things at once, an order or a time cannot be said in the list; it is dropped with that
reason. Patterns are read by `stix2patterns` (ANTLR, milliseconds each); the commonest form, one comparison
with `=`, is recognized before, as feeds hold hundreds of thousands of those.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from mamplus_enterprise.ble.feeds.found import Dropped, Found
from mamplus_enterprise.ble.feeds.text import end_of
from mamplus_host.ble.entry import Kind
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import Verdict

_SIMPLE = re.compile(r"\[\s*([a-z0-9-]+):([a-zA-Z0-9_.'\"-]+)\s*=\s*'((?:[^'\\]|\\['\\])*)'\s*\]")
_PATHS: dict[tuple[str, str], Kind | None] = {
    ("ipv4-addr", "value"): Kind.IP, ("ipv6-addr", "value"): Kind.IP, ("domain-name", "value"): Kind.DOMAIN,
    ("url", "value"): None, ("file", "hashes.SHA-256"): Kind.SHA256, ("artifact", "hashes.SHA-256"): Kind.SHA256,
    ("x509-certificate", "hashes.SHA-256"): Kind.TLS, ("network-traffic", "dst_ref.value"): Kind.IP,
    ("network-traffic", "dst_port"): Kind.PORT,
}  # fmt: skip
_SPELLINGS = {"hashes.SHA256": "hashes.SHA-256", "hashes.sha256": "hashes.SHA-256", "hashes.sha-256": "hashes.SHA-256"}


Observable = tuple[Kind | None, str]  # None: a URL
Comparison = tuple[str, str, str, Any]  # type, path, operator, operand


class _Reference(msgspec.Struct):
    url: str = ""


class Indicator(msgspec.Struct):
    """The fields of an object that matter here; objects of other types leave most of them empty."""

    type: str
    id: str = ""
    pattern: str = ""
    pattern_type: str = "stix"
    name: str = ""
    description: str = ""
    valid_until: str = ""
    confidence: int = -1
    revoked: bool = False
    indicator_types: list[str] = []
    external_references: list[_Reference] = []


class _Bundle(msgspec.Struct):
    type: str = ""  # a page that a TAXII server answers with has none
    objects: list[msgspec.Raw] = []
    more: bool = False  # it has more pages


def document(data: bytes) -> Iterator[tuple[int, str, list[Found | Dropped] | None]]:
    """Yield (number, name, what became of it) for each object; None: it is no indicator. ConfigInvalid: no bundle.

    Taken as well: a page of a TAXII server, and objects alone, in a list.
    """
    bundle = _read(data)
    if bundle.more:
        yield 0, "more", [Dropped("page", "the server has more pages: import them, too, without --replace")]
    for number, raw in enumerate(bundle.objects, 1):
        try:
            one = msgspec.json.decode(raw, type=Indicator)
        except (msgspec.MsgspecError, RecursionError) as error:  # that one is damaged; the others are not
            yield number, "", [Dropped("malformed", f"the object cannot be read: {error}")]
            continue
        if one.type != "indicator":
            yield number, one.type, None
            continue
        try:
            yield number, one.pattern, indicator(one)
        except Dropped as why:
            yield number, one.pattern, [why]


def _read(data: bytes) -> _Bundle:
    try:
        read = msgspec.json.decode(data, type=_Bundle | list[msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ConfigInvalid(f"the file is no STIX bundle: {error}") from None
    bundle = _Bundle(objects=read) if isinstance(read, list) else read
    if bundle.type != "bundle" and (bundle.type or not bundle.objects):
        raise ConfigInvalid(f"the file holds a STIX {bundle.type!r}, want a bundle")
    return bundle


def indicator(one: Indicator) -> list[Found | Dropped]:
    """Return the values of an indicator, and what of it no entry can say; Dropped says why it has none at all."""
    if one.revoked:
        raise Dropped("revoked", f"{one.id} was revoked")
    if "benign" in one.indicator_types:
        raise Dropped("benign", f"{one.id} says that it is benign")
    if one.pattern_type != "stix":
        raise Dropped("pattern", f"the pattern is in {one.pattern_type!r}, want stix")
    link = next((reference.url for reference in one.external_references if reference.url), "")
    until = end_of(one.valid_until)
    verdict = Verdict.SUSPECT if one.indicator_types == ["anomalous-activity"] else None
    confidence = one.confidence if 0 <= one.confidence <= 100 else -1
    reason = one.name or one.description[:200]
    return [
        part if isinstance(part, Dropped) else Found(part[1], part[0], verdict, confidence, until, reason, link)
        for part in observables(one.pattern)
    ]


def observables(pattern: str) -> list[Observable | Dropped]:
    """Return the values that a pattern matches one by one; Dropped when it means anything else."""
    simple = _SIMPLE.fullmatch(pattern.strip())
    if simple is not None:
        kind_name, path, text = simple.groups()
        return [_observable(kind_name, path.replace("'", "").replace('"', ""), re.sub(r"\\(.)", r"\1", text))]
    return _parsed(pattern)


def _parsed(pattern: str) -> list[Observable | Dropped]:
    from stix2patterns.v21.pattern import ParseException, Pattern

    try:
        inspected = Pattern(pattern).inspect()
    except (ParseException, RecursionError) as error:
        raise Dropped("pattern", f"the pattern cannot be read: {error}") from None
    if inspected.qualifiers:
        raise Dropped("pattern", f"the pattern is about times ({min(inspected.qualifiers)}); an entry is not")
    if needed := inspected.observation_ops - {"OR"}:
        raise Dropped("pattern", f"the pattern needs {min(needed)}: several things at once")
    comparisons = [
        (name, ".".join(str(step) if isinstance(step, str | int) else "*" for step in path), operator, operand)
        for name, group in inspected.comparisons.items()
        for path, operator, operand in group
    ]
    words = set(re.findall(r"\b(?:AND|OR|EXISTS)\b", re.sub(r"'(?:[^'\\]|\\.)*'", "''", pattern)))
    if "EXISTS" in words:  # what the inspector does not tell of
        raise Dropped("pattern", "the pattern asks whether something EXISTS: an entry cannot say it")
    if "AND" in words:
        return [_conjunction(comparisons, mixed="OR" in words)]
    return [part for comparison in comparisons for part in _alternatives(*comparison)]


def _conjunction(comparisons: list[Comparison], *, mixed: bool) -> Observable:
    """Return what one entry can say of things that must all be so: an address and its port, a file by its hashes."""
    parts = {(name, _SPELLINGS.get(path, path)): _text(operand) for name, path, operator, operand in comparisons}
    if mixed or len(parts) != len(comparisons) or any(operator != "=" for _, _, operator, _ in comparisons):
        raise Dropped("pattern", "the pattern needs AND with more than equal values: an entry cannot say it")
    address, port = parts.get(("network-traffic", "dst_ref.value")), parts.get(("network-traffic", "dst_port"))
    if address and port and len(parts) == 2:
        return Kind.IP, f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    if ("file", "hashes.SHA-256") in parts and all(name == "file" and "hashes." in path for name, path in parts):
        return Kind.SHA256, parts["file", "hashes.SHA-256"]  # the other hashes of that file say nothing more
    raise Dropped("pattern", "the pattern needs AND: several things at once")


def _alternatives(name: str, path: str, operator: str, operand: Any) -> list[Observable | Dropped]:
    """Return each value that suffices by itself. One that no entry can say leaves the others as they are."""
    try:
        found = [_observable(name, path, value) for value in _operands(operator, operand)]
        if any(kind is Kind.PORT for kind, _ in found):
            raise Dropped("pattern", "the pattern is a port of every address")
    except Dropped as why:
        return [why]
    return list(found)


def _operands(operator: str, operand: Any) -> list[str]:
    if operator in ("=", "ISSUBSET"):
        return [_text(operand)]
    if operator == "IN":
        return [_text(literal) for literal in re.findall(r"'(?:[^'\\]|\\.)*'", str(operand))]
    raise Dropped("pattern", f"the comparison {operator} is no list of values")


def _text(operand: Any) -> str:
    """Return an operand as text; the inspector gives literals as they are written, in quotes."""
    text = str(operand)
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text[:1] == "'" and text[-1:] == "'" else text


def _observable(name: str, path: str, value: str) -> Observable:
    place = (name, _SPELLINGS.get(path, path))
    if place not in _PATHS:
        code = "hash" if path.startswith("hashes.") else "pattern"
        raise Dropped(code, f"no entry is about {name}:{path}")
    kind = _PATHS[place]
    return (Kind.CIDR if kind is Kind.IP and "/" in value else kind), value
