# SPDX-License-Identifier: Apache-2.0
"""ipset: `ipset restore -exist < FILE` fills mamplus-block4, -block6, -port4 and -port6; use them in rules of your own.

An allowed network is an exception (`nomatch`) of the sets of the same sort.
"""

from collections.abc import Iterable, Iterator

from mamplus_enterprise.ble.exports.common import NETWORK, About, address
from mamplus_host.ble.entry import Entry
from mamplus_host.verdicts import Verdict

_LEAST = 65_536  # members a set has room for, at least
_FAMILY = {4: "inet", 6: "inet6"}


def lines(entries: Iterable[Entry], about: About) -> Iterator[str]:
    sets: dict[str, list[str]] = {f"{sort}{version}": [] for sort in ("block", "port") for version in _FAMILY}
    for entry in entries:
        if entry.kind not in NETWORK or entry.verdict is Verdict.SUSPECT:
            about.leave(entry, "suspect" if entry.verdict is Verdict.SUSPECT else "")
            continue
        where, version, protocol, port = address(entry)
        exception = " nomatch" if entry.verdict is Verdict.ALLOW else ""
        if protocol and not port:
            about.leave(entry, "protocol without port")
        elif where.endswith("/0"):
            about.leave(entry, "every address")
        elif port:
            for one in [protocol] if protocol else ["tcp", "udp"]:
                sets[f"port{version}"].append(f"{where},{one}:{port}{exception}")
        else:
            sets[f"block{version}"].append(f"{where}{exception}")
    yield f"# {about.title()}"
    for name, members in sets.items():
        sort = "hash:net" if name.startswith("block") else "hash:net,port"
        room = max(_LEAST, 2 * len(members))
        yield f"create mamplus-{name} {sort} family {_FAMILY[int(name[-1])]} maxelem {room}"
        yield f"flush mamplus-{name}"
        yield from (f"add mamplus-{name} {member}" for member in members)
