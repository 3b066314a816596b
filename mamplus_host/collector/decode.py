# SPDX-License-Identifier: Apache-2.0
"""Turns runs of ring records into events, in ring order.

Journey: ring -> [decode] -> lineage -> analyzer.

Every record is returned or told as malformed; decoding touches no file and no clock. Runs
of one kind come from C (`EventRing.drain`), so that one comprehension serves the whole run:
fields that no event needs are skipped by `struct`, and what repeats (names, addresses, ports)
is looked up instead of decoded (twice as fast as a generator that makes each anew).
"""

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from socket import ntohs
from struct import Struct
from typing import TypeVar

from mamplus_host.errors import EventMalformed
from mamplus_host.events import (
    OPERATIONS,
    Address,
    Connect,
    DnsQuery,
    Event,
    Exec,
    Exit,
    File,
    FileAccess,
    Fork,
    Head,
    Packet,
    Tamper,
)
from mamplus_host.kernel import layout
from mamplus_host.verdicts import Verdict

MEMO_ENTRIES = 4096  # of each kind of thing that repeats; a full memo is begun anew
_MAPPED = b"\0" * 10 + b"\xff\xff"
_NO_HASH = bytes(32)
_KIND = Struct(f"={Struct(layout.HEAD.format.partition('HH')[0]).size}xH")  # of a head
_NOT_IN_EVENTS = {"head_size", "head_kind", "head_pad", "family", "pad"}
_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


def decode_batch(
    runs: Iterable[tuple[int, int, bytes]], order: bytes, malformed: Callable[[EventMalformed], object]
) -> list[Event]:
    """Return the events of a batch (`EventRing.drain`) as they came; `malformed` is told of what is no record."""
    made = {kind: iter(_decoded(kind, count, data, malformed)).__next__ for kind, count, data in runs}
    return [event for kind in order if (event := made[kind]()) is not None]


def _decoded(
    kind: int, count: int, data: bytes, malformed: Callable[[EventMalformed], object]
) -> Sequence[Event | None]:
    """Return the events of a run; of one that does not fit each record by itself, None for those that are malformed."""
    try:
        return decode_run(kind, count, data)
    except EventMalformed as error:
        if count == 1:
            malformed(error)
            return [None]
    size = len(data) // count
    pieces = [data[at * size : (at + 1) * size] for at in range(count)]
    return [event for piece in pieces for event in _decoded(kind, 1, piece, malformed)]


def decode_run(kind: int, count: int, data: bytes) -> list[Event]:
    """Return the `count` events of one kind that lie in `data`; EventMalformed when they do not fit."""
    try:
        record, decode = _DECODERS[kind]
    except KeyError:
        raise EventMalformed(f"records of unknown kind {kind}; want one of {sorted(_DECODERS)}") from None
    if count * record.size != len(data):
        raise EventMalformed(f"{count} records of kind {kind} in {len(data)} bytes, want {count * record.size}")
    try:
        return decode(record, data)
    except (LookupError, ValueError) as error:
        raise EventMalformed(f"a record of kind {kind} does not fit: {error}") from None


def decode_record(data: bytes) -> Event:
    """Return the event of one whole record; EventMalformed when it does not fit."""
    return decode_run(_KIND.unpack_from(data)[0], 1, data)[0]


