# SPDX-License-Identifier: Apache-2.0
"""What the tasks of a cgroup use at this moment: their programs and the other ends of their sockets.

Journey: /proc -> [in use] -> recent.

One walk over the cgroup's tasks, and one look at each network namespace's socket tables: what nothing reports
(the kernel tells only of what it refuses). Bounded in tasks, descriptors and lines; whoever ends meanwhile is left out.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mamplus_host.collector.sockets import inet_sockets_of, socket_inodes

MAX_TASKS = 2048
_SILENT = ("listen", "time-wait", "syn-sent")  # nobody is, or has answered, at the other end


class Peer(msgspec.Struct, frozen=True):
    """The other end of a socket."""

    address: str
    port: int  # 0 where the socket is a server's: its client's port means nothing
    protocol: str  # tcp, udp
    by: str  # path of the program that holds it, else the name that the task picked


def tasks(cgroup: Path) -> list[int]:
    """Return the processes in `cgroup` and below, at most MAX_TASKS."""
    found: list[int] = []
    for folder, _below, _files in os.walk(cgroup):
        try:
            found += map(int, (Path(folder) / "cgroup.procs").read_text().split())
        except OSError:
            continue  # removed meanwhile
        if len(found) >= MAX_TASKS:
            break
    return found[:MAX_TASKS]


def peers(tgids: list[int]) -> Iterator[Peer]:
    """Yield the other ends of the internet sockets of `tgids`."""
    for holder, inodes in _by_namespace(tgids).values():
        sockets = list(inet_sockets_of(holder, set(inodes)))
        servers = {(one.proto, one.local.rpartition(":")[2]) for _inode, one in sockets if one.state == "listen"}
        for inode, one in sockets:
            address, port = _parted(one.remote)
            if port and one.state not in _SILENT:
                is_server = (one.proto, one.local.rpartition(":")[2]) in servers
                yield Peer(address, 0 if is_server else port, one.proto[:3], inodes[inode])


def _by_namespace(tgids: list[int]) -> dict[str, tuple[int, dict[bytes, str]]]:
    """Return for each network namespace one of its processes, and the socket inodes with who holds each."""
    found: dict[str, tuple[int, dict[bytes, str]]] = {}
    for tgid in tgids:
        inodes = socket_inodes(tgid)
        if not inodes:
            continue
        try:
            namespace = os.readlink(f"/proc/{tgid}/ns/net")
            by = _program(tgid)
        except OSError:
            continue  # ended meanwhile
        found.setdefault(namespace, (tgid, {}))[1].update(dict.fromkeys(inodes, by))
    return found


def _program(tgid: int) -> str:
    try:
        return os.readlink(f"/proc/{tgid}/exe")
    except OSError:
        return Path(f"/proc/{tgid}/comm").read_text(errors="replace").strip()


def _parted(endpoint: str) -> tuple[str, int]:
    address, _, port = endpoint.rpartition(":")
    return address.strip("[]"), int(port)
