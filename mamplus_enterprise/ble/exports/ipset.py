# SPDX-License-Identifier: Apache-2.0
"""ipset: `ipset restore -exist < FILE` fills mamplus-allowport4, -port4, -block4 and those for IPv6.

Rules of your own ask them in this order: ACCEPT what the first has, DROP what the others have. A member that is an
exception (`nomatch`) is decided otherwise than the network around it; the longest prefix decides.
"""

from collections.abc import Iterable, Iterator

from mamplus_enterprise.ble.exports.common import NETWORK, About, address
from mamplus_enterprise.ble.exports.decided import Decisions, Prefix, Sort, changing, text_of
from mamplus_host.ble.entry import PROTOCOLS, Entry
from mamplus_host.verdicts import Verdict

_LEAST = 65_536  # members a set has room for, at least
_FAMILY = {4: "inet", 6: "inet6"}
_OTHER = {Verdict.BLOCK: Verdict.ALLOW, Verdict.ALLOW: Verdict.BLOCK}


def lines(entries: Iterable[Entry], about: About) -> Iterator[str]:
    decisions = Decisions()
    for entry in entries:
        why = _why_left(entry)
        if why is None:
            decisions.add(entry)
        else:
            about.leave(entry, why)
    yield f"# {about.title()}"
    for name, members in _sets(decisions).items():
        sort = "hash:net" if name.startswith("block") else "hash:net,port"
        room = max(_LEAST, 2 * len(members))
        yield f"create mamplus-{name} {sort} family {_FAMILY[int(name[-1])]} maxelem {room}"
        yield f"flush mamplus-{name}"
        yield from (f"add mamplus-{name} {member}" for member in members)


def _why_left(entry: Entry) -> str | None:
    """Return why no set can say it, "" where its kind tells; None: one can."""
    if entry.verdict not in _OTHER:
        return "suspect"
    if entry.kind not in NETWORK:
        return ""
    _where, _version, protocol, port = address(entry)
    return "protocol without port" if protocol and not port else None


def _sets(decisions: Decisions) -> dict[str, list[str]]:
    """Return the members of each set; what is allowed on every port is no exception but within what is blocked."""
    sets: dict[str, list[str]] = {
        f"{name}{version}": [] for name in ("allowport", "port", "block") for version in _FAMILY
    }
    for sort in decisions.sorts():
        prefixes = decisions.prefixes(sort)
        if not sort.port:
            sets[f"block{sort.version}"] += _members(sort, prefixes, Verdict.BLOCK)
            continue
        for name, verdict in (("allowport", Verdict.ALLOW), ("port", Verdict.BLOCK)):
            sets[f"{name}{sort.version}"] += _members(sort, prefixes, verdict)
    return sets


def _members(sort: Sort, prefixes: Iterable[Prefix], verdict: Verdict) -> Iterator[str]:
    """Yield the members of a set of what has this verdict."""
    ports = [f",{one}:{sort.port}" for one in ([sort.protocol] if sort.protocol else PROTOCOLS)] if sort.port else [""]
    for one in changing(prefixes, _OTHER[verdict]):
        exception = "" if one.verdict is verdict else " nomatch"
        for where in _taken(sort.version, one):
            yield from (f"{where}{port}{exception}" for port in ports)


def _taken(version: int, one: Prefix) -> Iterator[str]:
    """Yield the prefix, as its two halves where it is every address: a set takes no /0."""
    where = text_of(version, one.first, one.last)
    if not where.endswith("/0"):
        yield where
    else:
        middle = (one.last + 1) // 2
        yield text_of(version, 0, middle - 1)
        yield text_of(version, middle, one.last)