class _Memo(dict[_K, _V]):
    """Remembers what `make` returned, in bounded memory; a hit costs one dictionary look-up."""

    def __init__(self, make: Callable[[_K], _V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: _K) -> _V:
        if len(self) >= MEMO_ENTRIES:
            self.clear()
        value = self[key] = self._make(key)
        return value


def _text_of(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _address_of(raw: bytes) -> Address:
    return IPv4Address(raw[12:]) if raw.startswith(_MAPPED) else IPv6Address(raw)


def _sha256_of(raw: bytes) -> str:
    return "" if raw == _NO_HASH else raw.hex()


_text, _address, _port = _Memo(_text_of), _Memo(_address_of), _Memo(ntohs)
_operation = dict(enumerate(OPERATIONS, 1))
_verdict = tuple(Verdict(number) for number in range(len(Verdict)))


def _needed(record: Struct, names: tuple[str, ...]) -> Struct:
    """Return `record` with the fields that no event has turned into padding."""
    codes = re.findall(r"\d*[a-zA-Z]", record.format)
    kept = (f"{Struct(f'={c}').size}x" if n in _NOT_IN_EVENTS else c for n, c in zip(names, codes, strict=True))
    return Struct("=" + "".join(kept))


# In all of these: time, cgroup, generation, tgid, ppid, uid, slot, flags, verdict, comm are the head.


def _execs(record: Struct, data: bytes, *, is_held: bool = False) -> list[Event]:
    return [
        Exec(
            Head(boot_ns, cgroup, gen, tgid, ppid, uid, slot, flags, _verdict[verdict], _text[comm]),
            File(dev, ino, size, ctime_s, ctime_ns, mode),
            _sha256_of(sha256), _text[path], is_held, waited_ns,
        )
        for boot_ns, cgroup, gen, tgid, ppid, uid, slot, flags, verdict, comm,
            dev, ino, size, ctime_s, ctime_ns, mode, sha256, waited_ns, path in record.iter_unpack(data)
    ]  # fmt: skip


def _helds(record: Struct, data: bytes) -> list[Event]:
    return _execs(record, data, is_held=True)


def _accesses(record: Struct, data: bytes) -> list[Event]:
    return [
        FileAccess(
            Head(boot_ns, cgroup, gen, tgid, ppid, uid, slot, flags, _verdict[verdict], _text[comm]),
            File(dev, ino, size, ctime_s, ctime_ns, mode),
            _sha256_of(sha256), _operation[op], _text[path], waited_ns,
        )
        for boot_ns, cgroup, gen, tgid, ppid, uid, slot, flags, verdict, comm,
            dev, ino, size, ctime_s, ctime_ns, mode, sha256, waited_ns, op, path in record.iter_unpack(data)
    ]  # fmt: skip


def _forks(record: Struct, data: bytes) -> list[Event]:
    return [
        Fork(Head(boot_ns, cgroup, gen, tgid, ppid, uid, slot, flags, _verdict[verdict], _text[comm]), child)
        for boot_ns, cgroup, gen, tgid, ppid, uid, slot, flags, verdict, comm, child in record.iter_unpack(data)
    ]


def _exits(record: Struct, data: bytes) -> list[Event]:
    return [
        Exit(Head(boot_ns, cgroup, gen, tgid, ppid, uid, slot, flags, _verdict[verdict], _text[comm]), code)
        for boot_ns, cgroup, gen, tgid, ppid, uid, slot, flags, verdict, comm, code in record.iter_unpack(data)
    ]


def _connects(record: Struct, data: bytes, *, is_unconnected: bool = False) -> list[Event]:
    return [
        Connect(
            Head(boot_ns, cgroup, gen, tgid, ppid, uid, slot, flags, _verdict[verdict], _text[comm]),
            _address[address], _port[port_be], protocol, is_unconnected,
        )
        for boot_ns, cgroup, gen, tgid, ppid, uid, slot, flags, verdict, comm,
            address, port_be, protocol in record.iter_unpack(data)
    ]  # fmt: skip


def _sendmsgs(record: Struct, data: bytes) -> list[Event]:
    return _connects(record, data, is_unconnected=True)


def _packets(record: Struct, data: bytes) -> list[Event]:
    return [
        Packet(
            Head(boot_ns, cgroup, gen, tgid, ppid, uid, slot, flags, _verdict[verdict], _text[comm]),
            _address[source], _address[destination], _port[sport_be], _port[dport_be], protocol,
        )
        for boot_ns, cgroup, gen, tgid, ppid, uid, slot, flags, verdict, comm,
            source, destination, sport_be, dport_be, protocol in record.iter_unpack(data)
    ]  # fmt: skip


def _queries(record: Struct, data: bytes) -> list[Event]:
    return [
        DnsQuery(
            Head(boot_ns, cgroup, gen, tgid, ppid, uid, slot, flags, _verdict[verdict], _text[comm]),
            _address[server], _text[name],
        )
        for boot_ns, cgroup, gen, tgid, ppid, uid, slot, flags, verdict, comm, server, name in record.iter_unpack(data)
    ]  # fmt: skip


_TAMPER_OPS = {
    getattr(layout, name): name.removeprefix("TAMPER_").lower()
    for name in dir(layout)
    if name.startswith("TAMPER_") and isinstance(getattr(layout, name), int) and name != "TAMPER_BY_KERNEL"
}


def _tampers(record: Struct, data: bytes) -> list[Event]:
    return [
        Tamper(
            Head(boot_ns, cgroup, gen, tgid, ppid, uid, slot, flags, _verdict[verdict], _text[comm]),
            _TAMPER_OPS[op], target, argument,
        )
        for boot_ns, cgroup, gen, tgid, ppid, uid, slot, flags, verdict, comm,
            op, target, argument in record.iter_unpack(data)
    ]  # fmt: skip


_EXEC = _needed(layout.EXEC, layout.EXEC_FIELDS)
_CONNECT = _needed(layout.CONNECT, layout.CONNECT_FIELDS)
_DECODERS: dict[int, tuple[Struct, Callable[[Struct, bytes], list[Event]]]] = {
    layout.KIND_EXEC: (_EXEC, _execs),
    layout.KIND_HELD: (_EXEC, _helds),
    layout.KIND_FILE: (_needed(layout.ACCESS, layout.ACCESS_FIELDS), _accesses),
    layout.KIND_FORK: (_needed(layout.FORK, layout.FORK_FIELDS), _forks),
    layout.KIND_EXIT: (_needed(layout.EXIT, layout.EXIT_FIELDS), _exits),
    layout.KIND_CONNECT: (_CONNECT, _connects),
    layout.KIND_SENDMSG: (_CONNECT, _sendmsgs),
    layout.KIND_PACKET: (_needed(layout.PACKET, layout.PACKET_FIELDS), _packets),
    layout.KIND_DNS: (_needed(layout.DNS, layout.DNS_FIELDS), _queries),
    layout.KIND_TAMPER: (_needed(layout.TAMPER, layout.TAMPER_FIELDS), _tampers),
}
