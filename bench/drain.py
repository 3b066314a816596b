# SPDX-License-Identifier: Apache-2.0
"""How fast events are drained: our ring reader and decoder against BCC's Python ring buffer reader.

Both read the same ring, filled by the same BPF program with the same records while nobody
reads; what is timed is the drain of a full ring, and every record must arrive. Our side ends
with `Event` objects: addresses and text. BCC's side is measured with callbacks that read five
fields, as BCC's own tools do; that make the same `Event` objects; and that do nothing at all.
"""

import argparse
import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bcc

from bench import report
from mamplus_host.collector.decode import decode_batch, decode_run
from mamplus_host.kernel import layout
from mamplus_host.kernel.bpf import Fd
from mamplus_host.kernel.headers import kernel_headers
from mamplus_host.kernel.ring import EventRing

INCLUDE = Path(__file__).parents[1] / "kernel_probes/include"
RING_PAGES = layout.EVENTS_BYTES // 4096  # as large as the agent's own
RECORD_BYTES = layout.CONNECT.size + 8  # with the ring's header
PRODUCER = """
#include "mamplus_events.h"
BPF_RINGBUF_OUTPUT(events, %(pages)d);
BPF_ARRAY(serial, u32, 1);

int produce(struct __sk_buff *skb)
{
	int zero = 0;
	u32 *count = serial.lookup(&zero);
	struct mamplus_connect event = {};

	if (!count)
		return 0;
	*count += 1;
	event.head.boot_ns = bpf_ktime_get_ns();
	event.head.size = sizeof(event);
	event.head.tgid = 1000 + *count %% 16;
	event.head.slot = MAMPLUS_NO_SLOT;
	event.head.kind = MAMPLUS_KIND_CONNECT;
	__builtin_memcpy(event.head.comm, "producer", 9);
	event.addr[10] = event.addr[11] = 0xff;
	event.addr[12] = 10;
	event.addr[13] = (*count %% %(addresses)d) >> 16;
	event.addr[14] = (*count %% %(addresses)d) >> 8;
	event.addr[15] = *count %% %(addresses)d;
	event.port_be = 0xbb01;
	event.protocol = 6;
	event.family = 2;
	return events.ringbuf_output(&event, sizeof(event), BPF_RB_NO_WAKEUP);
}
"""


class TestRun(ctypes.Structure):
    """`struct bpf_test_run_opts` of libbpf, up to `repeat`."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
    )


class ConnectRecord(ctypes.Structure):
    """`struct mamplus_connect`, as a user of BCC writes it down: its `event()` knows no nested structs."""

    _fields_ = (
        ("boot_ns", ctypes.c_ulonglong),
        ("cgroup_id", ctypes.c_ulonglong),
        ("generation", ctypes.c_ulonglong),
        ("size", ctypes.c_uint),
        ("tgid", ctypes.c_uint),
        ("ppid", ctypes.c_uint),
        ("uid", ctypes.c_uint),
        ("slot", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("kind", ctypes.c_ushort),
        ("verdict", ctypes.c_ushort),
        ("pad", ctypes.c_uint),
        ("comm", ctypes.c_char * 16),
        ("addr", ctypes.c_ubyte * 16),
        ("port_be", ctypes.c_ushort),
        ("protocol", ctypes.c_ubyte),
        ("family", ctypes.c_ubyte),
        ("pad2", ctypes.c_uint),
    )


_RECORD = ctypes.POINTER(ConnectRecord)


class Ring:
    """One ring, its producer, and its readers. Each reader returns the number of events that it made."""

    def __init__(self, addresses: int) -> None:
        source = PRODUCER % {"pages": RING_PAGES, "addresses": addresses}
        self._bpf = bcc.BPF(text=source, cflags=[f"-I{INCLUDE}"])
        self._program = self._bpf.load_func("produce", bcc.BPF.SOCKET_FILTER)
        self._libbpf = ctypes.CDLL("libbpf.so.1")
        self._table = self._bpf["events"]
        self._seen = 0
        self._callback: Callable[[Any], object] = lambda _data: None
        self._table.open_ring_buffer(self._on_record)
        self._ours = EventRing(Fd(self._table.map_fd), None)

    def fill(self, count: int) -> None:
        """Put `count` records into the ring; a program run by test_run returns what the output helper said."""
        packet = ctypes.create_string_buffer(64)
        run = TestRun(ctypes.sizeof(TestRun), ctypes.addressof(packet), None, len(packet), repeat=count)
        error = self._libbpf.bpf_prog_test_run_opts(self._program.fd, ctypes.byref(run))
        if error or run.retval:
            raise SystemExit(f"the producer failed: {error}, {run.retval:#x}")

    def by_mamplus(self) -> int:
        made = 0
        while batch := self._ours.drain():
            made += len(decode_batch(*batch, print))
        return made

    def by_bcc_fields(self) -> int:
        """As BCC's tools do: a cast, and the fields that they print."""
        return self._by_bcc(lambda data: _fields(ctypes.cast(data, _RECORD).contents))

    def by_bcc_events(self) -> int:
        """What we make, too: the decoder of ours called for each record."""
        size = layout.CONNECT.size
        return self._by_bcc(lambda data: decode_run(layout.KIND_CONNECT, 1, ctypes.string_at(data, size)))

    def by_bcc_alone(self) -> int:
        return self._by_bcc(lambda _data: None)

    def _by_bcc(self, callback: Callable[[Any], object]) -> int:
        self._seen, self._callback = 0, callback
        self._bpf.ring_buffer_consume()
        return self._seen

    def _on_record(self, _ctx: Any, data: Any, _size: int) -> None:
        self._callback(data)
        self._seen += 1


def _fields(event: Any) -> tuple[Any, ...]:
    return event.boot_ns, event.tgid, event.comm, bytes(event.addr), event.port_be


def rate(ring: Ring, read: Callable[[], int], count: int) -> float:
    """Return millions of events drained in a second; every record produced must arrive."""
    ring.fill(count)
    begin_ns = time.perf_counter_ns()
    read_count = read()
    took_ns = time.perf_counter_ns() - begin_ns
    if read_count != count:
        raise SystemExit(f"{count} records were produced, {read_count} arrived")
    return count / took_ns * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--addresses", type=int, default=1024, help="distinct addresses in the records")
    arguments = parser.parse_args()
    with kernel_headers():
        ring = Ring(arguments.addresses)
    count = layout.EVENTS_BYTES // RECORD_BYTES - 1
    readers = {
        "mamplus, events": ring.by_mamplus,
        "bcc, cast and five fields": ring.by_bcc_fields,
        "bcc, our events": ring.by_bcc_events,
        "bcc, empty callback": ring.by_bcc_alone,
    }
    values: dict[str, list[float]] = {name: [] for name in readers}
    for number in report.progress(range(arguments.rounds), "drain", arguments.rounds):
        first = number % len(readers)
        for name, read in [*readers.items()][first:] + [*readers.items()][:first]:
            values[name].append(rate(ring, read, count))
    report.write(
        "drain",
        title="events drained from a full ring without loss",
        unit="million/s",
        values=values,
        peer="bcc, our events",
        records=count,
        addresses=arguments.addresses,
    )


if __name__ == "__main__":
    main()
