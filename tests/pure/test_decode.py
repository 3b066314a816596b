# SPDX-License-Identifier: Apache-2.0
"""Records become events field by field, and what does not fit is refused whole."""

from ipaddress import ip_address

import pytest

from mamplus_host.collector.decode import MEMO_ENTRIES, decode_batch, decode_run
from mamplus_host.errors import EventMalformed
from mamplus_host.events import OPERATIONS, Connect, DnsQuery, Exec, Exit, File, FileAccess, Fork, Head, Packet
from mamplus_host.kernel import layout
from mamplus_host.verdicts import Verdict

MAPPED = b"\0" * 10 + b"\xff\xff"
V6 = bytes.fromhex("20010db8" + "00" * 11 + "07")
HEAD = Head(11, 12, 13, 15, 16, 17, 18, 19, Verdict.BLOCK, "na\udcffme")


def head(kind: int, size: int) -> tuple[int | bytes, ...]:
    return (11, 12, 13, size, 15, 16, 17, 18, 19, kind, int(Verdict.BLOCK), 99, b"na\xffme".ljust(16, b"\0"))


@pytest.mark.parametrize(
    ("kind", "record", "fields", "event"),
    [
        (
            layout.KIND_EXEC,
            layout.EXEC,
            (21, 22, 23, -24, 25, 26, b"\xab" * 32, 0, b"/bin/x"),
            Exec(HEAD, File(21, 22, 23, -24, 25, 26), "ab" * 32, "/bin/x"),
        ),
        (
            layout.KIND_HELD,
            layout.EXEC,
            (21, 22, 23, 24, 25, 26, bytes(32), 27, b"./\xfe"),
            Exec(HEAD, File(21, 22, 23, 24, 25, 26), "", "./\udcfe", True, 27),
        ),
        (
            layout.KIND_FILE,
            layout.ACCESS,
            (21, 22, 23, 24, 25, 26, b"\xab" * 32, 27, 2, 99, b"/l/\xfe"),
            FileAccess(HEAD, File(21, 22, 23, 24, 25, 26), "ab" * 32, "map-exec", "/l/\udcfe", 27),
        ),
        (layout.KIND_FORK, layout.FORK, (31, 99), Fork(HEAD, 31)),
        (layout.KIND_EXIT, layout.EXIT, (-9, 99), Exit(HEAD, -9)),
        (
            layout.KIND_CONNECT,
            layout.CONNECT,
            (MAPPED + bytes([203, 0, 113, 7]), 0xBB01, 6, 2, 99),
            Connect(HEAD, ip_address("203.0.113.7"), 443, 6, False),
        ),
        (
            layout.KIND_SENDMSG,
            layout.CONNECT,
            (V6, 0x3500, 17, 10, 99),
            Connect(HEAD, ip_address("2001:db8::7"), 53, 17, True),
        ),
        (
            layout.KIND_PACKET,
            layout.PACKET,
            (V6, MAPPED + bytes([10, 0, 0, 1]), 0x0100, 0x0200, 6, b"xyz"),
            Packet(HEAD, ip_address("2001:db8::7"), ip_address("10.0.0.1"), 1, 2, 6),
        ),
        (layout.KIND_DNS, layout.DNS, (V6, b"bad.example"), DnsQuery(HEAD, ip_address("2001:db8::7"), "bad.example")),
    ],
    ids=["exec", "held", "access", "fork", "exit", "connect", "sendmsg", "packet", "dns"],
)
def test_every_field_arrives_where_it_belongs(
    kind: int, record: object, fields: tuple[object, ...], event: object
) -> None:
    data = record.pack(*head(kind, record.size), *fields)  # type: ignore[attr-defined]

    assert decode_run(kind, 2, data * 2) == [event, event]


def test_more_names_than_are_remembered_are_decoded_all_the_same() -> None:
    count = MEMO_ENTRIES + 10
    records = [
        layout.DNS.pack(*head(layout.KIND_DNS, layout.DNS.size), V6, f"{number}.example".encode())
        for number in range(count)
    ]

    events = decode_run(layout.KIND_DNS, count, b"".join(records))

    assert [event.name for event in events if isinstance(event, DnsQuery)] == [f"{n}.example" for n in range(count)]


def test_an_unknown_kind_is_malformed() -> None:
    with pytest.raises(EventMalformed, match="unknown kind 77"):
        decode_run(77, 1, bytes(96))


def test_a_run_of_another_length_is_malformed() -> None:
    with pytest.raises(EventMalformed, match="2 records of kind 4 in 96 bytes, want 192"):
        decode_run(layout.KIND_CONNECT, 2, bytes(96))


def test_an_operation_that_does_not_exist_is_malformed() -> None:
    values = (*head(layout.KIND_FILE, layout.ACCESS.size), 21, 22, 23, 24, 25, 26, bytes(32), 0, 77, 0, b"/x")

    with pytest.raises(EventMalformed, match="does not fit"):
        decode_run(layout.KIND_FILE, 1, layout.ACCESS.pack(*values))


def test_every_operation_of_the_kernel_has_a_word() -> None:
    numbers = sorted(value for name, value in vars(layout).items() if name.startswith("OP_"))

    assert numbers == list(range(1, len(OPERATIONS) + 1))


def test_a_verdict_that_does_not_exist_is_malformed() -> None:
    wrong = list(head(layout.KIND_EXIT, layout.EXIT.size))
    wrong[10] = 40

    with pytest.raises(EventMalformed, match="does not fit"):
        decode_run(layout.KIND_EXIT, 1, layout.EXIT.pack(*wrong, 0, 0))


def test_events_of_several_kinds_come_in_the_order_of_their_records_without_the_malformed() -> None:
    forks = [layout.FORK.pack(*head(layout.KIND_FORK, layout.FORK.size), child, 0) for child in (1, 2)]
    exits = [layout.EXIT.pack(*head(layout.KIND_EXIT, layout.EXIT.size), code, 0) for code in (1, 2, 3)]
    no_verdict = list(head(layout.KIND_EXIT, layout.EXIT.size))
    no_verdict[10] = 40
    exits[1] = layout.EXIT.pack(*no_verdict, 2, 0)
    runs = [(layout.KIND_FORK, 2, b"".join(forks)), (layout.KIND_EXIT, 3, b"".join(exits)), (0, 1, b"?")]
    order = bytes([layout.KIND_EXIT, layout.KIND_FORK, layout.KIND_EXIT, layout.KIND_FORK, 0, layout.KIND_EXIT])
    told: list[EventMalformed] = []

    events = decode_batch(runs, order, told.append)

    assert events == [Exit(HEAD, 1), Fork(HEAD, 1), Fork(HEAD, 2), Exit(HEAD, 3)]
    assert len(told) == 2
