# SPDX-License-Identifier: Apache-2.0
"""Finds connections and cuts them, and ends: pyroute2 stays out of the service.

Journey: actions/cut -> [sockets_helper] -> kernel.

    python -m mamplus_host.executor.network.sockets_helper look|cut      Order as JSON on stdin, Found on stdout

Sockets are told from one another by the kernel's cookie, so one that was closed meanwhile is not mistaken for
another with its ports. Those of a process are found by their inodes among its descriptors, in the network namespace
that it is in; several may share a socket, and all lose it.
"""

import errno
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from struct import unpack
from typing import Any

import msgspec
from pyroute2 import Conntrack, DiagSocket, netns
from pyroute2.netlink import NETLINK_SOCK_DIAG, NLM_F_ACK, NLM_F_REQUEST
from pyroute2.netlink.diag import SOCK_DESTROY, inet_diag_req
from pyroute2.netlink.exceptions import NetlinkError

from mamplus_host.ble.entry import unmapped
from mamplus_host.errors import ActionFailed, MamplusError
from mamplus_host.executor.network.netfilter import OWN
from mamplus_host.executor.network.sockets import Found, Order, Socket
from mamplus_host.executor.processes.cgroups import members
from mamplus_host.executor.processes.tasks import task

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_PROTOCOLS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
_LISTEN, _TIME_WAIT = 10, 6
_PASSES = 3  # a program may connect while it is cut
_GONE = (errno.ENOENT, errno.ESTALE)


def run(command: str, order: Order) -> Found:
    """Look for the connections, or cut them."""
    found = Found()
    for place, inodes in _places(order):
        _enter(place)
        found = _joined(found, _cut(order, inodes) if command == "cut" else Found(sockets=_meant(order, inodes)))
    return found


def _places(order: Order) -> Iterator[tuple[str, frozenset[int] | None]]:
    """Yield namespaces to look in, with the inodes of the sockets that are meant; None: any."""
    if order.address:
        yield from ((name, None) for name in order.netns)
        return
    by_place: dict[int, tuple[str, set[int]]] = {}
    for tgid in _processes(order):
        with suppress(OSError):  # it has ended
            place = f"/proc/{tgid}/ns/net"
            by_place.setdefault(os.stat(place).st_ino, (place, set()))[1].update(_inodes(tgid))
    for place, inodes in by_place.values():
        yield place, frozenset(inodes)


def _processes(order: Order) -> Iterable[int]:
    if order.app:
        return sorted(members(Path(order.app)) - set(order.spared))
    there = task(order.tgid)
    is_it = there is not None and there.start_ns == order.start_ns and order.tgid not in order.spared
    return [order.tgid] if is_it else []


def _inodes(tgid: int) -> Iterator[int]:
    directory = f"/proc/{tgid}/fd"
    for name in os.listdir(directory):
        with suppress(OSError):
            link = os.readlink(f"{directory}/{name}")
            if link.startswith("socket:["):
                yield int(link[8:-1])


def _enter(place: str) -> None:
    if place == OWN:
        return
    if "/" not in place:
        place = f"/run/netns/{place}"
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        netns.setns(descriptor)
    finally:
        os.close(descriptor)


def _meant(order: Order, inodes: frozenset[int] | None) -> list[Socket]:
    """Return the sockets of this namespace that are to be cut."""
    spared = {inode for tgid in order.spared for inode in _inodes_of(tgid)}
    return [
        one
        for one in _connected()
        if (one.inode in inodes if inodes is not None else _is_with(order, one))
        and one.inode not in spared
        and not _is_never(order, one)
    ]


def _inodes_of(tgid: int) -> list[int]:
    try:
        return list(_inodes(tgid))
    except OSError:
        return []


def _is_with(order: Order, one: Socket) -> bool:
    is_it = unmapped(ip_address(one.destination)) == unmapped(ip_address(order.address))
    return is_it and (not order.port or order.port == one.dport)


def _is_never(order: Order, one: Socket) -> bool:
    there = str(unmapped(ip_address(one.destination)))
    return any(there == address and port in (0, one.dport) for address, port in order.never)


def _connected() -> Iterator[Socket]:
    """Yield the sockets of this namespace that have another end."""
    with DiagSocket() as diag:
        diag.bind()
        for family in _FAMILIES:
            for protocol in _PROTOCOLS:
                for message in diag.get_sock_stats(family=family, protocol=protocol):
                    if "idiag_dst" in message and _has_other_end(message):
                        yield _socket(message, protocol)


def _has_other_end(message: dict[str, Any]) -> bool:
    return bool(message["idiag_dport"]) and message["idiag_state"] not in (_LISTEN, _TIME_WAIT)


