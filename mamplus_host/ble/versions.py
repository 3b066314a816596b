# SPDX-License-Identifier: Apache-2.0
"""Packages and ranges of their versions, as dpkg and rpm order them.

    deb:openssl                       every version
    deb:openssl=3.0.9-1               this one
    deb:openssl<3.0.11-1~deb12u2      also <=, >, >=
    rpm:openssl>=1:3.0,<1:3.0.7-24    both ends: the lower one first

A bound of rpm without a release takes every release: `<=3.0` covers 3.0-5, `<3.0` and `>3.0` do not. Debian's
order is total: a version without a revision is one with revision 0. The order itself is in C:
kernel_probes/native/value_version.c.
"""

import re
from typing import NamedTuple

from mamplus_host.ble._file import lib
from mamplus_host.errors import ConfigInvalid

_WANT = "want one like deb:openssl<3.0.11-1~deb12u2, rpm:openssl>=1:3.0,<1:3.0.7-24 or deb:openssl"
_SCHEMES = {"deb": 1, "rpm": 2}  # enum mamplus_version_scheme
_PACKAGE = re.compile(r"(?P<scheme>deb|rpm):(?P<name>[A-Za-z0-9_][A-Za-z0-9_.+-]*)(?P<range>[<>=].*)?", re.ASCII)
_BOUND = re.compile(r"(?P<operator><=|>=|<<|>>|=|<|>)(?P<version>.+)", re.DOTALL)
_VERSIONS = {
    "deb": re.compile(r"(?:(?P<epoch>\d{1,9}):)?(?P<rest>\d[A-Za-z0-9.+~:-]*)", re.ASCII),
    "rpm": re.compile(
        r"(?:(?P<epoch>\d{1,9}):)?(?P<rest>[A-Za-z0-9][A-Za-z0-9._+~^]*(?:-[A-Za-z0-9._+~^]+)?)", re.ASCII
    ),
}
_DEB_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]+")
MAX_NAME_CHARS, MAX_VERSION_CHARS = 200, 200


class Bound(NamedTuple):
    operator: str  # < <= = >= >
    version: str


class Package(NamedTuple):
    """A canonical value, taken apart."""

    scheme: str  # deb, rpm
    name: str
    bounds: tuple[Bound, ...]  # none: every version; two: the lower end first


def version_order(scheme: str, one: str, two: str) -> int:
    """Return -1, 0 or 1 as `one` is older than, level with or newer than `two`; `scheme` is deb or rpm."""
    first, second = one.encode(), two.encode()
    return int(lib.mamplus_version_order(_SCHEMES[scheme], first, len(first), second, len(second)))


def canonical_package(text: str) -> str:
    """Return the one spelling of a package and its range of versions; ConfigInvalid when it is none."""
    match = _PACKAGE.fullmatch("".join(text.split()))
    if match is None:
        raise ConfigInvalid(f"{text!r} is no package; {_WANT}")
    scheme = match["scheme"]
    name = _name(scheme, match["name"], text)
    bounds = [_bound(scheme, part, text) for part in match["range"].split(",")] if match["range"] else []
    return f"{scheme}:{name}" + ",".join(bound.operator + bound.version for bound in _in_order(scheme, bounds, text))


def package_of(value: str) -> Package:
    """Take a canonical value apart."""
    match = _PACKAGE.fullmatch(value)
    assert match is not None
    bounds = match["range"].split(",") if match["range"] else []
    parts = [_BOUND.fullmatch(bound) for bound in bounds]
    return Package(
        match["scheme"], match["name"], tuple(Bound(part["operator"], part["version"]) for part in parts if part)
    )


def covers(entry: Package, asked: Package) -> bool:
    """Say whether everything that `asked` names (one version, or the same range) is within `entry`; names are equal."""
    if not entry.bounds or entry.bounds == asked.bounds:
        return True
    if len(asked.bounds) != 1 or asked.bounds[0].operator != "=":
        return False
    return all(_is_within(entry.scheme, asked.bounds[0].version, bound) for bound in entry.bounds)


def narrowness(package: Package) -> int:
    """Return what orders entries about one package: one version, then two ends, then one, then none."""
    return 3 if any(bound.operator == "=" for bound in package.bounds) else len(package.bounds)


def _is_within(scheme: str, version: str, bound: Bound) -> bool:
    order = version_order(scheme, version, bound.version)
    return {"<": order < 0, "<=": order <= 0, "=": order == 0, ">=": order >= 0, ">": order > 0}[bound.operator]


def _name(scheme: str, name: str, text: str) -> str:
    if len(name) > MAX_NAME_CHARS:
        raise ConfigInvalid(f"{text[:40]!r} names a package of {len(name)} characters, want at most {MAX_NAME_CHARS}")
    if scheme == "rpm":
        return name
    if not _DEB_NAME.fullmatch(name.lower()):
        raise ConfigInvalid(f"{text!r}: {name!r} is no Debian package; {_WANT}")
    return name.lower()


def _bound(scheme: str, text: str, whole: str) -> Bound:
    match = _BOUND.fullmatch(text)
    version = _VERSIONS[scheme].fullmatch(match["version"]) if match else None
    if match is None or version is None or len(match["version"]) > MAX_VERSION_CHARS or version["rest"][-1] == "-":
        raise ConfigInvalid(f"{whole!r}: {text!r} is no range of {scheme} versions; {_WANT}")
    if scheme == "deb" and ":" in version["rest"] and not version["epoch"]:
        raise ConfigInvalid(f"{whole!r}: {text!r} has no epoch before its colon; {_WANT}")
    epoch = int(version["epoch"] or 0)
    spelled = f"{epoch}:{version['rest']}" if epoch or ":" in version["rest"] else version["rest"]
    return Bound({"<<": "<", ">>": ">"}.get(match["operator"], match["operator"]), spelled)


def _in_order(scheme: str, bounds: list[Bound], text: str) -> list[Bound]:
    """Return the bounds, lower end first; ConfigInvalid when they are no range or hold nothing."""
    if len(bounds) <= 1:
        return bounds
    ends = sorted(bounds, key=lambda bound: bound.operator[0] != ">")
    if len(ends) > 2 or ends[0].operator[0] != ">" or ends[1].operator[0] != "<":
        raise ConfigInvalid(f"{text!r} is no range; want one bound, or a lower and an upper one; {_WANT}")
    order = version_order(scheme, ends[0].version, ends[1].version)
    if order > 0 or (order == 0 and (ends[0].operator, ends[1].operator) != (">=", "<=")):
        raise ConfigInvalid(f"{text!r} holds no version: {ends[0].version!r} is not below {ends[1].version!r}; {_WANT}")
    return [Bound("=", ends[0].version)] if order == 0 and ends[0].version == ends[1].version else ends
