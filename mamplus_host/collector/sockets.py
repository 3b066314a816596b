# SPDX-License-Identifier: Apache-2.0
"""Which internet sockets a process holds: a fact for the analyzer, evidence for people.

Journey: /proc -> [sockets] -> analyzer (is this program network-facing?) and evidence.

Joins the socket inodes in /proc/PID/fd with /proc/PID/net/{tcp,tcp6,udp,udp6}, so the
process's own network namespace is asked. A process without sockets costs one directory.
"""

import os
import socket
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

MAX_DESCRIPTORS = 4096  # looked at per process
MAX_LINES = 65_536  # looked at per table
_TABLES = ("tcp", "tcp6", "udp", "udp6")
_STATES = (
    "", "established", "syn-sent", "syn-recv", "fin-wait-1", "fin-wait-2", "time-wait",
    "close", "close-wait", "last-ack", "listen", "closing", "new-syn-recv",
)  # fmt: skip


class Socket(msgspec.Struct, frozen=True):
    """One internet socket as the kernel shows it."""

    proto: str  # tcp, tcp6, udp, udp6
    local: str  # address:port, IPv6 in brackets
    remote: str  # port 0 while not connected
    state: str  # as in ss(8); "close" for an unconnected UDP socket


def inet_sockets(tgid: int, limit: int = 64) -> list[Socket]:
    """Return at most `limit` internet sockets of `tgid`; none when it has ended or may not be looked at."""
    inodes = socket_inodes(tgid)
    return [entry for _inode, entry in islice(inet_sockets_of(tgid, inodes), limit)]


def inet_sockets_of(tgid: int, inodes: set[bytes]) -> Iterator[tuple[bytes, Socket]]:
    """Yield (inode, socket) for each of `inodes` that is an internet socket in the network namespace of `tgid`."""
    for proto in _TABLES if inodes else ():
        yield from _table(tgid, proto, inodes)


def socket_inodes(tgid: int) -> set[bytes]:
    """Return the inodes of the sockets that `tgid` holds, of every family; none when it may not be looked at."""
    inodes = set()
    try:
        names = os.listdir(f"/proc/{tgid}/fd")[:MAX_DESCRIPTORS]
    except OSError:
        return set()
    for name in names:
        try:
            target = os.readlink(f"/proc/{tgid}/fd/{name}")
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            inodes.add(target[8:-1].encode())
    return inodes


def _table(tgid: int, proto: str, inodes: set[bytes]) -> Iterator[tuple[bytes, Socket]]:
    """Yield the sockets of one table whose inode is in `inodes`, after it."""
    try:
        with Path(f"/proc/{tgid}/net/{proto}").open("rb") as file:
            next(file, None)
            for _number, line in zip(range(MAX_LINES), file, strict=False):
                fields = line.split()
                if len(fields) > 9 and fields[9] in inodes:
                    yield fields[9], Socket(proto, _endpoint(fields[1]), _endpoint(fields[2]), _state(fields[3]))
    except OSError:
        return  # the process ended, or this kernel has no IPv6


def _endpoint(field: bytes) -> str:
    """Return "address:port" of the kernel's hex words, which are in host byte order."""
    words, _, port = field.partition(b":")
    packed = b"".join(struct.pack("=I", int(words[at : at + 8], 16)) for at in range(0, len(words), 8))
    text = socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
    return f"[{text}]:{int(port, 16)}" if ":" in text else f"{text}:{int(port, 16)}"


def _state(field: bytes) -> str:
    number = int(field, 16)
    return _STATES[number] if number < len(_STATES) else f"state-{number}"