def _socket(message: dict[str, Any], protocol: int) -> Socket:
    return Socket(
        family=message["idiag_family"], protocol=protocol, source=message["idiag_src"], sport=message["idiag_sport"],
        destination=message["idiag_dst"], dport=message["idiag_dport"], inode=message["idiag_inode"],
        interface=message["idiag_if"], cookie=message["idiag_cookie"],
    )  # fmt: skip


def _cut(order: Order, inodes: frozenset[int] | None) -> Found:
    cut: dict[int, Socket] = {}
    standing: dict[int, Socket] = {}
    why = ""
    for _pass in range(_PASSES):
        meant = [one for one in _meant(order, inodes) if one.cookie not in standing]
        if not meant:
            break
        for one in meant:
            refused = _destroy(one)
            (standing if refused else cut)[one.cookie] = one
            why = refused or why
    for one in _meant(order, inodes):  # whatever the kernel answered: this one is there yet
        if cut.pop(one.cookie, None):
            standing[one.cookie] = one
            why = why or f"{one.words} is still there"
    everything = [*cut.values(), *standing.values()]
    forgotten = _forget(everything, order)
    tier = "sock_diag" if cut else "conntrack" if forgotten else "none"
    return Found(sockets=everything, standing=list(standing.values()), forgotten=forgotten, tier=tier, why=why)


def _destroy(one: Socket) -> str:
    """Destroy a socket; return why the kernel does not, "" when it is gone."""
    request = inet_diag_req()
    request["sdiag_family"], request["sdiag_protocol"] = one.family, one.protocol
    request["idiag_states"] = 0xFFFFFFFF
    request["idiag_sport"], request["idiag_dport"] = one.sport, one.dport
    request["idiag_src"], request["idiag_dst"] = _words(one.source), _words(one.destination)
    request["idiag_if"], request["idiag_cookie"] = one.interface, one.cookie
    number = _asked(request)
    if not number or number in _GONE:
        return ""
    if number == errno.EOPNOTSUPP:
        return "this kernel does not destroy sockets (CONFIG_INET_DIAG_DESTROY)"
    return f"{one.words}: {os.strerror(number)}"


def _asked(request: inet_diag_req) -> int:
    """Send one request, and return the errno of the kernel's answer.

    Not through DiagSocket: it takes every answer for a socket, also NLMSG_ERROR (their numbers are the same).
    """
    request["header"]["type"], request["header"]["flags"] = SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK
    request.encode()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as raw:
        raw.bind((0, 0))
        raw.send(bytes(request.data))
        answer = raw.recv(8192)
    return -int(unpack("=i", answer[16:20])[0])


def _words(address: str) -> tuple[int, ...]:
    packed = ip_address(address).packed
    found = unpack(f">{len(packed) // 4}I", packed)
    return (*found, *(0,) * (4 - len(found)))


def _forget(cut: list[Socket], order: Order) -> int:
    """Delete what conntrack knows of the connections, with a host all that is forwarded, too; return how many."""
    ends = {(one.protocol, _plain(one.source), one.sport, _plain(one.destination), one.dport) for one in cut}
    forgotten = 0
    try:
        for family in _FAMILIES:
            with Conntrack(nfgen_family=family) as table:
                for entry in list(table.dump_entries()):
                    if _is_cut(entry, ends, order):
                        with suppress(NetlinkError):  # it has ended by itself
                            table.delete(entry)
                            forgotten += 1
    except (NetlinkError, OSError):
        return forgotten  # no connection tracking here
    return forgotten


def _is_cut(entry: Any, ends: set[tuple[int, str, int, str, int]], order: Order) -> bool:
    one = entry.tuple_orig
    there, back = (str(one.saddr), one.sport), (str(one.daddr), one.dport)
    if (one.proto, *there, *back) in ends or (one.proto, *back, *there) in ends:
        return True
    if not order.address:
        return False
    wanted = str(unmapped(ip_address(order.address)))
    ends_of_it = (there, back)
    if any(end[0] == address and port in (0, end[1]) for address, port in order.never for end in ends_of_it):
        return False
    return any(end[0] == wanted and order.port in (0, end[1]) for end in (there, back))


def _plain(address: str) -> str:
    return str(unmapped(ip_address(address)))


def _joined(one: Found, other: Found) -> Found:
    tiers = [tier for tier in ("sock_diag", "conntrack", "none") if tier in (one.tier, other.tier)]
    return Found(
        sockets=one.sockets + other.sockets, standing=one.standing + other.standing,
        forgotten=one.forgotten + other.forgotten, why=one.why or other.why, tier=tiers[0] if tiers else "",
    )  # fmt: skip


def main() -> int:
    if sys.argv[1:] not in (["look"], ["cut"]):
        print("usage: sockets_helper look|cut", file=sys.stderr)
        return 2
    try:
        order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
        sys.stdout.buffer.write(msgspec.json.encode(run(sys.argv[1], order)))
    except (MamplusError, OSError, NetlinkError) as error:
        print(ActionFailed(f"cannot {sys.argv[1]} connections: {error}"), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
